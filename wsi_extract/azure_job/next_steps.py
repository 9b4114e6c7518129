"""What a person can do with a job that was submitted, and what became of it, as lines."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from wsi_extract.azure_job.service import JobState, Submitted, studio_page

if TYPE_CHECKING:
    from wsi_extract.azure_job.job_plan import JobPlan


def describe_job(job: Submitted, plan: JobPlan) -> list[str]:
    """Return the name of a job, where to see it, and the commands for it; the name always is the first line."""
    workspace = plan.workspace
    where = (
        f"--resource-group {shlex.quote(workspace.resource_group)} "
        f"--workspace-name {shlex.quote(workspace.workspace_name)} --subscription {workspace.subscription_id}"
    )
    return [
        f"job: {job.name}",
        f"studio: {job.studio_url or studio_page(workspace, f'runs/{job.name}')}",
        f"follow: az ml job stream --name {job.name} {where}",
        f"cancel: az ml job cancel --name {job.name} {where}",
        f"download, when it is completed: az ml job download --all --name {job.name} {where}",
    ]


def describe_output(state: JobState) -> str:
    """Return where the data set of a completed job is."""
    place = state.output or "where the service has put it: see 'Outputs + logs' of the job, or download it"
    return f"data set: {place}"
