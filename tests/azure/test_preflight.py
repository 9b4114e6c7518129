"""What is looked up before a job is submitted, with the real library and an emulated service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.azure.emulator import TRIPLE, WORKSPACE_ID, AzureEmulator
from tests.azure.helpers_job import plan_of
from tests.azure.messages import Reply
from tests.azure.workspace import Compute
from wsi_extract.azure_job.job_plan import JobPlan
from wsi_extract.azure_job.preflight import preflight
from wsi_extract.azure_job.service_errors import UnreachableError
from wsi_extract.errors import PreflightError, ServiceError

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")


def plan(tmp_path: Path, *overrides: str, **keys: object) -> JobPlan:
    return plan_of(tmp_path, *overrides, **{**TRIPLE, **keys})


def test_what_is_there_is_looked_up_once_and_needs_no_word(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    assert preflight(client, plan(tmp_path)) == []
    assert len(azure.requests) == len(azure.asked("compute.get", "environments.get", "data.get")) == 3


def test_everything_that_is_missing_is_named_with_its_page(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.computes.clear()
    azure.environments.clear()
    azure.data.clear()
    with pytest.raises(PreflightError) as caught:
        preflight(client, plan(tmp_path))
    first, *lines = str(caught.value).splitlines()
    assert TRIPLE["workspace_name"] in first
    assert [line.partition(" What there is: ") for line in lines] == [
        (f"  {what}.", " What there is: ", f"https://ml.azure.com/{page}?wsid={WORKSPACE_ID}")
        for what, page in (
            ("job.compute: there is no compute xseligam-mitos-train", "compute"),
            ("job.environment: there is no environment xseligam_mitos:17", "environments"),
            ("job.data: there is no data asset azureml:xseligam-ccmct-wsi:1", "data"),
        )
    ]
    assert "HTTP 404" in str(caught.value.__cause__), "in the words of the service with -v"
    assert len(azure.requests) == 3, "nothing is uploaded"


@pytest.mark.parametrize("kind", ["uri_file", "mltable"])
def test_data_of_another_type_is_refused(kind: str, client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    azure.data["xseligam-ccmct-wsi", "1"] = kind
    with pytest.raises(PreflightError, match=f"{kind}, not a uri_folder"):
        preflight(client, plan(tmp_path))


def test_more_nodes_than_there_are_are_refused(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    azure.computes["xseligam-mitos-train"] = Compute(max_nodes=3)
    trusted = {"trusted_network": True}
    assert preflight(client, plan(tmp_path, job={"nodes": 3, **trusted})) == []
    with pytest.raises(PreflightError, match=r"at most 3 nodes, not 4"):
        preflight(client, plan(tmp_path, job={"nodes": 4, **trusted}))


def test_low_priority_is_a_warning_where_the_output_would_be_lost(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.computes["xseligam-mitos-train"] = Compute(tier="LowPriority")
    (warning,) = preflight(client, plan(tmp_path))
    assert "low priority" in warning
    assert preflight(client, plan(tmp_path, job={"output": {"mode": "rw_mount"}})) == []


def test_a_version_of_the_result_that_is_taken_is_no_news_at_the_end_of_the_job(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    numbered = plan(tmp_path, job={"output": {"name": "wsi-patches", "version": 3}})
    assert preflight(client, numbered) == []
    azure.data["wsi-patches", "3"] = "uri_folder"
    with pytest.raises(PreflightError, match=r"job\.output\.version: wsi-patches:3 exists already") as caught:
        preflight(client, numbered)
    assert f"https://ml.azure.com/data?wsid={WORKSPACE_ID}" in str(caught.value)
    assert preflight(client, plan(tmp_path, job={"output": {"name": "wsi-patches"}})) == []


@pytest.mark.parametrize("step", ["compute.get", "environments.get", "data.get"])
def test_an_account_that_may_not_look_is_told_to_go_on(
    step: str, client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.fail(step, 403, code="AuthorizationFailed", message="no permission to read")
    with pytest.raises(ServiceError, match=r"no permission to read .*--no_preflight"):
        preflight(client, plan(tmp_path))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ResourceGroupNotFound", "Resource group 'x' could not be found."),
        (
            "ResourceNotFound",  # the code of computes that are not there, too
            "The Resource 'Microsoft.MachineLearningServices/workspaces/x' under resource group 'y' was not found.",
        ),
    ],
)
def test_a_workspace_that_is_not_there_is_one_problem_not_three(
    code: str, message: str, client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.fail("compute.get", 404, code=code, message=message)
    with pytest.raises(PreflightError, match="Check subscription_id, resource_group and workspace_name"):
        preflight(client, plan(tmp_path))
    assert len(azure.requests) == 1


def test_a_machine_for_notebooks_is_one_node(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    inner = {"vmSize": "STANDARD_D4S_V3", "state": "Running"}
    compute = {"computeType": "ComputeInstance", "provisioningState": "Updating", "properties": inner}
    body = json.dumps({"name": "xseligam-mitos-train", "location": "x", "properties": compute}).encode()
    azure.reply_with("compute.get", Reply(status=200, headers={"Content-Type": "application/json"}, body=body))
    (warning,) = preflight(client, plan(tmp_path))
    assert "state Updating" in warning
    with pytest.raises(PreflightError, match="at most 1 nodes, not 2"):
        preflight(client, plan(tmp_path, job={"nodes": 2, "trusted_network": True}))


def test_a_service_without_an_answer_is_no_missing_compute(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.fail("compute.get", 503)
    with pytest.raises(UnreachableError, match="cannot find the compute xseligam-mitos-train"):
        preflight(client, plan(tmp_path))
