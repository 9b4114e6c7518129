"""Look up what a job needs before anything is uploaded: the service itself says much later what is not there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from wsi_extract.azure_job.job_config import PREFIX
from wsi_extract.azure_job.service import STUDIO, studio_page, text_of
from wsi_extract.azure_job.service_errors import ForbiddenError, MissingError, in_our_words
from wsi_extract.errors import PreflightError, ServiceError

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import Compute

    from wsi_extract.azure_job.job_plan import JobPlan

_PAGES = {"compute": "compute", "environment": "environments", "data": "data"}
"""Pages of the studio, by settings that name what they show."""
_KINDS = {"compute": "compute", "environment": "environment", "data": "data asset"}
_NO_SUCH_WORKSPACE = re.compile(
    r"SubscriptionNotFound|ResourceGroupNotFound|InvalidSubscriptionId"
    r"|Microsoft\.MachineLearningServices/workspaces/[^/']+' under resource group"
)
"""What the service says when it does not get as far as looking into the workspace."""

_Found = TypeVar("_Found")


def preflight(client: MLClient, plan: JobPlan) -> list[str]:
    """Look up the compute, the environment and the data of a job.

    Returns
    -------
    list of str
        Warnings, one line each.

    Raises
    ------
    PreflightError
        Listing everything that is missing or does not fit, with the page where it can be mended.
    ServiceError
        When the service does not let this account look.
    """
    problems: list[str] = []
    replies: list[MissingError] = []
    environment, _, environment_version = plan.environment.partition(":")
    data, _, data_version = plan.data.removeprefix(PREFIX).partition(":")

    def find(kind: str, name: str, read: Callable[[], _Found]) -> _Found | None:
        try:
            return _look_up(read, what=f"{_KINDS[kind]} {name}")
        except MissingError as error:
            problems.append(f"job.{kind}: there is no {_KINDS[kind]} {name}. What there is: {_page(plan, kind)}")
            replies.append(error)
            return None

    compute = find("compute", plan.compute, lambda: client.compute.get(plan.compute))
    find("environment", plan.environment, lambda: client.environments.get(environment, version=environment_version))
    asset = find("data", plan.data, lambda: client.data.get(data, version=data_version))
    if asset is not None and asset.type != "uri_folder":
        problems.append(f"job.data: {plan.data} is of type {asset.type}, not a uri_folder: see {_page(plan, 'data')}")
    if compute is not None:
        problems += _problems_of(compute, plan)
    problems += _problems_of_version(client, plan)
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        what = f"the workspace {plan.workspace.workspace_name} lacks what the job needs:{lines}"
        raise PreflightError(what) from (replies[0] if replies else None)  # for -v: in the words of the service
    return [] if compute is None else _warnings_of(compute, plan)


def _problems_of_version(client: MLClient, plan: JobPlan) -> list[str]:
    """Return what keeps the result from becoming the version it is to be: the service says so when all is done."""
    name, version = plan.output.name, plan.output.version
    if name is None or version is None:
        return []
    try:
        _look_up(lambda: client.data.get(name, version=version), what=f"data asset {name}:{version}")
    except MissingError:
        return []
    taken = f"{name}:{version} exists already, and a version cannot be replaced; leave it out for the next one"
    return [f"job.output.version: {taken}. What there is: {_page(plan, 'data')}"]


def _look_up(read: Callable[[], _Found], *, what: str) -> _Found:
    """Return what ``read`` finds; raises `MissingError` when there is no such thing in a workspace that is there."""
    try:
        with in_our_words(f"find the {what}"):
            return read()
    except ForbiddenError as error:
        other = "With --no_preflight the job is submitted without looking."
        raise ServiceError(error.message, f"{error.remedy} {other}") from error.__cause__
    except MissingError as error:
        if _NO_SUCH_WORKSPACE.search(error.message) is None:
            raise
        where = f"Check subscription_id, resource_group and workspace_name; {STUDIO} shows your workspaces."
        raise PreflightError(f"the workspace of config.json is not there: {error.message}", where) from error.__cause__


def _problems_of(compute: Compute, plan: JobPlan) -> list[str]:
    """Return what keeps the job from running on a compute."""
    is_machine = "instance" in str(compute.type).casefold()  # a single one, as people use it for notebooks
    most = 1 if is_machine else getattr(compute, "max_instances", None)
    if most is None or plan.nodes <= most:
        return []
    page = _page(plan, "compute")
    return [f"job.nodes: the compute {plan.compute} has at most {most} nodes, not {plan.nodes}: see {page}"]


def _warnings_of(compute: Compute, plan: JobPlan) -> list[str]:
    warnings = []
    state = text_of(compute.provisioning_state)
    if state not in ("", "Succeeded"):
        warnings.append(f"the compute {plan.compute} is in the state {state}: the job may wait for long")
    if getattr(compute, "tier", None) == "low_priority" and plan.output.mode == "upload":
        warnings.append(
            f"the compute {plan.compute} has low priority: its nodes can be taken away at any time, and with the "
            "output mode upload all that was done until then is lost. Use a dedicated compute, or the output mode "
            "rw_mount with a path of your own"
        )
    return warnings


def _page(plan: JobPlan, kind: str) -> str:
    return studio_page(plan.workspace, _PAGES[kind])
