"""What a dry run shows."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.azure.helpers_job import ALL, plan_of
from wsi_extract import __version__
from wsi_extract.azure_job.dry_run import YAML_BEGINS, YAML_ENDS, describe
from wsi_extract.azure_job.job_plan import job_yaml


def test_a_description_shows_everything_on_lines_of_their_own(tmp_path: Path) -> None:
    lines = describe(plan_of(tmp_path, job=ALL, subscription_id="<your-subscription-id>"))
    assert not [line for line in lines if "\n" in line]
    text = "\n".join(lines)
    assert f"  from {tmp_path / 'config.json'}" in text
    for part in (
        "ws-pathology",
        "Mitosen: Größe 256, experiment Mitos-Patch-Extraction",
        "xseligam-mitos-train, 4 nodes",
        "wsi_data = azureml:xseligam-ccmct-wsi:1, downloaded",
        "in azureml://datastores/blob/paths/${{name}}/",
        "registered as data asset wsi-patches, version 3",
        "WSI_EXTRACT_NODES=4",
        "A=x: y # z\\n'\"",
        "vscode, jupyterlab, ssh",
        "21,600 s",
    ):
        assert part in text
    assert plan_of(tmp_path, job=ALL).command in lines


def test_what_matters_is_first_and_what_is_wrong_last(tmp_path: Path) -> None:
    job = {**ALL, "output": {"mode": "rw_mount", "path": "azureml://datastores/blob/paths/a/"}}
    lines = describe(plan_of(tmp_path, job=job, subscription_id="<your-subscription-id>"))
    assert lines[0].startswith("workspace ")
    assert [line[:8] for line in lines if line.startswith(("warning:", "problem:"))] == ["warning:", "problem:"]
    assert [line[:8] for line in lines[-3:]] == ["warning:", "", "problem:"]
    assert describe(plan_of(tmp_path))[-1] == "It can be submitted. Compute, environment and data are looked up then."


def test_files_of_the_package_are_counted_by_folder_unless_all_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "groups.csv").write_text("slide,group\n")
    plan = plan_of(tmp_path, extraction={"group_csv": "lists/groups.csv"})
    folded, listed = ("\n".join(describe(plan, is_verbose=verbose)) for verbose in (False, True))
    for text in (folded, listed):
        assert "7 files, 0.0 MB, are sent with the job" in text
        assert f"  lists/groups.csv  from {tmp_path / 'lists' / 'groups.csv'}\n" in text
        assert "  run_extraction.py\n" in text
    assert "           0  wsi_extract/  1 file\n" in folded
    assert "           8  wsi_extract/stores/  2 files\n" in folded
    assert "png.py" not in folded
    assert "           6  wsi_extract/stores/png.py\n" in listed


def test_the_description_for_azures_own_tools_is_between_its_marks(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, job={"tags": {"study": "a"}})
    lines = describe(plan)
    between = lines[lines.index(YAML_BEGINS) : lines.index(YAML_ENDS) + 1]
    assert yaml.safe_load("\n".join(between)) == yaml.safe_load(job_yaml(plan))
    notes = [line for line in between if line.startswith("# ")]
    assert any("az ml job create --file job.yml --resource-group rg-pathology" in note for note in notes)
    assert any("'code: .' is the folder" in note for note in notes)


def test_every_tag_is_shown_before_it_is_sent(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, job={"tags": {"study": "a"}})
    text = "\n".join(describe(plan))
    for name, value in {
        "wsi_extract": __version__,
        "wsi_extract_files": plan.snapshot.digest[:16],
        "study": "a",
    }.items():
        assert f"{name}={value}" in text


def test_what_may_be_a_secret_is_not_shown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, job={"environment_variables": {"API_TOKEN": "hunter2", "ROUND": "2"}})
    text = "\n".join(describe(plan))
    assert "hunter2" not in text
    assert "API_TOKEN=***" in text
    assert "API_TOKEN: '***'" in text
    assert "to be filled in: API_TOKEN" in text
    assert "ROUND=2" in text
    assert plan.environment_variables["API_TOKEN"] == "hunter2"
