"""The main job: slides and annotations in, a COCO data set out. ``python run_extraction.py --help`` lists all settings.

Exit codes: 0 complete; 2 bad usage, config or input; 3 finished, but some slides failed; 5 the machine failed,
resumable; 6 the output folder belongs to another run or is damaged; 129, 130 or 143 interrupted by SIGHUP (the terminal
was closed), SIGINT (Ctrl-C) or SIGTERM, resumable.
"""

from __future__ import annotations

from wsi_extract.start import Imports, describe_missing, run_program

with Imports(__name__):
    import argparse
    import os
    import sys
    import tempfile
    from collections.abc import Iterator, Sequence
    from contextlib import contextmanager
    from enum import Enum
    from functools import partial
    from pathlib import Path
    from typing import TYPE_CHECKING, get_args

    from wsi_extract.config import SECTIONS, RunConfig, load_config
    from wsi_extract.config_sources import parse_flag, read_extraction_object
    from wsi_extract.errors import ConfigError, EnvironmentFaultError, WsiExtractError
    from wsi_extract.interrupts import Check, exit_code_of, held, stoppable
    from wsi_extract.printable import as_one_line, as_printable

if TYPE_CHECKING:
    from wsi_extract.clusters import TlsFiles
    from wsi_extract.tasks import Executor

EXIT_PARTIAL = 3
DEFAULT_CONFIG = Path(__file__).resolve().parent / "config.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: one flag per setting, spelled with underscores or hyphens."""
    parser = argparse.ArgumentParser(
        prog="run_extraction.py",
        description="Extract patches and COCO boxes from whole-slide images.",
        epilog="Every flag is also a key of the config file's 'extraction' object; flags win. A run that was "
        "interrupted resumes when the same command is given again.",
        usage="run_extraction.py --wsi_dir FOLDER --annotation_json FILE --output_dir FOLDER [options]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="config file; default: config.json beside this script, if any"
    )
    section: argparse._ActionsContainer = parser
    for name, field in RunConfig.model_fields.items():
        if name in SECTIONS:
            section = parser.add_argument_group(SECTIONS[name])
        spellings = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
        default = "" if field.is_required() or field.default in (None, False, ()) else f" (default {field.default})"
        text = f"{field.description}{default}".replace("%", "%%")
        if field.annotation is bool:
            section.add_argument(*spellings, dest=name, action="store_const", const="true", help=text)
        else:
            section.add_argument(*spellings, dest=name, metavar=_metavar(name), help=text)
    return parser


def _metavar(name: str) -> str:
    annotation = RunConfig.model_fields[name].annotation
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Enum):
            choices = [str(member.value) for member in kind]
    if choices:
        return "{" + ",".join(choices) + "}"
    kinds = {
        "_dir": "FOLDER",
        "_csv": "FILE",
        "_json": "FILE",
        "_target": "FILE",
        "_px": "PX",
        "_um": "UM",
        "_slides": "A,B,C",
    }
    return next((kind for ending, kind in kinds.items() if name.endswith(ending)), "VALUE")


def read_settings(argv: Sequence[str] | None) -> RunConfig:
    """Combine flags and config file.

    Raises
    ------
    ConfigError
        Listing every problem.
    """
    arguments = vars(build_parser().parse_args(argv))
    config_path: Path | None = arguments.pop("config")
    if config_path is None and DEFAULT_CONFIG.is_file():
        config_path = DEFAULT_CONFIG
    flags: dict[str, object] = {}
    problems = []
    for name, text in arguments.items():
        if text is not None:
            try:
                flags[name] = parse_flag(name, text)
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return load_config({} if config_path is None else read_extraction_object(config_path), flags)


@contextmanager
def open_executor(config: RunConfig) -> Iterator[Executor]:
    """Yield what runs the tasks: this process, a cluster on this machine, or an existing cluster.

    Unless the number of workers is given, it is this process first, and a cluster only if that takes a while, or if the
    last run died, or a slide is known to kill its reader: whatever it did to that process, it shall not do to this one.
    """
    from wsi_extract import machine  # noqa: PLC0415  # heavy imports wait until the flags are known to be good
    from wsi_extract.hang_watch import AGAIN, WITH_WORKERS  # noqa: PLC0415
    from wsi_extract.slides import SlideCache  # noqa: PLC0415
    from wsi_extract.tasks import ElasticExecutor, SerialExecutor, keep_to_one_thread  # noqa: PLC0415

    n_workers = machine.n_cores() if config.workers is None else config.workers
    memory_bytes = machine.memory_per_worker_bytes(n_workers, asked_mb=config.worker_memory_mb)
    if config.scheduler is None:
        _refuse_starved_workers(n_workers, memory_bytes=memory_bytes)
    if config.workers or config.scheduler is not None:
        with open_cluster(config, n_workers=n_workers, memory_bytes=memory_bytes) as executor:
            yield executor
        return
    reason = _why_isolate(config.output_dir)
    if reason:
        _say_what_killed(config, reason)
    keep_to_one_thread()
    with SlideCache() as slides:
        if config.workers == 0:
            yield SerialExecutor(slides=slides, worker_memory_bytes=memory_bytes, task_timeout_s=config.task_timeout_s)
            return
        with ElasticExecutor(
            slides=slides,
            n_workers=max(1, n_workers),
            worker_memory_bytes=memory_bytes,
            open_cluster=partial(open_cluster, config, n_workers=max(1, n_workers), memory_bytes=memory_bytes),
            isolate=bool(reason),
            task_timeout_s=config.task_timeout_s,
            hang_advice=WITH_WORKERS if config.dry_run else AGAIN,  # a dry run leaves no mark
        ) as elastic:
            yield elastic


def _why_isolate(output_dir: Path) -> str:
    """Return why no slide should be read in this process, after what happened to earlier runs; empty when any may."""
    from wsi_extract.fault_records import have_workers_died  # noqa: PLC0415
    from wsi_extract.folder_lock import ended_hard  # noqa: PLC0415

    if ended_hard(output_dir):
        return f"the last run in {output_dir} died without coming to an end"
    return f"a slide has killed its reader in an earlier run in {output_dir}" if have_workers_died(output_dir) else ""


def _say_what_killed(config: RunConfig, what: str) -> None:
    if config.workers == 0:
        _warn(f"{what}; if one slide is the cause, leave --workers 0 out: then it costs that slide only")
    else:
        _warn(f"{what}; slides are read in worker processes from the beginning, in case one of them is the cause")


def _warn(text: str) -> None:
    print(f"warning: {as_one_line(text)}", file=sys.stderr, flush=True)


def _refuse_starved_workers(n_workers: int, *, memory_bytes: int) -> None:
    """Refuse before thousands of processes start; what the slides need is checked once they are known.

    Raises
    ------
    ConfigError
        When a worker would have less memory than any slide takes.
    """
    from wsi_extract.blocks import WORKER_MEMORY_USE, least_worker_bytes  # noqa: PLC0415

    allowed, needed = memory_bytes * WORKER_MEMORY_USE, least_worker_bytes()
    if allowed < needed:
        raise ConfigError(
            f"each of {max(1, n_workers)} workers may use {allowed / 1e6:.0f} MB ({WORKER_MEMORY_USE:.0%} of its "
            f"{memory_bytes / 1e6:.0f} MB), but needs at least {needed / 1e6:.0f} MB.",
            "Use fewer --workers, or a larger --worker_memory_mb.",
        )


def _limit_native_threads() -> None:
    """Keep linear algebra to one thread: it is no part of the work, and starts a thread per core when it is loaded."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@contextmanager
def open_cluster(config: RunConfig, *, n_workers: int, memory_bytes: int) -> Iterator[Executor]:
    """Yield the workers of a new cluster on this machine, or of an existing one, and say where the dashboard is."""
    with held():
        from wsi_extract import schedule  # noqa: PLC0415

    warning = schedule.warning_about(config.scheduler or config.dashboard_address)
    if warning:
        _warn(warning)
    known_memory: int | None = memory_bytes
    if config.scheduler is not None:
        cluster = schedule.existing_cluster(config.scheduler, tls=_tls_files(config))
        if config.worker_memory_mb is None:
            known_memory = None
    else:
        cluster = schedule.local_cluster(
            n_workers=n_workers, memory_bytes=memory_bytes, dashboard_address=config.dashboard_address
        )
    with cluster as client, dask_report(config) as report_path:
        print(f"dashboard: {client.dashboard_link}", flush=True)
        with schedule.dask_executor(
            client,
            worker_memory_bytes=known_memory,
            report_path=report_path,
            task_timeout_s=config.task_timeout_s,
        ) as executor:
            yield executor


def _tls_files(config: RunConfig) -> TlsFiles | None:
    from wsi_extract.clusters import TlsFiles  # noqa: PLC0415

    if config.tls_ca_file is None or config.tls_cert is None or config.tls_key is None:
        return None
    return TlsFiles(ca_file=config.tls_ca_file, cert=config.tls_cert, key=config.tls_key)


@contextmanager
def dask_report(config: RunConfig) -> Iterator[Path | None]:
    """Yield where Dask may write its report, and bring it into the output folder of a run that came to its end."""
    from wsi_extract.files import write_atomically  # noqa: PLC0415
    from wsi_extract.layout import DASK_REPORT  # noqa: PLC0415

    if config.dry_run:
        yield None
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        report = Path(scratch) / DASK_REPORT
        yield report
        try:
            if report.is_file():
                write_atomically(config.output_dir / DASK_REPORT, report.read_bytes())
        except OSError as error:  # of no worth beside the data set, which is finished
            _warn(f"Dask's report could not be kept: {error}")


def extract(config: RunConfig, *, check_signals: Check) -> int:
    """Carry out the run and return the exit code."""
    _limit_native_threads()
    with held():  # libraries that are interrupted while they are loaded fail in ways of their own
        from wsi_extract.console import ConsoleReporter, make_console  # noqa: PLC0415
        from wsi_extract.folder_lock import refuse_locked  # noqa: PLC0415
        from wsi_extract.pipeline import run  # noqa: PLC0415

    refuse_locked(config.output_dir)  # before a cluster is started
    reporter = ConsoleReporter(config, console=make_console(), check_signals=check_signals)
    with open_executor(config) as executor:
        try:
            result = run(config, executor=executor, reporter=reporter)
        finally:
            reporter.close()
    return EXIT_PARTIAL if result.has_failures and config.on_partial == "fail" else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; every error a user can mend is one message, not a traceback."""
    with stoppable() as check_signals:
        try:
            return extract(read_settings(argv), check_signals=check_signals)
        except BaseException as error:
            code = _report(error, check_signals=check_signals)
            if code is None:
                raise
            return code


def _report(error: BaseException, *, check_signals: Check) -> int | None:
    """Say what has ended the run and return the exit code, ``None`` for a bug and for what argparse has said."""
    try:
        check_signals()  # what a run stumbles over while it is being stopped is no news
    except KeyboardInterrupt as first:
        error = first
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; give the same command again to resume", file=sys.stderr)
        return exit_code_of(error)
    if isinstance(error, WsiExtractError):
        print(f"error: {as_printable(str(error))}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError):
        what = as_printable(str(error))
        print(f"error: {what}. Mend that and give the same command again; finished work is kept.", file=sys.stderr)
        return EnvironmentFaultError.exit_code
    if isinstance(error, MemoryError):
        print("error: out of memory. Use fewer --workers or end other programs, and run it again.", file=sys.stderr)
        return EnvironmentFaultError.exit_code
    missing = describe_missing(error) if isinstance(error, ImportError) else ""
    if missing:
        print(f"error: {missing}", file=sys.stderr)
        return EnvironmentFaultError.exit_code
    return None


if __name__ == "__main__":
    sys.exit(run_program(main))
