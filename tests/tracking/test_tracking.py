"""What reaches MLflow from a run inside a job, and that nothing there slows the run down or ends it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers_mlflow import Received, tracking_server
from tests.helpers_run import MEMORY_BYTES, Inputs, make_config, make_inputs
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.pipeline import run
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.layout import DASK_REPORT
from wsi_extract.tasks import SerialExecutor
from wsi_extract.tracking import reporter as tracking
from wsi_extract.tracking.mlflow_run import CLIENT_SETTINGS, MAX_REASON_LENGTH, presentable
from wsi_extract.tracking.reporter import STATUS, code_digest, open_tracker

JOB = {"MLFLOW_RUN_ID": "r1", "MLFLOW_TRACKING_URI": "http://localhost"}


class WarnedReporter(SilentReporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)


@pytest.fixture(autouse=True)
def _impatient_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # more than a test waits for
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_RUN_ID", "r1")
    for name in ("END_S", "FAILED_END_S", "INTERRUPTED_END_S"):
        monkeypatch.setattr(tracking, name, 60.0)
    monkeypatch.setattr(tracking, "LEAST_PATIENCE_S", 60.0)  # a machine may be slow
    yield
    assert os.environ["MLFLOW_RUN_ID"] == "r1"  # which mlflow's global functions take away


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("in")
    inputs = make_inputs(folder, n_slides=2)
    (inputs.wsi_dir / "broken.svs").write_bytes(b"no slide")
    return inputs


def track(inputs: Inputs, out: Path, *, run_id: str = "r1", **settings: object) -> WarnedReporter:
    """Run a job with a report that is written when the executor is closed, and return what was warned of."""
    reporter = WarnedReporter()
    config = make_config(inputs, out, unannotated_slides="negative", patches_per_slide=8, **settings)
    environ = JOB | {"MLFLOW_RUN_ID": run_id}
    with open_tracker(reporter, config, environ=environ) as tracker, SlideCache() as slides:
        assert tracker is not reporter
        tracker.show_dashboard("http://127.0.0.1:8787/status")
        executor = SerialExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES)
        run(config, executor=executor, reporter=tracker)
        if not config.dry_run:
            (out / DASK_REPORT).write_text("report")
    return reporter


def track_at(server: Received, inputs: Inputs, out: Path, monkeypatch: pytest.MonkeyPatch) -> WarnedReporter:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    return track(inputs, out, run_id=server.run_id)


def test_a_job_reports_settings_numbers_and_documents(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with tracking_server() as server:
        reporter = track_at(server, inputs, out, monkeypatch)
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert reporter.warnings == []
    assert server.params["setting.seed"] == "42"
    assert server.params["version.numpy"] == manifest["run"]["versions"]["numpy"]
    assert not any("dir" in name for name in server.params)  # a job that is restarted may have other paths
    assert server.tags[STATUS] == "partial"
    assert server.tags["content_sha256"] == manifest["content_sha256"]
    assert server.tags["slides_failed"] == "1"
    assert server.tags["dashboard"] == "http://127.0.0.1:8787/status"
    assert server.last("patches_written") == manifest["counts"]["patches_written"] > 0
    assert server.last("images_train") == manifest["splits"]["train"]["n_images"]
    assert server.last("boxes_train") == sum(manifest["splits"]["train"]["labels_by_category"].values())
    assert server.last("slides_done") == 2
    assert server.last("slides_failed") == 1
    kept = {name.removeprefix("0/run/artifacts/extraction/"): data for name, data in server.artifacts.items()}
    assert set(kept) == {"slides.csv", "errors.jsonl", "dask-report.html", "manifest-summary.json"}
    assert kept["slides.csv"] == (out / "slides.csv").read_bytes()
    assert json.loads(kept["manifest-summary.json"])["counts"] == manifest["counts"]
    assert "slides" not in json.loads(kept["manifest-summary.json"])
    assert {request.split()[1] for request in server.requests if "create" in request or "update" in request} == set()


def test_numbers_come_now_and_then_over_slides(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "EVERY_S", 0.0)
    with tracking_server() as server:
        track_at(server, inputs, tmp_path / "out", monkeypatch)
    steps = [step for name, _, step in server.metrics if name == "patches_written"]
    assert steps == sorted(steps)
    assert steps[-1] == 2
    assert {name for name, _, step in server.metrics if step == 0} >= {"slides_found", "patches_planned"}


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_server_that_refuses_costs_one_warning(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with tracking_server(status=status) as server:
        reporter = track_at(server, inputs, tmp_path / "out", monkeypatch)
    (warning,) = reporter.warnings
    assert "the data set is not affected" in warning
    assert len(server.requests) > 3  # what is down may come up again
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_server_that_is_not_there_costs_one_warning(inputs: Inputs, tmp_path: Path) -> None:
    assert len(track(inputs, tmp_path / "out").warnings) == 1
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_warning_is_short_and_keeps_secrets(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:9/?sig=secret&se=1")
    (warning,) = track(inputs, tmp_path / "out").warnings
    assert "127.0.0.1:9" in warning
    assert "hidden" not in warning
    assert "secret" not in warning
    assert len(presentable("x" * 10**6)) <= MAX_REASON_LENGTH


def test_a_parameter_that_has_another_value_costs_no_document(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server() as server:
        server.params["version.numpy"] = "1.0"  # of an earlier attempt of the job, elsewhere
        reporter = track_at(server, inputs, tmp_path / "out", monkeypatch)
    (warning,) = reporter.warnings
    assert "version.numpy" in warning
    assert any(name.endswith("manifest-summary.json") for name in server.artifacts)


def test_a_run_that_begins_anew_has_no_error_of_an_earlier_attempt(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking_server() as server:
        server.tags["error"] = "Terminated: "
        track_at(server, inputs, tmp_path / "out", monkeypatch)
    assert server.tags["error"] == "none"


def test_azure_without_its_plugin_is_told_what_to_install(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "azureml", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "azureml://region.example/mlflow/v1.0")
    (warning,) = track(inputs, tmp_path / "out").warnings
    assert "azureml-mlflow" in warning


def test_a_server_that_never_answers_keeps_a_short_run_shortly(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "LEAST_PATIENCE_S", 0.5)
    with tracking_server(is_hanging=True) as server:
        started_s = time.monotonic()
        reporter = track_at(server, inputs, tmp_path / "out", monkeypatch)
        assert time.monotonic() - started_s < 50  # of the 60 s that END_S is here
    for thread in threading.enumerate():
        if thread.name == "background sender":
            thread.join()
    (warning,) = reporter.warnings
    assert "not all was taken within" in warning


def test_a_client_that_cannot_be_loaded_costs_one_warning(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    monkeypatch.setattr(tracking, "find_spec", lambda _: object())
    (warning,) = track(inputs, tmp_path / "out").warnings
    assert "mlflow.tracking" in warning


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(OSError("disk full"), "failed", id="error"),
        pytest.param(KeyboardInterrupt(), "interrupted", id="signal"),
    ],
)
def test_a_run_that_ends_early_says_so(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str
) -> None:
    with tracking_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with (
            pytest.raises(type(error)),
            open_tracker(
                WarnedReporter(),
                make_config(inputs, tmp_path / "out"),
                environ=JOB | {"MLFLOW_RUN_ID": server.run_id},
            ),
        ):
            raise error
    assert server.tags[STATUS] == status
    assert str(error) in server.tags["error"]
    assert server.artifacts == {}


def test_a_dry_run_stores_nothing(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        reporter = track(inputs, tmp_path / "out", run_id=server.run_id, dry_run=True)
    assert (reporter.warnings, server.tags[STATUS], server.artifacts) == ([], "dry run", {})


@pytest.mark.parametrize("missing", sorted(JOB))
def test_outside_of_jobs_nothing_comes_between(inputs: Inputs, tmp_path: Path, missing: str) -> None:
    # Without an address mlflow would make a database in the working directory.
    reporter, config = WarnedReporter(), make_config(inputs, tmp_path / "out")
    environ = {name: value for name, value in JOB.items() if name != missing}
    with open_tracker(reporter, config, environ=environ) as tracker:
        assert tracker is reporter


def test_without_mlflow_nothing_comes_between(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    reporter, config = WarnedReporter(), make_config(inputs, tmp_path / "out")
    with open_tracker(reporter, config, environ=JOB) as tracker:
        assert tracker is reporter
    assert [name for name in sys.modules if name.startswith("mlflow.")] == []


def test_the_digest_of_the_code_is_that_of_all_its_modules(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.py").write_text("1")
    before = code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert code_digest(tmp_path) == before
    (tmp_path / "deep" / "a.py").write_text("2")
    assert code_digest(tmp_path) != before
