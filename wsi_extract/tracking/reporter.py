"""Reports a run to MLflow when it is a job that has a run there, beside whatever else it is reported to.

Settings, versions and the state of the run; a handful of numbers every `EVERY_S`; the documents of a finished data set.
Nothing per patch, and nothing from workers. The server may be slow, down or wrong: that costs one warning, and at the
end a wait: `END_S` at most, and where it does not answer `PATIENCE_SHARE` of the run's own time, so that a short run is
not kept by a server that hangs. Times are seconds (``_s``) of `time.monotonic`.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import wsi_extract
from wsi_extract.config import LOCATION_FIELDS, RunConfig
from wsi_extract.disk.files import pretty_json, sha256_of
from wsi_extract.extraction import Reporter, RunPlan
from wsi_extract.finish import Finished
from wsi_extract.gather import Inputs
from wsi_extract.model import Fault
from wsi_extract.pace import Pace
from wsi_extract.preflight import run_key
from wsi_extract.state.layout import COMPLETE, DASK_REPORT, ERRORS, MANIFEST, SLIDES_TABLE
from wsi_extract.tracking.background import BackgroundSender
from wsi_extract.tracking.mlflow_run import MlflowRun, presentable

EVERY_S = 15.0
END_S = 30.0
"""How long the end of a run may take longer because of the server."""
FAILED_END_S = 10.0
INTERRUPTED_END_S = 3.0
"""Who has interrupted a run waits, or kills it."""
PATIENCE_SHARE = 0.1
LEAST_PATIENCE_S = 5.0
MANIFEST_SUMMARY = "manifest-summary.json"
STATUS = "extraction_status"
COUNTED = {
    "extract": ("patches_written", "patches_per_s"),
    "label": ("patches_labelled", "patches_labelled_per_s"),
    "pixels": ("chunks_written", "chunks_per_s"),
}
"""By stage: the names of the numbers of what is done, and of its speed."""


@contextmanager
def open_tracker(reporter: Reporter, config: RunConfig, *, environ: Mapping[str, str]) -> Iterator[Reporter]:
    """Yield whom to report a run to: ``reporter`` itself, or one that also reports to the MLflow run of the job.

    The end of the block is the end of the run: what is in the output folder then is stored with the MLflow run. So
    the block encloses that of the executor, which writes its report when it is closed.

    Parameters
    ----------
    environ
        Environment: a job has ``MLFLOW_RUN_ID``, and ``MLFLOW_TRACKING_URI``, which mlflow reads itself. Without the
        address mlflow would look for the run in a database in the working directory, and make one.
    """
    run_id = environ.get("MLFLOW_RUN_ID", "")
    if not (run_id and environ.get("MLFLOW_TRACKING_URI")) or find_spec("mlflow") is None:
        yield reporter
        return
    sender = BackgroundSender(
        partial(MlflowRun, run_id),
        on_trouble=lambda reason: reporter.warn(
            f"MLflow did not take all that this run reports; the data set is not affected. {presentable(reason)}"
        ),
    )
    tracker = TrackingReporter(reporter, sender=sender, config=config)
    try:
        yield tracker
    except BaseException as error:
        tracker.end_failed(error)
        raise
    tracker.end_well()


class TrackingReporter:
    """Passes everything on to another reporter, and the numbers among it to MLflow."""

    def __init__(
        self,
        reporter: Reporter,
        *,
        sender: BackgroundSender[MlflowRun],
        config: RunConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporter = reporter
        self._sender = sender
        self._config = config
        self._clock = clock
        self._stage = ""
        self._n_done = self._n_kept = self._n_slides = self._n_failed = 0
        self._began_s = self._sent_s = clock()
        self._pace = Pace(self._sent_s)
        self._finished: Finished | None = None
        # The job may have been started again, under the same id.
        sender.send(lambda run: run.set_tags({STATUS: "running", "error": "none"}))
        sender.send(lambda run: run.log_params(_facts_of_start(config)))

    def begin(self, stage: str, *, total: int, unit: str, started_s: float | None = None) -> None:
        """Count from zero."""
        self._stage, self._n_done, self._n_kept = stage, 0, 0
        self._pace = Pace(self._clock() if started_s is None else started_s)
        self._reporter.begin(stage, total=total, unit=unit, started_s=started_s)

    def advance(self, n_units: int) -> None:
        """Count, and send the numbers when it is time."""
        self._n_done += n_units
        self._send_numbers()
        self._reporter.advance(n_units)

    def keep(self, n_units: int) -> None:
        """Count what was there already."""
        self._n_kept += n_units
        self._n_done += n_units
        self._reporter.keep(n_units)

    def count_slides(self, n_done: int, *, total: int) -> None:
        """Note what the numbers are drawn over."""
        self._n_slides = n_done
        self._reporter.count_slides(n_done, total=total)

    def take_up(self, slide_id: str) -> None:
        """Pass it on."""
        self._reporter.take_up(slide_id)

    def put_down(self, slide_id: str) -> None:
        """Pass it on."""
        self._reporter.put_down(slide_id)

    def show_dashboard(self, link: str | None) -> None:
        """Leave the address with the run."""
        tags = {"dashboard": link or "none", "dashboard_host": platform.node()}
        self._sender.send(lambda run: run.set_tags(tags))
        self._reporter.show_dashboard(link)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._reporter.note(text)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._reporter.warn(text)

    def fail(self, fault: Fault) -> None:
        """Count a slide that failed."""
        self._n_failed += 1
        self._reporter.fail(fault)

    def end(self) -> None:
        """Send the numbers of the stage that ends."""
        self._send_numbers(at_once=True)
        self._reporter.end()

    def show_kept(self, n_kept: int, *, unit: str) -> None:
        """Pass it on."""
        self._reporter.show_kept(n_kept, unit=unit)

    def show_inputs(self, inputs: Inputs) -> None:
        """Send how many slides there are."""
        self._send_metrics({"slides_found": len(inputs.entries), "slides_planned": len(inputs.planned)}, step=0)
        self._reporter.show_inputs(inputs)

    def show_plan(self, plan: RunPlan) -> None:
        """Send how many patches there are."""
        self._send_metrics({"patches_planned": plan.n_patches}, step=0)
        self._reporter.show_plan(plan)

    def show_finished(self, finished: Finished, *, inputs: Inputs, seconds: float) -> None:
        """Send what was written."""
        self._finished = finished
        n_good = sum(outcome.fault is None for outcome in finished.outcomes.values())
        self._send_metrics(_facts_of_end(finished, n_good=n_good, seconds=seconds), step=n_good)
        self._reporter.show_finished(finished, inputs=inputs, seconds=seconds)

    def _send_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        time_ms = time.time_ns() // 1_000_000
        self._sender.send(lambda run: run.log_metrics(metrics, step=step, time_ms=time_ms))

    def _send_numbers(self, *, at_once: bool = False) -> None:
        """Send how far the stage is; numbers that were not sent in time are replaced by newer ones."""
        now_s = self._clock()
        if self._stage not in COUNTED or (now_s - self._sent_s < EVERY_S and not at_once):
            return
        self._sent_s = now_s
        done, speed = COUNTED[self._stage]
        n_new, step, time_ms = self._n_done - self._n_kept, self._n_slides, time.time_ns() // 1_000_000
        metrics = {
            "slides_done": self._n_slides,
            "slides_failed": self._n_failed,
            done: self._n_done,
            speed: self._pace.per_s(now_s, n_new),
        }
        self._pace.mark(now_s, n_new)
        self._sender.send_latest(lambda run: run.log_metrics(metrics, step=step, time_ms=time_ms))

    def end_failed(self, error: BaseException) -> None:
        """Leave word of a run that did not come to its end."""
        interrupted = isinstance(error, KeyboardInterrupt)
        status, budget_s = ("interrupted", INTERRUPTED_END_S) if interrupted else ("failed", FAILED_END_S)
        tags = {STATUS: status, "error": f"{type(error).__name__}: {error}".rstrip(": ")}
        self._sender.send(lambda run: run.set_tags(tags))
        self._close(budget_s)

    def end_well(self) -> None:
        """Leave the result of a run that came to its end, and its documents."""
        finished = self._finished
        if finished is None:
            self._sender.send(lambda run: run.set_tags({STATUS: "dry run"}))
            self._close(FAILED_END_S)
            return
        tags = {
            STATUS: "partial" if finished.faults else COMPLETE,
            "content_sha256": finished.content_sha256,
            "slides_failed": str(len(finished.faults)),
        }
        self._sender.send(lambda run: run.set_tags(tags))
        for name in (SLIDES_TABLE, ERRORS, DASK_REPORT):
            self._sender.send(partial(_log_if_there, path=self._config.output_dir / name))
        manifest = self._config.output_dir / MANIFEST
        self._sender.send(partial(_log_manifest, path=manifest))
        self._sender.send(partial(_log_versions, path=manifest))
        self._close(END_S)

    def _close(self, budget_s: float) -> None:
        self._sender.close(budget_s=budget_s, patience_s=patience_after(self._clock() - self._began_s))


def patience_after(ran_s: float) -> float:
    """Return how many seconds the end of a run that lasted ``ran_s`` waits for a single answer.

    >>> patience_after(10), patience_after(120), patience_after(3600)
    (5.0, 12.0, 30.0)
    """
    return min(END_S, max(LEAST_PATIENCE_S, PATIENCE_SHARE * ran_s))


def _log_if_there(run: MlflowRun, *, path: Path) -> None:
    if path.is_file():
        run.log_file(path)


def _log_manifest(run: MlflowRun, *, path: Path) -> None:
    """Store the manifest without its rows of slides, which `SLIDES_TABLE` has."""
    manifest = json.loads(path.read_bytes())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        summary = Path(scratch) / MANIFEST_SUMMARY
        summary.write_bytes(pretty_json({key: value for key, value in manifest.items() if key != "slides"}))
        run.log_file(summary)


def _log_versions(run: MlflowRun, *, path: Path) -> None:
    """Set the versions of libraries; those of an earlier attempt of the job may be others, and stay."""
    versions = json.loads(path.read_bytes())["run"]["versions"]
    run.log_params({f"version.{name}": text for name, text in versions.items()})


def _facts_of_start(config: RunConfig) -> dict[str, str]:
    """Return what a run depends on, in small texts."""
    dumped = config.model_dump(mode="json", exclude=set(LOCATION_FIELDS))
    settings = {name: value if isinstance(value, str) else json.dumps(value) for name, value in dumped.items()}
    return {
        "wsi_extract": wsi_extract.__version__,
        "code_sha256": code_digest(Path(wsi_extract.__file__).parent),
        "config_sha256": run_key(config),
        "python": platform.python_version(),
        **{f"setting.{name}": value for name, value in settings.items()},
    }


def code_digest(package: Path) -> str:
    """Return a digest of all modules of a package: which code it was, also where there is no git."""
    files = sorted(package.rglob("*.py"))
    lines = [f"{file.relative_to(package)} {sha256_of(file.read_bytes())}" for file in files]
    return sha256_of("\n".join(lines).encode())


def _facts_of_end(finished: Finished, *, n_good: int, seconds: float) -> dict[str, float]:
    """Return the numbers of a finished data set."""
    facts: dict[str, float] = {
        "slides_done": n_good,
        "slides_failed": len(finished.faults),
        "patches_written": finished.n_written,
        "patches_failed": finished.n_planned - finished.n_written,
        "seconds": seconds,
    }
    for split, counts in finished.counts.items():
        facts[f"images_{split.value}"] = counts.n_images
        facts[f"images_without_boxes_{split.value}"] = counts.n_empty_images
        facts[f"boxes_{split.value}"] = sum(counts.labels_by_category.values())
        facts[f"crowd_{split.value}"] = counts.n_crowd
    return facts
