"""Tools beside the main job: ``python -m wsi_extract {demo,verify,export,convert} ...``."""

from __future__ import annotations

from wsi_extract.start import Imports, run_program

with Imports(__name__):
    import argparse
    import sys
    from collections.abc import Callable, Sequence
    from functools import partial
    from pathlib import Path

    from wsi_extract import verify_command
    from wsi_extract.convert import command as convert_command
    from wsi_extract.errors import EnvironmentFaultError, InputError, WsiExtractError
    from wsi_extract.export import command as export_command
    from wsi_extract.interrupts import Check, exit_code_of, stoppable
    from wsi_extract.model import Split
    from wsi_extract.printable import as_one_line, as_printable

RESUMABLE = ("export", "convert")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-commands."""
    parser = argparse.ArgumentParser(prog="python -m wsi_extract", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="write generated slides with annotations to try everything on")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--slides", type=int, default=6, metavar="N", help="number of slides (default %(default)s)")
    demo.add_argument("--width", type=int, metavar="PX", help="width of a slide, level-0 px (default: about 7,000)")
    demo.add_argument("--height", type=int, metavar="PX", help="height of a slide, level-0 px (default: about 5,000)")
    demo.add_argument("--seed", type=int, default=7, help="seed of everything drawn (default %(default)s)")
    verify_command.add_flags(
        commands.add_parser(
            "verify",
            help="audit a finished data set from scratch, compare two, or repair one",
            epilog=verify_command.EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    export_command.add_flags(commands.add_parser("export", help="write a finished data set in another layout"))
    convert_command.add_flags(commands.add_parser("convert", help="write a finished data set with another store"))
    return parser


def run_demo(arguments: argparse.Namespace) -> int:
    """Write the demo data set and say how to go on."""
    from wsi_extract.synthetic import write_demo  # noqa: PLC0415

    sizes = {"width_px": arguments.width, "height_px": arguments.height}
    given = {name: value for name, value in sizes.items() if value is not None}
    try:
        demo = write_demo(arguments.folder, n_slides=arguments.slides, seed=arguments.seed, **given)
    except ValueError as error:  # sizes that no slide can have
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot write the demo to {arguments.folder}: {error}.") from error
    print(as_one_line(f"{len(demo.slides)} slides in {demo.slides_folder}, {len(demo.annotations)} annotations in"))
    print(as_one_line(f"  {demo.sqlite_path} (SlideRunner) and {demo.coco_path} (COCO, xyxy)"))
    return 0


def run_export(arguments: argparse.Namespace, *, check_signals: Check) -> int:
    """Export a data set and say what the export holds."""
    from rich.progress import Progress  # noqa: PLC0415

    from wsi_extract.export.run import export_dataset  # noqa: PLC0415

    request = export_command.request_of(arguments)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("")

        def show(split: Split, n_done: int, n_total: int) -> None:
            check_signals()
            progress.update(bar, description=split.value, completed=n_done, total=n_total)

        result = export_dataset(request, on_progress=show, on_notice=_warn)
    held = ", ".join(f"{split} {counts.n_patches:,}" for split, counts in result.counts.items())
    how = "was finished already" if result.was_finished else "is finished"
    print(as_one_line(f"{request.destination} {how}: patches: {held}"))
    return 0


def run_convert(arguments: argparse.Namespace, *, check_signals: Check) -> int:
    """Convert a data set to another store and say what was done."""
    from rich.progress import Progress  # noqa: PLC0415

    from wsi_extract.convert.run import convert_dataset  # noqa: PLC0415

    request = convert_command.request_of(arguments)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("patches")

        def show(n_done: int, n_total: int) -> None:
            check_signals()
            progress.update(bar, completed=n_done, total=n_total)

        result = convert_dataset(request, on_progress=show, on_notice=_warn)
    what = f"{result.n_patches:,} patches with store {request.store}, {result.n_converted:,} of them converted now"
    print(as_one_line(f"{request.destination} is finished: {what}"))
    return 0


def _warn(text: str) -> None:
    print(f"warning: {as_one_line(text)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command and return the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        with stoppable() as check_signals:
            commands: dict[str, Callable[[argparse.Namespace], int]] = {
                "demo": run_demo,
                "verify": partial(verify_command.run_verify, check_signals=check_signals),
                "export": partial(run_export, check_signals=check_signals),
                "convert": partial(run_convert, check_signals=check_signals),
            }
            return commands[arguments.command](arguments)
    except WsiExtractError as error:
        print(f"error: {as_printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {as_printable(str(error))}. Mend that and give the same command again.", file=sys.stderr)
        return EnvironmentFaultError.exit_code
    except KeyboardInterrupt as error:
        can_go_on = arguments.command in RESUMABLE or getattr(arguments, "repair", False)
        print(f"interrupted{'; give the same command again to go on' if can_go_on else ''}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(run_program(main))
