"""The workspace that a job goes to: three values at the top of config.json, where Azure's own tools look for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.config_problems import shortened
from wsi_extract.printable import as_one_line

WORKSPACE_KEYS = ("subscription_id", "resource_group", "workspace_name")
TENANT_KEY = "tenant_id"
TOP_KEYS = (*WORKSPACE_KEYS, TENANT_KEY, "job", "extraction")
GUID_FORM = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NAME_FORM = re.compile(r"[\w().-]{1,90}")
PLACEHOLDER_FORM = re.compile(r"<[^<>]*>")
MEANINGS: Mapping[str, str] = {
    "subscription_id": "the id of the Azure subscription",
    "resource_group": "the resource group of the workspace",
    "workspace_name": "the name of the Azure ML workspace",
    TENANT_KEY: "the id of the tenant (directory) to log in to",
}
WHERE_TO_FIND = (
    "The studio, https://ml.azure.com, shows them when you open the workspace and click its name at the top right"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """An Azure ML workspace.

    A value may still be a placeholder as ``<your-subscription-id>``: a dry run goes on with it, nothing else does.
    """

    subscription_id: str
    resource_group: str
    workspace_name: str

    @property
    def arm_id(self) -> str:
        """Path of the workspace at the service."""
        return (
            f"/subscriptions/{self.subscription_id}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace_name}"
        )


def is_placeholder(value: str) -> bool:
    """Say whether a value is one of the ``<...>`` that the shipped config.json holds."""
    return PLACEHOLDER_FORM.fullmatch(value) is not None


def describe_placeholders(workspace: Workspace, tenant_id: str | None, *, path: Path) -> list[str]:
    """Say which values of config.json have not been filled in yet; nothing if none."""
    values = {key: str(getattr(workspace, key)) for key in WORKSPACE_KEYS} | {TENANT_KEY: tenant_id or ""}
    found = [key for key, value in values.items() if is_placeholder(value)]
    if not found:
        return []
    meant = ", ".join(f"{key} ({MEANINGS[key]})" for key in found)
    return [f"{path} is not filled in yet: {meant}. {WHERE_TO_FIND}"]


def read_workspace(document: Mapping[str, object]) -> tuple[Workspace, list[str]]:
    """Return the workspace that a config file names, and what is wrong with its top level, one line each.

    With problems the workspace is not to be used. Unknown keys are tolerated (other tools may keep theirs there),
    unless they are misspelled or would lead Azure's client elsewhere.
    """
    problems = _problems_of_keys(document)
    texts = {}
    for key in WORKSPACE_KEYS:
        problem = _problem_of_value(key, document)
        problems += [problem] if problem else []
        texts[key] = str(document.get(key, ""))
    return Workspace(**texts), problems


def read_tenant(document: Mapping[str, object]) -> tuple[str | None, list[str]]:
    """Return the tenant to log in to, ``None`` for that of the account, and what is wrong with it."""
    if document.get(TENANT_KEY) is None:
        return None, []
    problem = _problem_of_value(TENANT_KEY, document)
    return str(document[TENANT_KEY]), [problem] if problem else []


def _problem_of_value(key: str, document: Mapping[str, object]) -> str:
    if key not in document:
        near = difflib.get_close_matches(key, document, n=1, cutoff=0.8)
        hint = f"; '{shortened(near[0])}' is there: is it misspelled?" if near else ""
        return f"{key} is missing at the top level: {MEANINGS[key]}{hint}"
    value = document[key]
    if not isinstance(value, str) or not value.strip():
        return f"{key}: expected {MEANINGS[key]} as a text, got {as_one_line(shortened(repr(value)))}"
    is_id = key in ("subscription_id", TENANT_KEY)
    if is_placeholder(value) or (GUID_FORM if is_id else NAME_FORM).fullmatch(value):
        return ""
    expected = "an id as 01234567-89ab-cdef-0123-456789abcdef" if is_id else MEANINGS[key]
    return f"{key}: expected {expected}, got {as_one_line(shortened(repr(value)))}"


def _problems_of_keys(document: Mapping[str, object]) -> list[str]:
    problems = []
    for key in document:
        shown = as_one_line(shortened(key))
        if key.casefold() == "scope":
            problems.append(
                f"'{shown}' at the top level: Azure's client would take the workspace from it, not from "
                "subscription_id, resource_group and workspace_name; remove it"
            )
        elif key not in TOP_KEYS:
            near = difflib.get_close_matches(key[:80], TOP_KEYS, n=1, cutoff=0.8)
            if near and near[0] not in {*document, *WORKSPACE_KEYS, "extraction"}:  # those are missed elsewhere
                problems.append(f"unknown key '{shown}' at the top level; did you mean '{near[0]}'?")
    return problems
