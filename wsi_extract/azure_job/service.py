"""The workspace as this program uses it: open it, submit a job, read what became of it.

The only module that knows Azure ML's library; what this has to be protected from stands where it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_extract.azure_job.command import INPUT_NAME, OUTPUT_NAME
from wsi_extract.azure_job.job_config import PREFIX
from wsi_extract.azure_job.sdk_noise import hand_over_handlers, without_progress
from wsi_extract.azure_job.service_errors import UnreachableError, in_our_words, one_line
from wsi_extract.azure_job.surroundings import PACKAGES, refuse_other_host
from wsi_extract.errors import PreflightError, ServiceError
from wsi_extract.node_start.requirements import find_problems

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import (
        Command,
        Job,
        JobService,
        JupyterLabJobService,
        SshJobService,
        TensorBoardJobService,
        VsCodeJobService,
    )
    from azure.core.credentials import TokenCredential

    from wsi_extract.azure_job.job_plan import JobPlan
    from wsi_extract.azure_job.workspace import Workspace

    AnyService = JobService | JupyterLabJobService | SshJobService | TensorBoardJobService | VsCodeJobService

STUDIO = "https://ml.azure.com"
INSTALL = "Run: pip install -r requirements-azure.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job that the service has accepted; not every account is told the address of the studio."""

    name: str
    studio_url: str | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """How far a job is, and where its output goes; ``None`` when the service does not say."""

    status: str
    output: str | None


def load_libraries() -> None:
    """Import Azure's libraries, which takes seconds.

    Raises
    ------
    PreflightError
        When they are not there, damaged, or of versions that this program does not know.
    """
    problems = find_problems(PACKAGES)
    if problems:
        what = f"Azure's packages are missing on this machine, or of other versions: {'; '.join(problems)}."
        raise PreflightError(what, INSTALL)
    try:
        import azure.ai.ml  # noqa: PLC0415
        import azure.identity  # noqa: F401, PLC0415
    except ImportError as error:
        what = f"Azure's packages are damaged on this machine: {one_line(str(error))}."
        raise PreflightError(what, INSTALL) from error
    hand_over_handlers()


def open_client(credential: TokenCredential, *, config_path: Path, workspace: Workspace) -> MLClient:
    """Return the client of the workspace that a config file names; nothing is requested yet.

    Raises
    ------
    PreflightError
        When requests, and the token with them, would go to another host, or to another workspace.
    """
    from azure.ai.ml import MLClient  # noqa: PLC0415

    refuse_other_host(os.environ)
    # It must be an existing file: else, and without one, the library takes any config.json of a parent folder. Without
    # progress bars it ignores that files cannot be uploaded, and waits for them for ever.
    with _environment("AZUREML_CURRENT_CLOUD", None), in_our_words(f"open the workspace of {config_path}"):
        client = MLClient.from_config(
            credential, path=str(config_path.resolve(strict=True)), show_progress=True, enable_telemetry=False
        )
        found = (client.subscription_id, client.resource_group_name, client.workspace_name)
    wanted = (workspace.subscription_id, workspace.resource_group, workspace.workspace_name)
    if found != wanted:
        raise PreflightError(
            f"Azure's library has read the workspace {'/'.join(map(str, found))} from {config_path}, which names "
            f"{'/'.join(wanted)}.",
            "Leave the file alone while a job is submitted.",
        )
    return client


def submit(client: MLClient, plan: JobPlan, *, code: Path, is_verbose: bool = False) -> Submitted:
    """Upload the files in ``code`` (unless the service has just these already) and create the job.

    Raises
    ------
    ServiceError
        When the service refuses, or the connection breaks; the message says whether a job may have been made.
    """
    # Else git would be asked for the commit of the current folder, whatever that is, and its remote.
    with _environment("GIT_DIR", os.devnull), without_progress(is_verbose=is_verbose):
        try:
            with in_our_words("submit the job"):
                job = client.jobs.create_or_update(make_job(plan, code=code))
                return Submitted(name=str(job.name), studio_url=job.studio_url, status=text_of(job.status))
        except ServiceError as error:
            if not _may_be_made(error):
                raise
            page = studio_page(plan.workspace, "jobs")
            look = f"Before that look at {page}: if only the reply was lost or damaged, the job is there."
            raise type(error)(error.message, f"{error.remedy} {look}".strip()) from error.__cause__


def _may_be_made(error: ServiceError) -> bool:
    """Say whether the service may have made a job before this happened: it has not where it refused."""
    from azure.core.exceptions import AzureError, HttpResponseError  # noqa: PLC0415

    cause = error.__cause__
    if isinstance(error, UnreachableError) or not isinstance(cause, AzureError):
        return True
    return isinstance(cause, HttpResponseError) and (cause.status_code or 0) < 400  # a page in place of an answer


def make_job(plan: JobPlan, *, code: Path) -> Command:
    """Return the job in the library's terms; every value stands in the plan."""
    from azure.ai.ml import Input, Output, PyTorchDistribution, command  # noqa: PLC0415

    output = plan.output.model_dump(exclude_none=True)
    return command(
        code=str(code),
        command=plan.command,
        inputs={INPUT_NAME: Input(type="uri_folder", path=plan.data, mode=plan.data_mode)},
        outputs={OUTPUT_NAME: Output(type="uri_folder", **output)},
        compute=plan.compute,
        environment=plan.environment,
        display_name=plan.display_name,
        experiment_name=plan.experiment,
        environment_variables={name: str(value) for name, value in plan.environment_variables.items()},
        instance_count=plan.nodes if plan.nodes > 1 else None,
        distribution=PyTorchDistribution(process_count_per_instance=1) if plan.nodes > 1 else None,
        timeout=plan.timeout_s,
        services=_services(plan) or None,
        tags=dict(plan.tags),
    )


def _services(plan: JobPlan) -> dict[str, AnyService]:
    from azure.ai.ml.entities import JupyterLabJobService, SshJobService, VsCodeJobService  # noqa: PLC0415

    services: dict[str, AnyService] = {}
    for name in plan.services:
        match name:
            case "vscode":
                services[name] = VsCodeJobService()
            case "jupyterlab":
                services[name] = JupyterLabJobService()
            case _:
                services[name] = SshJobService(ssh_public_keys=plan.ssh_public_key)
    return services


def read_job(client: MLClient, name: str) -> JobState:
    """Return how far a job is; raises `ServiceError`, `UnreachableError` when another attempt may succeed."""
    with in_our_words(f"read the status of the job {name}"):
        job = client.jobs.get(name)
        return JobState(status=text_of(job.status), output=_output_of(job))


def _output_of(job: Job) -> str | None:
    output = getattr(job, "outputs", {}).get(OUTPUT_NAME)
    name, version, path = (getattr(output, key, None) for key in ("name", "version", "path"))
    if isinstance(name, str) and name:
        return f"{PREFIX}{name}:{version}" if version else f"{PREFIX}{name}, as its next version"
    return path if isinstance(path, str) and path else None


def read_error(client: MLClient, name: str) -> str:
    """Return what a failed job says of its failure in one line; empty where the service does not say."""
    try:
        with in_our_words("read why the job failed"):
            # Private: the library shows it to its own log viewer only.
            response = client.jobs._runs_operations.get_run_details(name).error
    except ServiceError:
        return ""
    text = response.error.message if response is not None and response.error is not None else None
    return one_line(text) if isinstance(text, str) else ""


def studio_page(workspace: Workspace, page: str) -> str:
    """Return the address of a page of the studio for a workspace."""
    return f"{STUDIO}/{page}?wsid={workspace.arm_id}"


def text_of(status: object) -> str:
    """Return the text of a status, which the library holds as text or as a member of one of its enums."""
    return one_line(str(getattr(status, "value", status) or ""))


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable within the block, and have it as before afterwards, whoever changed it."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
