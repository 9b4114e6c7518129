"""The main job: slides and annotations in, a COCO data set out. ``python run_extraction.py --help`` lists all settings.

Exit codes: 0 complete; 2 bad usage, config, input or environment; 3 finished, but some slides failed; 5 the machine
failed, resumable; 6 the output folder belongs to another run or is damaged; 129, 130 or 143 interrupted by SIGHUP (the
terminal was closed), SIGINT (Ctrl-C) or SIGTERM, resumable.
"""

from wsi_extract.node_start.prepare import prepare_node

if __name__ == "__main__":
    prepare_node()  # this far the oldest Python must come, so nothing of ours is imported before

from wsi_extract.start import EXIT_ENVIRONMENT, Imports, describe_missing, run_program

with Imports(__name__):
    import argparse
    import os
    import sys
    from collections.abc import Sequence
    from contextlib import ExitStack
    from enum import Enum
    from pathlib import Path
    from typing import get_args

    from wsi_extract.config import SECTIONS, RunConfig, load_config
    from wsi_extract.config_sources import defaults_of_job, parse_flag, read_extraction_object
    from wsi_extract.errors import ConfigError, EnvironmentFaultError, WsiExtractError
    from wsi_extract.interrupts import Check, exit_code_of, held, stoppable
    from wsi_extract.printable import as_printable

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
    in_file = {} if config_path is None else read_extraction_object(config_path)
    return load_config(defaults_of_job(os.environ) | in_file, flags)


def _limit_native_threads() -> None:
    """Keep linear algebra to one thread: it is no part of the work, and starts a thread per core when it is loaded."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def extract(config: RunConfig, *, check_signals: Check) -> int:
    """Carry out the run and return the exit code."""
    _limit_native_threads()
    with held():  # libraries that are interrupted while they are loaded fail in ways of their own
        from wsi_extract import executors  # noqa: PLC0415  # heavy imports wait until the flags are known to be good
        from wsi_extract.console.heartbeat import beating  # noqa: PLC0415
        from wsi_extract.console.reporters import ConsoleReporter, make_console, utc_stamp  # noqa: PLC0415
        from wsi_extract.pipeline import run  # noqa: PLC0415
        from wsi_extract.state.folder_lock import refuse_locked  # noqa: PLC0415
        from wsi_extract.tracking.reporter import open_tracker  # noqa: PLC0415

    code_of_follower = executors.follow_if_follower(config, stamp=utc_stamp)
    if code_of_follower is not None:
        return code_of_follower
    refuse_locked(config.output_dir)  # before a cluster is started
    console = ConsoleReporter(config, console=make_console(), check_signals=check_signals, stamp=utc_stamp)
    with ExitStack() as stack:  # one statement of several contexts, as later Pythons have it, is a syntax error in 3.8
        stack.enter_context(beating(console.beat))
        reporter = stack.enter_context(open_tracker(console, config, environ=os.environ))  # ends after the executor
        executor = stack.enter_context(executors.open_executor(config, announcer=reporter))
        try:
            result = run(config, executor=executor, reporter=reporter)
        finally:
            console.close()
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
        return EXIT_ENVIRONMENT
    return None


if __name__ == "__main__":
    sys.exit(run_program(main))
