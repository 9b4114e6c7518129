"""``python -m wsi_extract verify``: audit, compare or repair data sets, and say in words what came out."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_extract.config import LOCATION_FIELDS, RunConfig
from wsi_extract.errors import ConfigError, InputError
from wsi_extract.interrupts import Check
from wsi_extract.printable import as_one_line
from wsi_extract.state.layout import ERRORS

if TYPE_CHECKING:
    from wsi_extract.repair import RepairResult
    from wsi_extract.tasks import Executor
    from wsi_extract.verify import AuditReport

EXIT_INCOMPLETE = 3
EXIT_INTEGRITY = 6
EXIT_CODES = """\
exit codes:
  0              sound and complete; repaired; with --same: the same
  2              the command cannot be used, or slides or annotations that a repair needs are missing
  3              sound, but slides failed in the run that made it (with --same they are no difference)
  5              the machine failed, or somebody is writing to the folder
  6              not sound, not the same, or not to be repaired
  129, 130, 143  interrupted"""
LOCATIONS = sorted(LOCATION_FIELDS - {"output_dir"})
PLACEHOLDERS = {"wsi_dir": "SLIDES", "annotation_json": "ANNOTATIONS"}
"""What stands in a command for the places that nobody knows."""
MAX_PROBLEMS_SHOWN = 50
MAX_SLIDES_SHOWN = 50
MAX_NAMED = 20
ANY_PORT = "127.0.0.1:0"
"""Where the dashboard of a repair listens: beside that of a run."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the sub-command."""
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--same", type=Path, metavar="OTHER", help="compare byte for byte, apart from timings")
    _add_repair_flags(parser)


def run_verify(arguments: argparse.Namespace, *, check_signals: Check) -> int:
    """Audit, compare or repair, print what is wrong, and return the exit code."""
    from wsi_extract.verify import audit, compare  # noqa: PLC0415

    for folder in (arguments.folder, arguments.same):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
    _check_repair_flags(arguments)
    if arguments.repair:
        return _repair(arguments, check_signals=check_signals)
    report = audit(arguments.folder) if arguments.same is None else compare(arguments.folder, arguments.same)
    _show_report(arguments, report)
    if arguments.same is None and not report.is_sound:
        _show_remedies(arguments.folder, report)
    return _exit_code_of(report)


def _exit_code_of(report: AuditReport) -> int:
    if not report.is_sound:
        return EXIT_INTEGRITY
    return 0 if report.is_complete else EXIT_INCOMPLETE


def _add_repair_flags(verify: argparse.ArgumentParser) -> None:
    repair = verify.add_argument_group(
        "repair", "Make anew what is damaged or missing, from the slides, and prove that the content is as before."
    )
    repair.add_argument("--repair", action="store_true", help="delete what is damaged and extract it again")
    repair.add_argument("--dry_run", "--dry-run", action="store_true", help="say what would be done, change nothing")
    repair.add_argument("--workers", type=int, metavar="N", help="processes; default: this one alone")
    for name in LOCATIONS:
        spellings = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
        text = f"{RunConfig.model_fields[name].description}; default: where it was".replace("%", "%%")
        repair.add_argument(*spellings, dest=name, type=Path, metavar="PATH", help=text)


def _check_repair_flags(arguments: argparse.Namespace) -> None:
    """Refuse flags that have no meaning together.

    Raises
    ------
    ConfigError
        With the flags.
    """
    if arguments.repair:
        if arguments.same is not None:
            raise ConfigError("--repair and --same: give one of them.")
        return
    given = [name for name in ("dry_run", "workers", *LOCATIONS) if getattr(arguments, name) not in (None, False)]
    if given:
        raise ConfigError(f"{', '.join(f'--{name}' for name in given)}: they belong to --repair.")


def _repair(arguments: argparse.Namespace, *, check_signals: Check) -> int:
    """Repair a data set and say what was done."""
    from wsi_extract.console.reporters import ConsoleReporter, make_console  # noqa: PLC0415
    from wsi_extract.repair import RepairRequest, repair  # noqa: PLC0415

    request = RepairRequest(
        output_dir=arguments.folder.absolute(),
        locations={name: path.absolute() for name in LOCATIONS if (path := getattr(arguments, name)) is not None},
        n_workers=arguments.workers or 0,
        is_dry_run=arguments.dry_run,
    )
    result = repair(
        request,
        open_executor=open_executor,
        reporter_of=lambda config: ConsoleReporter(config, console=make_console(), check_signals=check_signals),
    )
    _show_repair(arguments, result)
    return _exit_code_of(result.report)


@contextmanager
def open_executor(config: RunConfig) -> Iterator[Executor]:
    """Yield what runs the tasks of a repair: this process, or as many worker processes as were asked for."""
    from wsi_extract import machine  # noqa: PLC0415
    from wsi_extract.slides.open_slides import SlideCache  # noqa: PLC0415
    from wsi_extract.tasks import SerialExecutor, keep_to_one_thread  # noqa: PLC0415

    n_workers = config.workers or 0
    memory_bytes = machine.memory_per_worker_bytes(max(1, n_workers), asked_mb=config.worker_memory_mb)
    if n_workers:
        from wsi_extract.cluster import schedule  # noqa: PLC0415

        cluster = schedule.local_cluster(n_workers=n_workers, memory_bytes=memory_bytes, dashboard_address=ANY_PORT)
        with (
            cluster as client,
            schedule.dask_executor(
                client, worker_memory_bytes=memory_bytes, report_path=None, task_timeout_s=config.task_timeout_s
            ) as executor,
        ):
            yield executor
        return
    keep_to_one_thread()
    with SlideCache() as slides:
        yield SerialExecutor(slides=slides, worker_memory_bytes=memory_bytes, task_timeout_s=config.task_timeout_s)


def _show_report(arguments: argparse.Namespace, report: AuditReport) -> None:
    for problem in report.problems[:MAX_PROBLEMS_SHOWN]:
        print(as_one_line(str(problem)), file=sys.stderr)
    n_more = report.n_problems - min(MAX_PROBLEMS_SHOWN, len(report.problems))
    if n_more:
        print(f"... and {n_more:,} more problems", file=sys.stderr)
    print(as_one_line(_verdict(arguments, report)))
    if report.content_sha256:
        what = "content" if report.is_sound else "content as recorded, which is not what is there:"
        print(f"{what} {report.content_sha256} (sha256)")
    if report.is_complete and report.empty_splits:
        print(f"note: no patches in {' and '.join(report.empty_splits)}")
    print(f"checked: {', '.join(report.checks)}")
    for note in report.notes:
        print(f"note: {as_one_line(note)}")


def _show_remedies(output_dir: Path, report: AuditReport) -> None:
    """Say what is wrong slide by slide, what a repair can do about it, and what only the user can."""
    from wsi_extract.repair import can_repair, damage_of, describe_foreign, missing_locations  # noqa: PLC0415
    from wsi_extract.verify.evidence import read_evidence  # noqa: PLC0415
    from wsi_extract.verify.foreign import find_foreign  # noqa: PLC0415

    if foreign := find_foreign(output_dir):
        print(as_one_line(f"{describe_foreign(foreign)}. No repair touches them: remove them, or move them away"))
    if len(foreign) == report.n_problems or not can_repair(output_dir):
        return
    _show_lines(damage_of(output_dir))
    evidence = read_evidence(output_dir)
    if not evidence.run:
        print("run.json is damaged or missing: a run of the extraction would refuse this folder, a repair mends it")
    flags = "".join(f" --{name} {PLACEHOLDERS[name]}" for name in missing_locations(evidence.locations))
    command = f"python -m wsi_extract verify {shlex.quote(str(output_dir))} --repair{flags}"
    then = " then" if foreign else ""
    print(as_one_line(f"what comes from the slides can{then} be made anew: {command}"))


def _show_lines(lines: Sequence[str]) -> None:
    for line in lines[:MAX_SLIDES_SHOWN]:
        print(f"  {as_one_line(line)}")
    if len(lines) > MAX_SLIDES_SHOWN:
        print(f"  and {len(lines) - MAX_SLIDES_SHOWN:,} more slides")


def _show_repair(arguments: argparse.Namespace, result: RepairResult) -> None:
    from wsi_extract.verify.damage import describe_damage  # noqa: PLC0415

    n_files, n_blocks = len(result.damage), result.n_blocks
    if not result.was_damaged:
        _show_report(arguments, result.report)
        missing = "" if result.report.is_complete else ": what is missing comes with another run of the extraction"
        print(f"no file is damaged, there is nothing to repair{missing}")
        return
    if arguments.dry_run:
        _show_lines(describe_damage(result.damage))
        print(f"would repair {n_files:,} files of {n_blocks:,} blocks, and all documents; nothing was changed")
        return
    _show_report(arguments, result.report)
    as_before = "as before" if result.content_before else "what it was before, the damaged manifest cannot tell"
    print(f"repaired {n_files:,} files of {n_blocks:,} blocks, and all documents; content digest: {as_before}")


def _verdict(arguments: argparse.Namespace, report: AuditReport) -> str:
    problems = "" if report.is_sound else f" ({report.n_problems:,} problems)"
    if arguments.same is not None:
        verdict = "the same" if report.is_sound else "NOT the same"
        return f"{arguments.folder} and {arguments.same} are {verdict}{problems}"
    verdict = "is sound" if report.is_sound else "is NOT sound"
    what = f"{report.n_images:,} images, {report.n_boxes:,} boxes, {report.n_files:,} files"
    return f"{arguments.folder} {verdict}{problems}{_describe_gaps(report)}: {what}"


def _describe_gaps(report: AuditReport) -> str:
    """Return what is missing in a data set that slides failed for, empty when none did."""
    failed = report.failed_slides
    if not failed:
        return ""
    named = ", ".join(failed[:MAX_NAMED]) + (
        f" and {len(failed) - MAX_NAMED:,} more" if len(failed) > MAX_NAMED else ""
    )
    empty = f", no patches in {' and '.join(report.empty_splits)}" if report.empty_splits else ""
    joint = ", but" if report.is_sound else ", and"
    return (
        f"{joint} INCOMPLETE: {len(failed):,} of {report.n_slides:,} slides failed ({named}){empty}: see {ERRORS}; "
        "mend it and run the extraction again"
    )
