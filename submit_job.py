"""Run the extraction as a job on Azure ML: ``python submit_job.py``. ``python submit_job.py --help`` lists all options.

What the job is made of stands in config.json, see its 'job' object.

Exit codes: 0 submitted, or completed with --wait; 1 the job failed or was cancelled; 2 bad usage, config, or something
the job needs is missing; 3 nobody could log in; 4 Azure refused or cannot be reached; 130 or 143 interrupted.
"""

import sys

# So far Pythons as old as 3.6 come, and no further: they could not even read what is imported below.
if __name__ == "__main__" and sys.version_info < (3, 11):
    this = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write(f"error: this program needs Python 3.11 or newer; this is {this}, {sys.executable}\n")
    sys.exit(2)

from wsi_extract.start import Imports, describe_missing, run_program

with Imports(__name__, requirements="requirements-azure.txt"):
    import argparse
    import os
    import traceback
    from collections.abc import Sequence
    from dataclasses import replace
    from functools import partial
    from pathlib import Path
    from typing import TYPE_CHECKING, TextIO

    from wsi_extract.azure_job import service
    from wsi_extract.azure_job.credentials import AuthKind, could_be_tenant, log_in
    from wsi_extract.azure_job.dry_run import describe
    from wsi_extract.azure_job.job_plan import JobPlan, plan_job
    from wsi_extract.azure_job.next_steps import describe_job, describe_output, describe_running, download_command
    from wsi_extract.azure_job.preflight import preflight
    from wsi_extract.azure_job.sdk_noise import quiet_libraries
    from wsi_extract.azure_job.service_errors import hide_secrets
    from wsi_extract.azure_job.settings import JobSettings, load_job_settings
    from wsi_extract.azure_job.snapshot import staged
    from wsi_extract.azure_job.surroundings import check_surroundings
    from wsi_extract.azure_job.waiting import COMPLETED, wait_for
    from wsi_extract.errors import ConfigError, PreflightError, WsiExtractError
    from wsi_extract.interrupts import Check, exit_code_of, held, stoppable
    from wsi_extract.printable import as_printable

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from wsi_extract.azure_job.workspace import Workspace

ROOT = Path(__file__).resolve().parent
DEFAULT_CONFIG = ROOT / "config.json"
EXIT_JOB_FAILED = 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options are spelled with underscores or hyphens."""
    parser = argparse.ArgumentParser(
        prog="submit_job.py",
        description="Run the extraction as a job on Azure ML, as config.json says.",
        epilog="Nothing is sent with --dry_run. A job goes on when this program ends.",
        allow_abbrev=False,
    )

    def add(name: str, **options: object) -> None:
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*spellings, dest=name, **options)  # type: ignore[arg-type]  # argparse's own keywords

    add("config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: config.json beside this script")
    add(
        "set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting for this job only, as job.nodes=2 or extraction.sampling=grid; can be repeated",
    )
    add("dry_run", action="store_true", help="show what would be submitted, then stop; needs no network")
    add("wait", action="store_true", help="show the log, and end when the job does: 0 completed, 1 failed or cancelled")
    kinds = ", ".join(AuthKind)
    add(
        "auth",
        type=_auth_kind,
        default=AuthKind.INTERACTIVE,
        metavar="HOW",
        help=f"log in: {kinds}; default: the first",
    )
    add(
        "auth_timeout",
        type=_seconds,
        default=300,
        metavar="S",
        help="wait so long for somebody to log in (default 300)",
    )
    add("tenant_id", type=_tenant_id, metavar="ID", help="tenant to log in to; default: tenant_id of config.json")
    add("no_preflight", action="store_true", help="do not look up compute, environment and data first")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show what Azure's libraries do, and where errors arise"
    )
    return parser


def _auth_kind(text: str) -> AuthKind:
    try:
        return AuthKind(text.replace("_", "-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(AuthKind)}") from None


def _tenant_id(text: str) -> str:
    if not could_be_tenant(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a tenant as the Azure portal shows it")
    return text


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds from 1 to 86400")
    return int(text)


def say(line: str, *, stream: TextIO | None = None) -> None:
    """Show what happens, beside the results on stdout: on stderr, as it is now unless another one is given."""
    print(as_printable(line), file=stream or sys.stderr)


def submit(arguments: argparse.Namespace, *, check_signals: Check) -> int:
    """Carry out the command and return the exit code; ``check_signals`` raises what has arrived."""
    settings = load_job_settings(arguments.config, overrides=arguments.set)
    if arguments.tenant_id is not None:
        settings = replace(settings, tenant_id=arguments.tenant_id)
    plan = plan_job(settings, root=ROOT)
    if arguments.dry_run:
        print(as_printable("\n".join(describe(plan, is_verbose=arguments.verbose))))
        return ConfigError.exit_code if plan.problems else 0
    for warning in plan.warnings:
        say(f"warning: {warning}")
    if plan.problems:
        raise ConfigError("\n".join(plan.problems))
    with quiet_libraries(is_verbose=arguments.verbose):
        return _submit(plan, settings, arguments, check_signals=check_signals)


def _submit(plan: JobPlan, settings: JobSettings, arguments: argparse.Namespace, *, check_signals: Check) -> int:
    check_surroundings(os.environ)
    with held():  # libraries that are interrupted while they are loaded fail in ways of their own
        service.load_libraries()
    # It may be asked for once more, also while progress bars are kept off stderr.
    say_always = partial(say, stream=sys.stderr)
    login = log_in(arguments.auth, tenant_id=settings.tenant_id, timeout_s=arguments.auth_timeout, say=say_always)
    say(f"logged in{f' as {login.account}' if login.account else ''}")
    client = service.open_client(login.credential, config_path=settings.config_path, workspace=plan.workspace)
    if not arguments.no_preflight:
        say(f"look up {plan.compute}, {plan.environment} and {plan.data} in {plan.workspace.workspace_name}")
        for warning in preflight(client, plan):
            say(f"warning: {warning}")
    with staged(plan.snapshot) as code:
        say(f"submit with {len(plan.snapshot.files):,} files, {plan.snapshot.n_bytes / 1e6:,.1f} MB")
        try:
            job = service.submit(client, plan, code=code, is_verbose=arguments.verbose)
        except KeyboardInterrupt:
            say(f"whether the job was made is shown at {service.studio_page(plan.workspace, 'jobs')}")
            raise
    print(as_printable("\n".join(describe_job(job, plan))), flush=True)
    if arguments.wait:
        return _wait(client, job, plan.workspace, check_signals=check_signals)
    print(f"download, when it is completed: {download_command(job.name, plan.workspace)}", flush=True)
    return 0


def _wait(client: "MLClient", job: service.Submitted, workspace: "Workspace", *, check_signals: Check) -> int:
    name = job.name
    try:
        end = wait_for(client, name, out=sys.stdout, check=check_signals)
    except (KeyboardInterrupt, WsiExtractError):
        say("\n".join([f"the job {name} goes on", *describe_running(name, workspace)]))
        raise
    if not end.is_log_shown:
        say(f"its log was not shown; it is in the studio, and brought here by: {download_command(name, workspace)}")
    if end.state.status == COMPLETED:
        print("\n".join(describe_output(end, name, workspace)), flush=True)
        if end.shortfall is not None:
            say(f"warning: {end.shortfall}")
        return 0
    reason = service.read_error(client, name)
    ended = f"the job {name} has ended as {end.state.status}{f': {reason}' if reason else ''}"
    say(f"error: {ended}. Its log is in the studio.")
    return EXIT_JOB_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; every error a user can mend is one message, not a traceback."""
    arguments = build_parser().parse_args(argv)
    with stoppable() as check_signals:
        try:
            return submit(arguments, check_signals=check_signals)
        except BaseException as error:
            trace = traceback.format_exc()
            code = _report(error, check_signals=check_signals)
            if code is None:
                raise
            if arguments.verbose:
                say(hide_secrets(trace))
            return code


def _report(error: BaseException, *, check_signals: Check) -> int | None:
    """Say what has ended the program and return the exit code, ``None`` for a bug."""
    try:
        check_signals()  # what a program stumbles over while it is being stopped is no news
    except KeyboardInterrupt as first:
        error = first
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return exit_code_of(error)
    if isinstance(error, WsiExtractError):
        say(f"error: {error}")
        return error.exit_code
    if isinstance(error, OSError):
        say(f"error: {hide_secrets(str(error))}. Mend that and submit again.")
        return PreflightError.exit_code
    if isinstance(error, ImportError) and describe_missing(error):
        say(f"error: {error}. {service.INSTALL}")
        return PreflightError.exit_code
    return None


if __name__ == "__main__":
    sys.exit(run_program(main))
