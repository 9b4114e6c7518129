"""What reaches the service: the body of the job and the files beside it, sent by the unmodified Azure library."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.azure.emulator import TRIPLE, WORKSPACE_ID, AzureEmulator, EmulatedJob
from tests.azure.helpers_job import EXACT_COMMAND, program
from tests.azure.in_process import write_settings
from tests.azure.messages import Json
from tests.azure.repositories import (
    SECRET,
    add_junk,
    add_links,
    make_git_repository,
    read_shipped,
    write_program,
)
from wsi_extract.azure_job import service
from wsi_extract.azure_job.job_plan import JobPlan, plan_job
from wsi_extract.azure_job.settings import load_job_settings
from wsi_extract.azure_job.snapshot import staged
from wsi_extract.errors import ConfigError

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning"),
    pytest.mark.timeout(60),
]

BODY: Json = {
    "displayName": "extract-patches-100pps",
    "command": EXACT_COMMAND,
    "codeId": f"{WORKSPACE_ID}/codes/UUID/versions/1",
    "computeId": f"{WORKSPACE_ID}/computes/xseligam-mitos-train",
    "properties": {},
    "experimentName": "Mitos-Patch-Extraction",
    "isArchived": False,
    "inputs": {
        "wsi_data": {
            "uri": f"{WORKSPACE_ID}/data/xseligam-ccmct-wsi/versions/1",
            "mode": "ReadOnlyMount",
            "jobInputType": "uri_folder",
        }
    },
    "outputs": {"patch_dataset": {"mode": "Upload", "jobOutputType": "uri_folder"}},
    "environmentId": f"{WORKSPACE_ID}/environments/xseligam_mitos/versions/17",
    "tags": {},
    "environmentVariables": {},
    "jobType": "Command",
}
"""What the required values come to."""


def plan(config: Path, *, root: Path) -> JobPlan:
    return plan_job(load_job_settings(config), root=root)


def submit(azure: AzureEmulator, config: Path, *overrides: str, root: Path | None = None) -> EmulatedJob:
    """Submit a job as ``submit_job.py`` does, of a small program by default, and return what has arrived."""
    settings = load_job_settings(config, overrides=overrides)
    job = plan_job(settings, root=root or program(config.parent / "program"))
    client = service.open_client(azure.credential(), config_path=config, workspace=settings.workspace)
    with staged(job.snapshot) as code:
        submitted = service.submit(client, job, code=code)
    return azure.jobs[submitted.name]


def shipped(folder: Path) -> Path:
    return write_settings(folder / "config.json", **read_shipped())


def masked(job: EmulatedJob) -> dict[str, Json]:
    """Return a body without what differs from submission to submission, and without what may be added to it."""
    code = re.sub(r"/codes/[0-9a-f-]{36}/", "/codes/UUID/", str(job.properties["codeId"]))
    return {**job.properties, "codeId": code, "tags": {}, "environmentVariables": {}}


def test_the_body_is_the_required_one(azure: AzureEmulator, tmp_path: Path) -> None:
    assert masked(submit(azure, shipped(tmp_path))) == BODY


def test_the_shipped_values_are_the_defaults(azure: AzureEmulator, tmp_path: Path) -> None:
    assert masked(submit(azure, write_settings(tmp_path / "config.json"))) == BODY


def test_a_job_without_overrides_carries_its_variables(azure: AzureEmulator, tmp_path: Path) -> None:
    job = submit(azure, shipped(tmp_path))
    assert job.properties["environmentVariables"] == {
        "PYTHONUNBUFFERED": "1",
        "DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": "false",
        "WSI_EXTRACT_SETUP": "auto",
        "WSI_EXTRACT_ON_PARTIAL": "warn",
    }


def test_several_nodes_add_their_number_and_nothing_else(azure: AzureEmulator, tmp_path: Path) -> None:
    job = submit(azure, shipped(tmp_path), "job.nodes=4", "job.trusted_network=true")
    body = masked(job)
    resources, distribution = body.pop("resources"), body.pop("distribution")
    assert isinstance(resources, dict)
    assert resources["instanceCount"] == 4
    assert distribution == {"processCountPerInstance": 1, "distributionType": "PyTorch"}
    assert body == BODY
    variables = job.properties["environmentVariables"]
    assert isinstance(variables, dict)
    assert variables["WSI_EXTRACT_NODES"] == "4"


def test_every_variable_and_tag_is_a_text(azure: AzureEmulator, tmp_path: Path) -> None:
    config = write_settings(
        tmp_path / "config.json",
        job={"environment_variables": {"A": True, "B": 3, "C": 1.5, "D": "x"}, "tags": {"try": 2, "final": False}},
    )
    properties = submit(azure, config).properties
    variables, tags = properties["environmentVariables"], properties["tags"]
    assert isinstance(variables, dict)
    assert isinstance(tags, dict)
    assert {key: variables[key] for key in "ABCD"} == {"A": "true", "B": "3", "C": "1.5", "D": "x"}
    assert all(isinstance(value, str) for value in {**variables, **tags}.values())


def test_the_other_values_reach_their_fields(azure: AzureEmulator, tmp_path: Path) -> None:
    job = {
        "compute": "azureml:other-cluster",
        "data_mode": "download",
        "output": {"mode": "rw_mount", "name": "wsi-patches", "path": "azureml://datastores/store/paths/run/"},
        "timeout_s": 21_600,
        "display_name": "my patches",
    }
    properties = submit(azure, write_settings(tmp_path / "config.json", job=job)).properties
    assert properties["computeId"] == f"{WORKSPACE_ID}/computes/other-cluster"
    assert properties["inputs"]["wsi_data"]["mode"] == "Download"  # type: ignore[index, call-overload]
    output = properties["outputs"]["patch_dataset"]  # type: ignore[index, call-overload]
    assert output == {
        "mode": "ReadWriteMount",
        "jobOutputType": "uri_folder",
        "assetName": "wsi-patches",
        "uri": "azureml://datastores/store/paths/run/",
    }
    assert properties["limits"] == {"timeout": "PT6H", "jobLimitsType": "Command"}
    assert properties["displayName"] == "my patches"


def test_a_second_submission_sends_no_files(azure: AzureEmulator, tmp_path: Path) -> None:
    config = shipped(tmp_path)
    first = submit(azure, config)
    n_sent = len(azure.asked("blob.put"))
    second = submit(azure, config)
    assert first.name != second.name
    assert len(azure.asked("blob.put")) == n_sent > 0
    assert first.properties["codeId"] == second.properties["codeId"]


def test_a_changed_setting_sends_the_files_again(azure: AzureEmulator, tmp_path: Path) -> None:
    config = shipped(tmp_path)
    first = submit(azure, config)
    write_settings(config, **{**read_shipped(), "job": {}})
    second = submit(azure, config)
    assert azure.snapshot(first)["config.json"] != azure.snapshot(second)["config.json"] == config.read_bytes()


# --- files


def make_clone(folder: Path) -> tuple[Path, set[str]]:
    """Return a working copy full of junk, and the names of the files in it that a job needs."""
    root = write_program(folder / "clone")
    package = {path.relative_to(root).as_posix() for path in (root / "wsi_extract").rglob("*") if path.is_file()}
    add_junk(root)
    return root, {"run_extraction.py", "config.json", "requirements.txt", *package}


def test_only_the_program_travels(azure: AzureEmulator, tmp_path: Path) -> None:
    root, wanted = make_clone(tmp_path)
    add_links(root)
    job = submit(azure, root / "config.json", root=root)
    files = azure.snapshot(job)
    assert set(files) == wanted
    assert [name for name, content in files.items() if SECRET.encode() in content] == []
    assert files["config.json"] == (root / "config.json").read_bytes()


def test_the_ignore_file_lets_the_same_files_through(azure: AzureEmulator, tmp_path: Path) -> None:
    from azure.ai.ml import command  # noqa: PLC0415  # takes seconds

    root, wanted = make_clone(tmp_path)
    job = plan(root / "config.json", root=root)
    client = service.open_client(azure.credential(), config_path=root / "config.json", workspace=job.workspace)
    by_hand = command(command="true", code=str(root), environment=job.environment, compute=job.compute)
    name = client.jobs.create_or_update(by_hand).name
    assert set(azure.snapshot(azure.jobs[name])) == {file.name for file in job.snapshot.files} == wanted


def test_the_address_of_the_repository_stays_here(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = program(tmp_path / "clone")
    shutil.rmtree(root / ".git")
    write_settings(root / "config.json")
    make_git_repository(root)
    monkeypatch.chdir(root)
    job = submit(azure, root / "config.json", root=root)
    assert masked(job) == BODY
    assert [request.url for request in azure.requests if SECRET.encode() in request.body] == []


# --- the workspace: what `MLClient.from_config` would do to it


def test_another_workspace_nearby_is_not_taken(
    azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {**TRIPLE, "workspace_name": "another", "Scope": None}
    for place in (".azureml/config.json", "aml_config/project.json", "sub/.azureml/config.json", "sub/config.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_settings(tmp_path / place, **elsewhere)
    config = write_settings(tmp_path / "sub" / "mine.json")
    monkeypatch.chdir(tmp_path / "sub")
    settings = load_job_settings(config, overrides=())
    client = service.open_client(azure.credential(), config_path=config, workspace=settings.workspace)
    assert client.subscription_id == TRIPLE["subscription_id"]
    assert client.resource_group_name == TRIPLE["resource_group"]
    assert client.workspace_name == TRIPLE["workspace_name"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="missing file"),
        pytest.param("", id="empty"),
        pytest.param("[]", id="list"),
        pytest.param('{"subscription_id": ', id="malformed"),
        pytest.param("{} // comment", id="comment"),
        pytest.param('{"workspace": {"workspace_name": "w"}}', id="triple nested"),
        pytest.param('{"subscription_id": null, "resource_group": "r", "workspace_name": "w"}', id="null"),
        pytest.param('{"subscription_id": "", "resource_group": "r", "workspace_name": "w"}', id="empty text"),
        pytest.param('{"subscription_id": 5, "resource_group": "r", "workspace_name": "w"}', id="number"),
        pytest.param('{"subscription_id": "s", "resource_group": "r", "workspace_name": "w"}', id="not a GUID"),
        pytest.param(f'{{"subscription_id": "{TRIPLE["subscription_id"]}"}}', id="keys missing"),
    ],
)
def test_a_config_file_that_names_no_workspace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    write_settings(tmp_path / "config.json", workspace_name="another")  # what the library would find instead
    folder = tmp_path / "sub"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = folder / "mine.json"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.json"):
        load_job_settings(config, overrides=())


def test_a_scope_is_refused(tmp_path: Path) -> None:
    scope = WORKSPACE_ID.replace(TRIPLE["workspace_name"], "another")
    with pytest.raises(ConfigError, match="Scope"):
        load_job_settings(write_settings(tmp_path / "config.json", Scope=scope), overrides=())


def test_placeholders_are_a_problem_of_the_plan(tmp_path: Path) -> None:
    config = write_settings(tmp_path / "config.json", workspace_name="<your-workspace-name>")
    problems = plan(config, root=program(tmp_path / "program")).problems
    assert len(problems) == 1
    assert "workspace_name" in problems[0]


def test_a_byte_order_mark_is_read_over(azure: AzureEmulator, tmp_path: Path) -> None:
    config = write_settings(tmp_path / "config.json")
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert masked(submit(azure, config)) == BODY
