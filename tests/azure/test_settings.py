from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.azure.helpers_job import ROOT, config_file, refusal, settings_of
from wsi_extract.azure_job.settings import JobConfig, OutputConfig, load_job_settings
from wsi_extract.config import RunConfig
from wsi_extract.errors import ConfigError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample me@example.org"
Values = dict[str, object]


def test_the_file_of_the_repository_spells_the_defaults() -> None:
    assert load_job_settings(ROOT / "config.json").job == JobConfig()


def test_prefixes_are_what_the_sdk_wants(tmp_path: Path) -> None:
    job = {"compute": "azureml:gpu", "environment": "azureml:env:3", "data": "slides:2"}
    found = settings_of(tmp_path, job=job).job
    assert (found.compute, found.environment, found.data) == ("gpu", "env:3", "azureml:slides:2")


def test_numbers_and_truth_values_become_the_texts_that_the_service_wants(tmp_path: Path) -> None:
    job = {"tags": {"a": 1, "b": True, "c": 0.5, "d": "x"}, "output": {"name": "patches", "version": 3}}
    found = settings_of(tmp_path, job=job).job
    assert found.tags == {"a": "1", "b": "true", "c": "0.5", "d": "x"}
    assert found.output == OutputConfig(name="patches", version="3")


JOBS: dict[str, tuple[Values, str]] = {
    "an unknown key": ({"computee": "x"}, "job.computee: unknown key; did you mean 'compute'?"),
    "an unknown key inside": ({"output": {"moed": "upload"}}, "job.output.moed: unknown key; did you mean 'mode'?"),
    "a setting": ({"store": "zarr"}, "job.store: it belongs in the object 'extraction'"),
    "the workspace": ({"workspace_name": "x"}, "job.workspace_name: it belongs at the top level"),
    "no version": ({"environment": "env"}, "job.environment: give NAME:VERSION, got"),
    "the latest": ({"environment": "env@latest"}, "@latest may be another version tomorrow"),
    "the latest data": ({"data": "azureml:slides@latest"}, "@latest may be another version tomorrow"),
    "data elsewhere": ({"data": "azureml://datastores/a/paths/b"}, "job.data: give NAME:VERSION"),
    "an empty compute": ({"compute": ""}, "job.compute: should be a name of letters"),
    "null": ({"compute": None}, "job.compute: should be a valid string, got null"),
    "a number": ({"compute": 5}, "job.compute: should be a valid string, got 5"),
    "this machine": ({"compute": "local"}, "run run_extraction.py itself"),
    "no cluster": ({"compute": "azureml:Serverless"}, "serverless nodes have no size here"),
    "a resource": ({"compute": "a/../b"}, "job.compute: should be a name of letters"),
    "a bad mode": ({"output": {"mode": "mount"}}, "job.output.mode: should be 'upload' or 'rw_mount', got \"mount\""),
    "a mode of inputs": ({"data_mode": "rw_mount"}, "job.data_mode: should be 'ro_mount' or 'download'"),
    "a version of nothing": ({"output": {"version": 1}}, "job.output.version: give output.name too"),
    "a local path": ({"output": {"path": "/home/me"}}, "job.output.path: should be azureml://datastores/NAME"),
    "no nodes": ({"nodes": 0}, "job.nodes: should be greater than or equal to 1"),
    "many nodes": ({"nodes": 101}, "job.nodes: should be less than or equal to 100"),
    "half a node": ({"nodes": 1.5}, "job.nodes: "),
    "nodes as text": ({"nodes": "2"}, "job.nodes: should be a valid integer"),
    "nodes without trust": ({"nodes": 2}, "whoever else reaches their ports can have code run there"),
    "certificates of one": ({"tls_dir": "certs"}, "job.tls_dir: it belongs to nodes above 1"),
    "a short time": ({"timeout_s": 59}, "job.timeout_s: should be greater than or equal to 60"),
    "a name of a variable": ({"environment_variables": {"A B": "x"}}, "is no name of an environment variable"),
    "our own variable": ({"environment_variables": {"WSI_EXTRACT_SETUP": "x"}}, "it is set from the other settings"),
    "nothing as a value": ({"environment_variables": {"A": None}}, "job.environment_variables.A: should be a valid"),
    "an object as a tag": ({"tags": {"a": {"b": "c"}}}, "job.tags.a: should be a valid string"),
    "two lines": ({"display_name": "a\nb"}, "job.display_name: give one line of text"),
    "a slash": ({"experiment": "a/b"}, "job.experiment: should be a name of letters"),
    "an unknown service": ({"services": ["vnc"]}, "job.services.0: should be 'vscode', 'jupyterlab' or 'ssh'"),
    "a service twice": ({"services": ["vscode", "vscode"]}, "job.services: one is given twice"),
    "ssh without a key": ({"services": ["ssh"]}, "job.services ssh and ssh_public_key: give both or none"),
    "a key without ssh": ({"ssh_public_key": KEY}, "give both or none"),
    "a small patch": ({"patch_size": 5}, "job.patch_size: should be greater than or equal to 16, got 5"),
    "a seed as text": ({"seed": "1"}, "job.seed: should be a valid integer"),
}


@pytest.mark.parametrize(("job", "message"), JOBS.values(), ids=JOBS)
def test_jobs_that_are_refused(tmp_path: Path, job: Values, message: str) -> None:
    found = refusal(tmp_path, job=job)
    assert message in found
    assert len(found.splitlines()) == 2, found


def test_a_private_key_is_not_shown(tmp_path: Path) -> None:
    found = refusal(tmp_path, job={"services": ["ssh"], "ssh_public_key": "-----BEGIN PRIVATE KEY-----\nsecret"})
    assert "job.ssh_public_key: expected the text of a public key" in found
    assert "secret" not in found


EXTRACTIONS: dict[str, tuple[Values, str]] = {
    "an unknown key": ({"patchsize": 256}, "extraction.patchsize: unknown key; did you mean 'patch_size'?"),
    "a key of the job": ({"compute": "x"}, "extraction.compute: it belongs in the object 'job'"),
    "a wrong value": ({"overlap": 2}, "extraction.overlap: should be less than 1, got 2"),
    "a wrong combination": ({"level": 1, "mpp": 0.5}, "mpp and level: give one of them"),
    "a cluster": ({"scheduler": "tcp://a:8786"}, "extraction.scheduler: a job starts its own workers"),
    "a dry run": ({"dry_run": True}, "extraction.dry_run: a job that writes nothing is of no use"),
    "certificates": ({"tls_key": "key.pem"}, "extraction.tls_key: for a job give job.tls_dir"),
    "a file elsewhere": ({"group_csv": "/home/me/groups.csv"}, "Put the file there and give its path relative to"),
    "a file at home": ({"stain_target": "~/a.png", "stain_norm": "macenko"}, "extraction.stain_target: ~/a.png is not"),
    "a file above": ({"slide_mpp_csv": "../a.csv"}, "extraction.slide_mpp_csv: ../a.csv is not below"),
    "a missing file": ({"group_csv": "groups.csv"}, "extraction.group_csv: there is no file "),
    "a folder": ({"group_csv": "."}, "extraction.group_csv: there is no file "),
}


@pytest.mark.parametrize(("extraction", "message"), EXTRACTIONS.values(), ids=EXTRACTIONS)
def test_extractions_that_are_refused(tmp_path: Path, extraction: Values, message: str) -> None:
    found = refusal(tmp_path, extraction=extraction)
    assert message in found
    assert len(found.splitlines()) == 2, found


def test_nodes_need_workers(tmp_path: Path) -> None:
    found = refusal(tmp_path, job={"nodes": 2, "trusted_network": True}, extraction={"workers": 0})
    assert "extraction.workers: 0 stands for a run without workers, but job.nodes is 2" in found


def test_what_local_runs_need_may_stand_in_the_file(tmp_path: Path) -> None:
    local = {"wsi_dir": "/data/WSI", "annotation_json": "a.json", "output_dir": "out", "dry_run": False}
    run = settings_of(tmp_path, extraction={**local, "scheduler": None, "store": "zarr"}).run
    assert run.store.value == "zarr"
    assert run.wsi_dir == Path("/data/WSI")


def test_files_below_the_config_file_travel_along(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("lists/groups.csv", "mpp.csv"):
        (tmp_path / name).write_text("slide,x\n")
    found = settings_of(tmp_path, "extraction.slide_mpp_csv=mpp.csv", extraction={"group_csv": "./lists//groups.csv"})
    assert [(file.setting, file.name, file.path) for file in found.files] == [
        ("group_csv", "lists/groups.csv", tmp_path / "lists" / "groups.csv"),
        ("slide_mpp_csv", "mpp.csv", tmp_path / "mpp.csv"),
    ]
    assert found.flags[-1] == ("slide_mpp_csv", "mpp.csv")
    assert found.run.slide_mpp_csv == tmp_path / "mpp.csv"


def test_a_file_whose_setting_is_taken_back_does_not_travel(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("slide,group\n")
    found = settings_of(tmp_path, "extraction.group_regex=x", extraction={"group_csv": "groups.csv"})
    assert found.files == ()
    assert found.run.group_csv is None


OVERRIDES: dict[str, tuple[list[str], str]] = {
    "no value": (["job.nodes"], "--set job.nodes: expected job.KEY=VALUE or extraction.KEY=VALUE"),
    "no key": (["=3"], "--set =3: expected"),
    "a whole object": (["job={}"], "--set job={}: expected"),
    "an empty part": (["job..nodes=1"], "--set job..nodes=1: expected"),
    "another object": (["workspace_name=x"], "--set workspace_name=x: expected"),
    "an unknown key": (["job.node=1"], "job.node: unknown key; did you mean 'nodes'?"),
    "an unknown setting": (
        ["extraction.patchsize=1"],
        "--set extraction.patchsize: unknown key; did you mean 'patch_size'?",
    ),
    "a wrong value": (["extraction.patch_size=big"], "--set extraction.patch_size: should be a valid integer"),
    "a value out of range": (["extraction.patch_size=1"], "--set extraction.patch_size: should be greater than"),
    "null": (["extraction.mpp=null"], "--set extraction.mpp: null cannot be said with a flag: put it into config.json"),
    "false": (["extraction.fresh=false"], "--set extraction.fresh: false cannot be said with a flag"),
    "a name with a comma": (['extraction.val_slides=["a,b"]'], "cannot be said with a flag: put it into config.json"),
    "the input": (["extraction.wsi_dir=/data"], "--set extraction.wsi_dir: a job reads its slides from the data asset"),
    "the output": (["extraction.output_dir=/data"], "see job.output"),
    "both": (["job.seed=1", "extraction.seed=2"], "--set job.seed and --set extraction.seed: give one of them"),
    "a wrong combination": (["extraction.mpp=1", "extraction.level=1"], "mpp and level: give one of them"),
    "half a character": (["job.display_name=a\udcff"], "job: text that is not Unicode"),
    "half a character in a flag": (["extraction.group_regex=a\udcff"], "is not Unicode"),
    "too deep": (["job.nodes.x=1"], "job.nodes: should be a valid integer"),
    "a missing list": (["extraction.val_slides=@/nowhere"], "cannot read the list of slides /nowhere"),
}


@pytest.mark.parametrize(("overrides", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_overrides_that_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    found = refusal(tmp_path, *overrides)
    assert message in found
    assert len(found.splitlines()) == 2, found


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    found = settings_of(
        tmp_path,
        "job.output.mode=rw_mount",
        "job.nodes=3",
        "job.nodes=4",
        'job.tags={"a": "b"}',
        "job.tags.c=1",
        "job.display_name=a=b",
        "job.trusted_network=true",
        job={"nodes": 2, "output": {"name": "patches"}, "tags": {"old": "1"}},
    ).job
    assert (found.nodes, found.output.mode, found.output.name) == (4, "rw_mount", "patches")
    assert (dict(found.tags), found.display_name) == ({"a": "b", "c": "1"}, "a=b")


FLAGS = {
    "a number": ("mpp=0.5", "0.5", 0.5),
    "a choice": ("sampling=grid", "grid", "grid"),
    "a switch": ("fresh=true", "", True),
    "names": ("val_slides=a,b", "a,b", ("a", "b")),
    "names as a list": ('val_slides=["a", "b"]', "a,b", ("a", "b")),
    "numbers as names": ("val_slides=[1, 2]", "1,2", ("1", "2")),
    "a preset": ("mixture=midog", "midog", "midog"),
    "shares": ("mixture=[0.5, 0, 0.5]", "0.5,0.0,0.5", (0.5, 0.0, 0.5)),
    "roles": (
        "category_map=2=target,7=hard_negative",
        "2=target,7=hard_negative",
        {"2": "target", "7": "hard_negative"},
    ),
    "roles as an object": ('category_map={"2": "target"}', "2=target", {"2": "target"}),
    "a text in quotes": ('group_regex="abc"', "abc", "abc"),
}


@pytest.mark.parametrize(("override", "text", "value"), FLAGS.values(), ids=FLAGS)
def test_settings_become_flags(tmp_path: Path, override: str, text: str, value: object) -> None:
    name = override.partition("=")[0]
    found = settings_of(tmp_path, f"extraction.{override}")
    assert found.flags[-1] == (name, text)
    assert getattr(found.run, name) == value


def test_lists_in_files_of_this_machine_are_spelled_out(tmp_path: Path) -> None:
    names, roles = tmp_path / "names.txt", tmp_path / "roles.json"
    names.write_text("a\nb\n")
    roles.write_text('{"2": "target"}')
    found = settings_of(tmp_path, f"extraction.val_slides=@{names}", f"extraction.category_map={roles}")
    assert found.flags[-2:] == (("val_slides", "a,b"), ("category_map", "2=target"))


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    found = refusal(
        tmp_path,
        "job.nodez=1",
        "extraction.sed=1",
        resource_group="",
        tenant_id="x",
        job={"compute": 5},
        extraction={"patch_size": 1, "group_csv": "/a.csv"},
    )
    for part in (
        "job.nodez",
        "extraction.sed",
        "resource_group",
        "tenant_id",
        "job.compute",
        "patch_size",
        "group_csv",
    ):
        assert part in found
    assert len(found.splitlines()) == 8


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    found = refusal(tmp_path, job={f"x{number}" * 900: 1 for number in range(100)})
    assert "and 80 more" in found
    assert len(found) < 20_000


def test_slides_that_failed_are_a_warning_where_a_failed_job_would_lose_the_others(tmp_path: Path) -> None:
    assert settings_of(tmp_path).run.on_partial == "warn"
    assert settings_of(tmp_path, extraction={"on_partial": "fail"}).run.on_partial == "fail"
    assert settings_of(tmp_path, job={"output": {"mode": "rw_mount"}}).run.on_partial == "fail"


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["~", "/", "a:1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def keys_of(kind: Any) -> st.SearchStrategy[str]:
    return st.sampled_from(list(kind.model_fields)) | st.text(max_size=9)


@given(
    top=st.dictionaries(st.sampled_from(["job", "extraction", "tenant_id", "resource_group"]), ANY, max_size=1),
    job=st.dictionaries(keys_of(JobConfig), ANY, max_size=4),
    extraction=st.dictionaries(keys_of(RunConfig), ANY, max_size=4),
    overrides=st.lists(
        st.builds("{}.{}={}".format, st.sampled_from(["job", "extraction"]), keys_of(RunConfig), st.text())
    ),
)
def test_any_values_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, top: Values, job: Values, extraction: Values, overrides: list[str]
) -> None:
    path = config_file(tmp_path_factory.getbasetemp())
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": job, "extraction": extraction, **top}))
    try:
        load_job_settings(path, overrides=overrides)
    except ConfigError:
        return


@pytest.mark.parametrize("text", ["1.10", "1e5", "2026", "007", "1.0"])
def test_numbers_stay_as_they_are_written_where_texts_are_wanted(text: str, tmp_path: Path) -> None:
    keys = ("output.version", "tags.release", "environment_variables.V", "display_name", "experiment")
    job = settings_of(tmp_path, *(f"job.{key}={text}" for key in keys), job={"output": {"name": "patches"}}).job
    found = (job.output.version, job.tags["release"], job.environment_variables["V"], job.display_name, job.experiment)
    assert found == (text,) * len(keys)


def test_a_flag_decides_how_many_processes_nodes_start(tmp_path: Path) -> None:
    nodes = {"nodes": 2, "trusted_network": True}
    assert "extraction.workers: 0 stands for" in refusal(tmp_path, "extraction.workers=0", job=nodes)
    assert settings_of(tmp_path, "extraction.workers=4", job=nodes, extraction={"workers": 0}).run.workers == 4


@pytest.mark.parametrize("key", ["group_regex", "test_regex"])
def test_a_pattern_that_is_none_is_not_left_to_the_node(key: str, tmp_path: Path) -> None:
    assert f"extraction.{key}: '(x' is no regular expression" in refusal(tmp_path, extraction={key: "(x"})


def test_a_config_file_of_somebody_unknown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="~nobody-of-this-name"):
        load_job_settings(Path("~nobody-of-this-name/config.json"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", [{"not-a-name": "x"}, {"WSI_EXTRACT_NODES": "2"}, {"LIST": ["x"]}])
def test_no_variable_is_shown_because_another_one_is_wrong(rest: dict[str, object], tmp_path: Path) -> None:
    message = refusal(tmp_path, job={"environment_variables": {"API_TOKEN": "hunter2", **rest}})
    assert next(iter(rest)) in message
    assert "hunter2" not in message


def test_a_secret_of_the_wrong_form_is_not_shown(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(tmp_path, job={"environment_variables": {"API_TOKEN": ["hunter2"]}})
