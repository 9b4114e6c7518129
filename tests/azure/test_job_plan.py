from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.azure.emulator import TRIPLE as TRIPLE_OF_SERVICE
from tests.azure.helpers_job import ALL, EXACT_COMMAND, KEY, PROGRAM_NAMES, ROOT, config_file, plan_of, program
from tests.azure.in_process import emulated_azure
from wsi_extract.azure_job.job_plan import JobPlan, job_yaml, plan_job
from wsi_extract.azure_job.settings import load_job_settings
from wsi_extract.azure_job.snapshot import staged

pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")


def test_a_plan_with_the_settings_of_the_repository(tmp_path: Path) -> None:
    plan = plan_job(load_job_settings(ROOT / "config.json"), root=program(tmp_path))
    assert plan.command == EXACT_COMMAND
    assert (plan.display_name, plan.experiment) == ("extract-patches-100pps", "Mitos-Patch-Extraction")
    assert (plan.compute, plan.environment) == ("xseligam-mitos-train", "xseligam_mitos:17")
    assert (plan.data, plan.data_mode) == ("azureml:xseligam-ccmct-wsi:1", "ro_mount")
    assert plan.output.model_dump() == {"mode": "upload", "name": None, "version": None, "path": None}
    assert plan.environment_variables == {
        "PYTHONUNBUFFERED": "1",
        "DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": "false",
        "WSI_EXTRACT_SETUP": "auto",
        "WSI_EXTRACT_ON_PARTIAL": "warn",
    }
    assert [file.name for file in plan.snapshot.files] == PROGRAM_NAMES
    assert plan.warnings == ()


def test_the_display_name_counts_the_patches_of_this_job(tmp_path: Path) -> None:
    assert plan_of(tmp_path, "job.patches_per_slide=7").display_name == "extract-patches-7pps"
    assert plan_of(tmp_path, "extraction.patches_per_slide=8").display_name == "extract-patches-8pps"
    assert plan_of(tmp_path, extraction={"patches_per_slide": 9}).display_name == "extract-patches-9pps"
    assert plan_of(tmp_path, "job.display_name=mine").display_name == "mine"


VARIABLES = {
    "no setup": ({"setup": "never"}, {"WSI_EXTRACT_SETUP": None}),
    "files of their own": (
        {"output": {"mode": "rw_mount"}},
        {"WSI_EXTRACT_COMMIT": "direct", "WSI_EXTRACT_ON_PARTIAL": None},
    ),
    "several nodes": ({"nodes": 3, "trusted_network": True}, {"WSI_EXTRACT_NODES": "3"}),
    "one node": ({}, {"WSI_EXTRACT_NODES": None, "WSI_EXTRACT_COMMIT": None}),
    "a number": ({"environment_variables": {"DATASET_MOUNT_CACHE_SIZE": -5}}, {"DATASET_MOUNT_CACHE_SIZE": "-5"}),
    "another value": (
        {"environment_variables": {"DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": True}},
        {"DATASET_MOUNT_BLOCK_BASED_CACHE_ENABLED": "true"},
    ),
}


@pytest.mark.parametrize(("job", "expected"), VARIABLES.values(), ids=VARIABLES)
def test_variables_of_the_job(tmp_path: Path, job: dict[str, object], expected: dict[str, str | None]) -> None:
    variables = plan_of(tmp_path, job=job).environment_variables
    assert {name: variables.get(name) for name in expected} == expected
    assert all(isinstance(value, str) for value in variables.values())


MOUNT: dict[str, object] = {"output": {"mode": "rw_mount", "path": "azureml://datastores/a/paths/b/"}}
WARNINGS: dict[str, tuple[dict[str, object], dict[str, object], list[str]]] = {
    "nothing": ({}, {"on_partial": "warn"}, []),
    "fail and upload": ({}, {"on_partial": "fail"}, ["nothing at all is uploaded"]),
    "nodes and upload": ({"nodes": 2, "trusted_network": True}, {}, ["kept on the first node"]),
    "files of patches in a mount": (MOUNT, {"on_partial": "fail"}, ["every patch is a file"]),
    "stores in a mount": (MOUNT, {"store": "zarr"}, []),
    "a mount without a place": ({"output": {"mode": "rw_mount"}}, {"store": "zarr"}, ["without job.output.path"]),
    "a mount whose place is new each time": (
        {"output": {"mode": "rw_mount", "path": "azureml://datastores/a/paths/${{name}}/"}},
        {"store": "zarr"},
        ["job.output.path holds ${{name}}: each job gets a folder of its own"],
    ),
    "an upload to one place": (
        {"output": {"path": "azureml://datastores/a/paths/b/"}},
        {},
        ["files that an earlier job has left there stay among those of this one"],
    ),
    "an upload to a new place": ({"output": {"path": "azureml://datastores/a/paths/${{name}}/"}}, {}, []),
    "fresh in a mount": (MOUNT, {"store": "zarr", "fresh": True}, ["extraction.fresh is true"]),
    "fresh and upload": ({}, {"fresh": True}, []),
    "workers": ({}, {"workers": 4}, ["extraction.workers is 4"]),
    "secrets": ({"environment_variables": {"MY_TOKEN": "x"}}, {}, ["everybody who sees the job can read MY_TOKEN"]),
}


@pytest.mark.parametrize(("job", "extraction", "expected"), WARNINGS.values(), ids=WARNINGS)
def test_warnings(tmp_path: Path, job: dict[str, object], extraction: dict[str, object], expected: list[str]) -> None:
    warnings = plan_of(tmp_path, job=job, extraction=extraction).warnings
    assert len(warnings) == len(expected)
    assert all(text in warning for text, warning in zip(expected, warnings, strict=True))


def test_a_job_description_can_be_read_back(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, job=ALL)
    document = yaml.safe_load(job_yaml(plan))
    assert document["command"] == plan.command
    assert document["code"] == "."
    assert document["environment_variables"] == plan.environment_variables
    assert document["outputs"]["patch_dataset"] == {"type": "uri_folder", **plan.output.model_dump()}
    assert document["services"]["ssh"] == {"type": "ssh", "ssh_public_keys": KEY}


@pytest.fixture(scope="module")
def plan_with_everything(tmp_path_factory: pytest.TempPathFactory) -> JobPlan:
    return plan_of(tmp_path_factory.mktemp("plan"), job=ALL)


TEXTS = st.text(max_size=8) | st.sampled_from(["true", "1", "~", "\x85", "\r\n", "${{name}}", "# a", "a: b", "\ufeff"])


@given(texts=st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_texts_of_any_kind_can_be_read_back(plan_with_everything: JobPlan, texts: dict[str, str]) -> None:
    plan = dataclasses.replace(plan_with_everything, tags=texts, environment_variables=texts)
    document = yaml.safe_load(job_yaml(plan))
    assert document.get("tags", {}) == document["environment_variables"] == texts


def test_notes_on_files_that_another_tool_would_not_send(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("slide,group\n")
    plan = plan_of(tmp_path, extraction={"group_csv": "./groups.csv"})
    assert "groups.csv" in [file.name for file in plan.snapshot.files]
    notes = [line for line in job_yaml(plan).splitlines() if line.startswith("#")]
    assert notes == [
        f"# copy {tmp_path / 'config.json'} to config.json here",
        "# extraction.group_csv: groups.csv must lie here, and .amlignore must let it through",
    ]
    root = program(tmp_path / "program")
    inside = plan_job(load_job_settings(config_file(root)), root=root)
    assert job_yaml(inside).startswith("$schema:")


@pytest.mark.parametrize("job", [{}, ALL], ids=["the defaults", "everything"])
def test_azures_own_tools_make_the_same_job_of_the_description(tmp_path: Path, job: dict[str, object]) -> None:
    from azure.ai.ml import load_job  # noqa: PLC0415  # takes seconds

    from wsi_extract.azure_job import service  # noqa: PLC0415

    root = program(tmp_path / "program")
    config = config_file(root, **TRIPLE_OF_SERVICE, job=job)
    (root / ".amlignore").write_bytes((ROOT / ".amlignore").read_bytes())
    settings = load_job_settings(config)
    plan = plan_job(settings, root=root)
    (root / "job.yml").write_text(job_yaml(plan))
    with emulated_azure() as azure:
        client = service.open_client(azure.credential(), config_path=config, workspace=settings.workspace)
        with staged(plan.snapshot) as code:
            name = service.submit(client, plan, code=code).name
        described = azure.jobs[str(client.jobs.create_or_update(load_job(root / "job.yml")).name)].properties
        submitted = azure.jobs[name].properties
    assert submitted["tags"] == plan.tags
    apart = {"properties": None}  # Azure's tools name the commit of the folder
    assert described | apart == submitted | apart  # the same code, too


def test_no_library_of_azure_is_needed(tmp_path: Path) -> None:
    path = config_file(tmp_path, job=ALL)
    code = f"""
import sys
from pathlib import Path
from wsi_extract.azure_job.dry_run import describe
from wsi_extract.azure_job.job_plan import plan_job
from wsi_extract.azure_job.settings import load_job_settings
plan = plan_job(load_job_settings(Path({str(path)!r})), root=Path({str(ROOT)!r}))
describe(plan)
found = [name for name in sys.modules if name.partition(".")[0] in ("azure", "msal", "dask", "numpy")]
sys.exit(", ".join(found) or None)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_plans_are_values(tmp_path: Path) -> None:
    first, second = (plan_of(tmp_path, job=ALL) for _ in range(2))
    assert first == second
    assert isinstance(first, JobPlan)
