"""What a person can do with a job that was submitted, and what became of it, as lines."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from wsi_extract.azure_job.service import Submitted, studio_page
from wsi_extract.azure_job.waiting import JobEnd
from wsi_extract.azure_job.workspace import Workspace

if TYPE_CHECKING:
    from wsi_extract.azure_job.job_plan import JobPlan


def describe_job(job: Submitted, plan: JobPlan) -> list[str]:
    """Return the name of a job, where to see it, and the commands for it; the name always is the first line."""
    return [
        f"job: {job.name}",
        f"studio: {job.studio_url or studio_page(plan.workspace, f'runs/{job.name}')}",
        *describe_running(job.name, plan.workspace),
    ]


def describe_running(name: str, workspace: Workspace) -> list[str]:
    """Return the commands for a job that runs."""
    which = f"--name {name} {where_az_looks(workspace)}"
    return [f"follow: az ml job stream {which}", f"cancel: az ml job cancel {which}"]


def download_command(name: str, workspace: Workspace) -> str:
    """Return the command that brings the output and the logs of a job that has ended to this machine."""
    return f"az ml job download --all --name {name} {where_az_looks(workspace)}"


def where_az_looks(workspace: Workspace) -> str:
    """Return the options of Azure's command line that name a workspace."""
    return (
        f"--resource-group {shlex.quote(workspace.resource_group)} "
        f"--workspace-name {shlex.quote(workspace.workspace_name)} "
        f"--subscription {shlex.quote(workspace.subscription_id)}"
    )


def describe_output(end: JobEnd, name: str, workspace: Workspace) -> list[str]:
    """Return where the data set of a completed job is, and the command that brings it here."""
    place = end.state.output or "where the service has put it; 'Outputs + logs' of the job's page leads there"
    return [f"data set: {place}", f"download: {download_command(name, workspace)}"]
