"""What is looked up and sent, with the real library and an emulated service."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.azure.credential import Credential
from tests.azure.emulator import TRIPLE, AzureEmulator
from tests.azure.helpers_job import PROGRAM_NAMES, plan_of
from tests.azure.in_process import write_settings
from tests.azure.messages import Json, Reply, Trouble
from wsi_extract.azure_job import service
from wsi_extract.azure_job.job_plan import JobPlan
from wsi_extract.azure_job.service_errors import ForbiddenError, MissingError, UnreachableError
from wsi_extract.azure_job.snapshot import staged
from wsi_extract.azure_job.workspace import Workspace
from wsi_extract.errors import AuthenticationFailedError, PreflightError, ServiceError, WsiExtractError

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")

WORKSPACE = Workspace(**TRIPLE)


def plan(tmp_path: Path, *overrides: str, **keys: object) -> JobPlan:
    return plan_of(tmp_path, *overrides, **{**TRIPLE, **keys})


def submit(client: MLClient, plan: JobPlan) -> service.Submitted:
    with staged(plan.snapshot) as code:
        return service.submit(client, plan, code=code)


def submitted(client: MLClient, azure: AzureEmulator, plan: JobPlan) -> dict[str, Json]:
    """Submit a job and return its properties as they arrived."""
    return azure.jobs[submit(client, plan).name].properties


# --- the client


def test_the_client_belongs_to_the_file_and_not_to_the_folder(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / ".azureml" / "config.json"  # which the library prefers to ./config.json
    other.parent.mkdir()
    write_settings(other, workspace_name="another-workspace")
    monkeypatch.chdir(tmp_path)
    write_settings(tmp_path / "config.json")
    client = service.open_client(Credential(), config_path=Path("config.json"), workspace=WORKSPACE)
    assert client.workspace_name == TRIPLE["workspace_name"]
    assert azure.requests == []


@pytest.mark.usefixtures("azure")
@pytest.mark.parametrize("before", ["AzureCloud", None])
def test_the_environment_is_as_before(before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv("AZUREML_CURRENT_CLOUD")
    service.open_client(Credential(), config_path=write_settings(tmp_path / "c.json"), workspace=WORKSPACE)
    assert os.environ.get("AZUREML_CURRENT_CLOUD") == before


@pytest.mark.usefixtures("azure")
def test_a_file_that_names_another_workspace_by_now_is_refused(tmp_path: Path) -> None:
    path = write_settings(tmp_path / "c.json", workspace_name="another-workspace")
    with pytest.raises(PreflightError, match="another-workspace"):
        service.open_client(Credential(), config_path=path, workspace=WORKSPACE)


@pytest.mark.usefixtures("azure")
@pytest.mark.parametrize("content", [None, "", "[]", "{"], ids=["gone", "empty", "list", "cut"])
def test_a_file_that_is_damaged_by_now_is_no_traceback(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ServiceError, match=r"c\.json"):
        service.open_client(Credential(), config_path=path, workspace=WORKSPACE)


@pytest.mark.usefixtures("azure")
def test_a_token_goes_to_no_other_host_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_DEV_URL_MFE", "https://elsewhere.example")
    path = write_settings(tmp_path / "c.json")
    with pytest.raises(PreflightError, match=r"elsewhere\.example"):
        service.open_client(Credential(), config_path=path, workspace=WORKSPACE)
    monkeypatch.setenv("WSI_EXTRACT_ALLOW_DEV_URL", "1")
    service.open_client(Credential(), config_path=path, workspace=WORKSPACE)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "azure.ai.ml", None)
    with pytest.raises(PreflightError, match=r"pip install -r requirements-azure\.txt") as caught:
        service.load_libraries()
    assert caught.value.exit_code == 2


# --- submission


def test_values_arrive_as_they_are_planned(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    wanted = plan(
        tmp_path,
        job={
            "timeout_s": 21_600,
            "tags": {"study": "a b"},
            "environment_variables": {"FLAG": True, "COUNT": 3},
            "output": {"name": "wsi-patches"},
            "services": ["vscode", "jupyterlab", "ssh"],
            "ssh_public_key": "ssh-ed25519 AAAA me",
        },
    )
    found = submitted(client, azure, wanted)
    assert found["command"] == wanted.command
    assert found["limits"] == {"timeout": "PT6H", "jobLimitsType": "Command"}
    assert found["environmentVariables"] == dict(wanted.environment_variables)
    assert found["outputs"] == {
        "patch_dataset": {"mode": "Upload", "jobOutputType": "uri_folder", "assetName": "wsi-patches"}
    }
    tags, services = found["tags"], found["services"]
    assert isinstance(tags, dict)
    assert isinstance(services, dict)
    assert tags == {"wsi_extract": "0.1.0", "wsi_extract_files": wanted.snapshot.digest[:16], "study": "a b"}
    kinds = {name: entry["jobServiceType"] for name, entry in services.items() if isinstance(entry, dict)}
    assert kinds == {"vscode": "VSCode", "jupyterlab": "JupyterLab", "ssh": "SSH"}
    assert "resources" not in found
    assert "distribution" not in found


def test_several_nodes_get_one_process_each(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    found = submitted(client, azure, plan(tmp_path, job={"nodes": 4, "trusted_network": True}))
    assert found["resources"] == {"instanceCount": 4, "properties": {}}
    assert found["distribution"] == {"processCountPerInstance": 1, "distributionType": "PyTorch"}


def test_the_files_arrive_and_are_uploaded_once(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    wanted = plan(tmp_path)
    first = submit(client, wanted)
    assert sorted(azure.snapshot(azure.jobs[first.name])) == PROGRAM_NAMES
    n_uploads = len(azure.asked("blob.put"))
    second = submit(client, wanted)
    assert first.name != second.name
    assert azure.jobs[first.name].properties["codeId"] == azure.jobs[second.name].properties["codeId"]
    assert len(azure.asked("blob.put")) == n_uploads == len(PROGRAM_NAMES)


def test_nothing_of_a_repository_travels(
    client: MLClient, azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)  # a repository, in the checkout that the tests run in
    monkeypatch.setenv("GIT_DIR", "as-before")
    assert submitted(client, azure, plan(tmp_path))["properties"] == {}
    assert os.environ["GIT_DIR"] == "as-before"


@pytest.mark.timeout(60)
def test_a_file_that_cannot_be_uploaded_ends_the_submission(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.fail("blob.put", 403, code="AuthorizationFailure", message="not from this network")  # or it waits for ever
    with pytest.raises(ServiceError, match="not from this network"):
        submit(client, plan(tmp_path))
    assert azure.jobs == {}


def test_progress_stays_off_the_terminal(client: MLClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    submit(client, plan(tmp_path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("outcome", "error", "text"),
    [
        (400, ServiceError, r"cannot submit the job: as scripted \(ScriptedFailure, HTTP 400\)\."),
        (403, ForbiddenError, "rights on the workspace"),
        (404, MissingError, r"names in its 'job' object"),
        (409, ServiceError, "HTTP 409"),
        (401, AuthenticationFailedError, "tenant_id"),
        (503, UnreachableError, "the reply was lost or damaged, the job is there"),
        (429, UnreachableError, "busy"),
        (Trouble.RESET, UnreachableError, "HTTPS_PROXY.*if only the reply was lost"),
        (Trouble.TIMEOUT, UnreachableError, "did not answer in time"),
        (Trouble.WRONG_CERTIFICATE, UnreachableError, "REQUESTS_CA_BUNDLE"),
    ],
)
def test_a_refusal_is_one_line(
    outcome: int | Trouble,
    error: type[WsiExtractError],
    text: str,
    client: MLClient,
    azure: AzureEmulator,
    tmp_path: Path,
) -> None:
    azure.fail("jobs.put", outcome, message="as scripted")
    with pytest.raises(error, match=text) as caught:
        submit(client, plan(tmp_path))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>log in here</html>", b'{"properties": 5}'])
def test_a_reply_without_sense_is_no_traceback(
    body: bytes, client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    azure.reply_with("jobs.put", Reply(status=200, headers={"Content-Type": "application/json"}, body=body))
    with pytest.raises(ServiceError, match="cannot submit the job"):
        submit(client, plan(tmp_path))


def test_a_busy_service_gets_another_chance(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    azure.fail("jobs.put", 503, times=2)
    submit(client, plan(tmp_path))
    assert len(azure.jobs) == 1


# --- afterwards


def test_the_place_of_the_output_is_read(client: MLClient, azure: AzureEmulator, tmp_path: Path) -> None:
    plain = submit(client, plan(tmp_path))
    assert plain.studio_url is not None
    assert plain.name in plain.studio_url
    assert service.read_job(client, plain.name).output is None
    named = submit(client, plan(tmp_path, job={"output": {"name": "wsi-patches"}}))
    assert service.read_job(client, named.name).output == "azureml:wsi-patches, as its next version"
    versioned = submit(client, plan(tmp_path, job={"output": {"name": "wsi-patches", "version": "7"}}))
    assert service.read_job(client, versioned.name).output == "azureml:wsi-patches:7"
    place = "azureml://datastores/store/paths/patches/"
    placed = submit(client, plan(tmp_path, job={"output": {"path": place}}))
    assert service.read_job(client, placed.name).output == place
    assert azure.jobs[placed.name].properties["outputs"]


def test_why_a_job_failed_is_read_where_the_service_says_it(
    client: MLClient, azure: AzureEmulator, tmp_path: Path
) -> None:
    name = submit(client, plan(tmp_path)).name
    assert service.read_error(client, name) == ""
    details = {"runId": name, "status": "Failed", "error": {"error": {"code": "UserError", "message": "exit\n2."}}}
    azure.reply_with("details.get", Reply(status=200, body=json.dumps(details).encode()))
    assert service.read_error(client, name) == "exit 2"


def test_a_job_that_nobody_knows(client: MLClient) -> None:
    with pytest.raises(ServiceError, match="no-such-job"):
        service.read_job(client, "no-such-job")
