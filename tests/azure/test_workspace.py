from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.azure.helpers_job import ROOT, SUBSCRIPTION, TRIPLE, config_file, plan_of, refusal, settings_of
from tests.helpers_config import problems_of
from wsi_extract.azure_job.settings import load_job_settings
from wsi_extract.azure_job.workspace import Workspace

TENANT = "5dbf1add-202a-4b8d-815b-bf0fb024e033"


def test_a_workspace_is_read(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, tenant_id=TENANT)
    assert settings.workspace == Workspace(
        subscription_id=SUBSCRIPTION, resource_group="rg-pathology", workspace_name="ws-pathology"
    )
    assert settings.tenant_id == TENANT
    assert settings.workspace.arm_id.endswith(
        f"/{SUBSCRIPTION}/resourceGroups/rg-pathology/providers/Microsoft.MachineLearningServices/workspaces/ws-pathology"
    )


def test_the_tenant_may_be_left_to_the_account(tmp_path: Path) -> None:
    assert settings_of(tmp_path).tenant_id is None
    assert settings_of(tmp_path, tenant_id=None).tenant_id is None


def test_a_byte_order_mark_and_keys_of_other_tools_are_tolerated(tmp_path: Path) -> None:
    path = config_file(tmp_path, description="ours", owner={"name": "x"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_job_settings(path).workspace.resource_group == "rg-pathology"


VALUES: dict[str, tuple[str, object, str]] = {
    "null": (
        "resource_group",
        None,
        "resource_group: expected the resource group of the workspace as a text, got None",
    ),
    "empty": ("workspace_name", "", "workspace_name: expected"),
    "blank": ("workspace_name", "  ", "workspace_name: expected"),
    "a number": ("resource_group", 5, "got 5"),
    "a list": ("resource_group", ["a"], "got ['a']"),
    "no id": ("subscription_id", "my subscription", "expected an id as 01234567-89ab"),
    "an id with a line end": ("subscription_id", f"{SUBSCRIPTION}\n", "expected an id"),
    "a name with a slash": ("workspace_name", "ws/computes/x", "got 'ws/computes/x'"),
    "half a placeholder": ("resource_group", "<rg", "got '<rg'"),
    "a tenant that is no id": ("tenant_id", "example.org/x", "tenant_id: expected an id"),
    "an empty tenant": ("tenant_id", "", "tenant_id: expected"),
    "Scope": ("Scope", "/subscriptions/x", "Azure's client would take the workspace from it"),
    "scope": ("sCOPE", "/subscriptions/x", "'sCOPE' at the top level"),
    "a job key": ("compute", "x", "compute: it belongs in the object 'job'"),
    "a setting": ("patch_size", 256, "'patch_size' must be inside the object 'extraction'"),
    "job misspelled": ("jobs", {}, "unknown key 'jobs' at the top level; did you mean 'job'?"),
    "extraction misspelled": ("extractions", {}, "unknown key 'extractions'; did you mean 'extraction'?"),
    "tenant misspelled": ("tenantid", TENANT, "did you mean 'tenant_id'?"),
    "job is a list": ("job", [], "job: expected an object, got []"),
    "job is null": ("job", None, "job: expected an object, got null"),
    "extraction is a list": ("extraction", [], "expected an object with an object 'extraction'"),
}


@pytest.mark.parametrize(("key", "value", "message"), VALUES.values(), ids=VALUES)
def test_values_that_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert message in refusal(tmp_path, **{key: value})


@pytest.mark.parametrize("key", TRIPLE)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in TRIPLE.items() if name != key} | {key.upper(): "x"}))
    assert f"{key} is missing at the top level" in problems_of(lambda: load_job_settings(path))


def test_a_misspelled_key_is_pointed_out(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TRIPLE, "workspace_nam": "x", "workspace_name": None}))
    assert "workspace_name: expected" in problems_of(lambda: load_job_settings(path))
    path.write_text(json.dumps({"subscription_id": SUBSCRIPTION, "resource_group": "a", "workspacename": "x"}))
    assert "'workspacename' is there: is it misspelled?" in problems_of(lambda: load_job_settings(path))


FILES = {
    "nothing": (b"", "is not valid JSON"),
    "a comment": (b"{} // ours", "is not valid JSON"),
    "a list": (b"[]", "expected an object with what config.json has"),
    "a key twice": (b'{"resource_group": "a", "resource_group": "b"}', "the key 'resource_group' occurs twice"),
    "a key of job twice": (b'{"job": {"nodes": 1, "nodes": 2}}', "the key 'nodes' occurs twice"),
    "NaN": (b'{"job": {"timeout_s": NaN}}', "NaN is not JSON"),
    "Latin-1": ('{"resource_group": "ü"}'.encode("latin-1"), "is not valid JSON"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    found = problems_of(lambda: load_job_settings(path))
    assert message in found
    assert str(path) in found


def test_a_missing_file_is_named_even_if_a_folder_above_has_one(tmp_path: Path) -> None:
    config_file(tmp_path)
    (tmp_path / "sub").mkdir()
    missing = tmp_path / "sub" / "config.json"
    assert f"cannot read the config file {missing}" in problems_of(lambda: load_job_settings(missing))


def test_placeholders_are_no_reason_not_to_look_at_a_job(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, subscription_id="<your-subscription-id>", tenant_id="<your-tenant-id>")
    assert len(plan.problems) == 1
    assert "subscription_id (the id of the Azure subscription)" in plan.problems[0]
    assert "tenant_id (" in plan.problems[0]
    assert "resource_group" not in plan.problems[0]
    assert "https://ml.azure.com" in plan.problems[0]
    assert plan_of(tmp_path).problems == ()


def test_the_file_of_the_repository_waits_for_its_workspace() -> None:
    settings = load_job_settings(ROOT / "config.json")
    assert settings.tenant_id == TENANT
    assert settings.workspace.subscription_id.startswith("<")
