"""The command line that submits jobs, as users see it."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import submit_job
from tests.azure.emulator import TRIPLE, AzureEmulator
from tests.azure.fake_az import install_az, read_calls
from tests.azure.helpers_job import EXACT_COMMAND, PROGRAM_NAMES, program
from tests.azure.in_process import emulated_azure, write_settings
from tests.azure.login_service import DEVICE_CODE, TENANT, emulated_login
from tests.azure.messages import Reply
from tests.azure.repositories import ROOT
from tests.azure.routes import SAS, TOKEN
from wsi_extract.azure_job.credentials import UNATTENDED
from wsi_extract.node_start.requirements import LEAST_PYTHON

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def azure() -> Iterator[AzureEmulator]:
    with emulated_azure() as emulated:
        emulated.job_statuses = ["Completed"]
        yield emulated


@pytest.fixture(autouse=True)
def az_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small program to submit, somebody in front of it, and an ``az`` that is logged in."""
    monkeypatch.setattr(submit_job, "ROOT", program(tmp_path / "program"))
    write_settings(tmp_path / "config.json", tenant_id=TENANT)
    monkeypatch.setattr(submit_job, "DEFAULT_CONFIG", tmp_path / "config.json")
    for name in (*UNATTENDED, "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    calls = install_az(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return calls


def run(*arguments: str, capsys: Capture) -> tuple[int, str, str]:
    code = submit_job.main(["--auth", "cli", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_options_a_browser_logs_in_and_the_job_is_made(azure: AzureEmulator, capsys: Capture) -> None:
    with emulated_login() as login:
        login.access_token = TOKEN
        assert submit_job.main([]) == 0
    assert f"/{TENANT}/" in login.addresses[0]
    ((name, job),) = azure.jobs.items()
    assert job.properties["command"] == EXACT_COMMAND
    assert job.properties["displayName"] == "extract-patches-100pps"
    assert sorted(azure.snapshot(job)) == PROGRAM_NAMES
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"job: {name}", f"studio: https://ml.azure.com/runs/{name}"]
    assert [line.split(":")[0] for line in lines[2:]] == ["follow", "cancel", "download, when it is completed"]
    assert all(f"--name {name} --resource-group {TRIPLE['resource_group']}" in line for line in lines[2:])


def test_what_happens_is_said_in_a_few_lines(azure: AzureEmulator, capsys: Capture) -> None:
    code, _, errors = run(capsys=capsys)
    assert code == 0
    assert errors.splitlines() == [
        "log in: with the login of az",
        "logged in",
        "look up xseligam-mitos-train, xseligam_mitos:17 and azureml:xseligam-ccmct-wsi:1 in workspace-of-tests",
        "submit with 6 files, 0.0 MB",
    ]
    assert len(azure.jobs) == 1


@pytest.mark.usefixtures("azure")
def test_options_are_spelled_either_way(az_calls: Path, capsys: Capture) -> None:
    other = "11111111-2222-4333-8444-555555555555"
    for spelling in ("--tenant_id", "--tenant-id"):
        assert run(spelling, other, "--no-preflight", "--auth-timeout=7", capsys=capsys)[0] == 0
        assert read_calls(az_calls)[-1][-2:] == ["--tenant", other]
    assert submit_job.build_parser().parse_args(["--auth", "device_code"]).auth == "device-code"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--auth", "magic"],
        ["--auth_timeout", "0"],
        ["--auth_timeout", "1e3"],
        ["--dry"],
        ["--dry_run", "--tenant_id", ""],
        ["--dry_run", "--tenant_id", "no tenant!"],
    ],
)
def test_bad_usage(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        submit_job.main(arguments)
    assert "error: " in capsys.readouterr().err


def test_settings_for_one_job(azure: AzureEmulator, capsys: Capture) -> None:
    chosen = ["--set", "job.experiment=Other", "--set", "extraction.patches_per_slide=7"]
    assert run(*chosen, capsys=capsys)[0] == 0
    (job,) = azure.jobs.values()
    assert job.properties["experimentName"] == "Other"
    assert "--patches_per_slide 7 " in str(job.properties["command"])


# --- what stops before anything is asked


@pytest.mark.parametrize("arguments", [[], ["--dry_run"]])
def test_settings_that_cannot_be_used(
    arguments: list[str], azure: AzureEmulator, az_calls: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_settings(tmp_path / "config.json", job={"nodse": 2, "timeout_s": 5})
    code, output, errors = run(*arguments, capsys=capsys)
    assert (code, output) == (2, "")
    assert "nodes" in errors
    assert "timeout_s" in errors
    assert (azure.requests, read_calls(az_calls)) == ([], [])


def test_a_workspace_that_is_not_filled_in(azure: AzureEmulator, tmp_path: Path, capsys: Capture) -> None:
    write_settings(tmp_path / "config.json", workspace_name="<your-workspace-name>")
    code, _, errors = run(capsys=capsys)
    assert code == 2
    assert "workspace_name" in errors
    code, output, _ = run("--dry_run", capsys=capsys)
    assert code == 2
    assert EXACT_COMMAND in output
    assert azure.requests == []


def test_missing_packages(azure: AzureEmulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.ai.ml", None)
    code, output, errors = run(capsys=capsys)
    assert (code, output) == (2, "")
    assert "pip install -r requirements-azure.txt" in errors
    assert errors.count("\n") == 1
    assert azure.requests == []


def test_nobody_logs_in(azure: AzureEmulator, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    install_az(tmp_path / "bin", account="logged out")
    code, output, errors = run(capsys=capsys)
    assert (code, output) == (3, "")
    assert f"az login --tenant {TENANT}\n" in errors
    monkeypatch.setenv("CI", "true")
    assert submit_job.main([]) == 3
    assert "CI=true" in capsys.readouterr().err
    assert azure.requests == []


# --- what the service says


def test_something_missing_stops_before_the_upload(azure: AzureEmulator, capsys: Capture) -> None:
    azure.environments.clear()
    code, output, errors = run(capsys=capsys)
    assert (code, output) == (2, "")
    assert "there is no environment xseligam_mitos:17" in errors
    assert azure.asked("codes.list", "codes.upload", "blob.put", "jobs.put") == []
    assert run("--no_preflight", capsys=capsys)[0] == 0


def test_a_refused_job(azure: AzureEmulator, capsys: Capture) -> None:
    azure.fail("jobs.put", 400, code="UserError", message="The quota\nis used up.")
    code, output, errors = run(capsys=capsys)
    assert (code, output) == (4, "")
    assert errors.splitlines()[-1] == "error: cannot submit the job: The quota is used up (UserError, HTTP 400)."


@pytest.mark.parametrize("body", [b"{}", b"<html>"])
def test_a_reply_without_sense_says_that_the_job_may_be_there(
    body: bytes, azure: AzureEmulator, capsys: Capture
) -> None:
    azure.reply_with("jobs.put", Reply(status=200, body=body))
    code, _, errors = run(capsys=capsys)
    assert code == 4
    assert "https://ml.azure.com/jobs?wsid=" in errors.splitlines()[-1]


def test_verbose_shows_where_and_no_secret(azure: AzureEmulator, capsys: Capture) -> None:
    azure.fail("jobs.put", 400)
    code, output, errors = run("-v", capsys=capsys)
    assert code == 4
    assert "Traceback" in errors
    assert "http_logging_policy: Request URL: 'https://management.azure.com" in errors
    assert TOKEN not in output + errors
    assert SAS.partition("sig=")[2] not in output + errors


@pytest.mark.parametrize(("last", "code"), [("Completed", 0), ("Failed", 1), ("Canceled", 1)])
def test_waiting_ends_with_the_job(last: str, code: int, azure: AzureEmulator, capsys: Capture) -> None:
    azure.job_statuses = [last]
    details = {"status": last, "error": {"error": {"message": "Execution failed.\nExit code 2"}}}
    azure.reply_with("details.get", Reply(status=200, body=json.dumps(details).encode()))
    found, output, errors = run("--wait", "--set", "job.output.name=wsi-patches", capsys=capsys)
    (name,) = azure.jobs
    assert found == code
    assert output.startswith(f"job: {name}\n")
    assert "its log was not shown; it is in the studio, and brought here by: az ml job download --all" in errors
    if code == 0:
        data_set, download = output.splitlines()[-2:]
        assert data_set == "data set: azureml:wsi-patches, as its next version"
        assert download.startswith(f"download: az ml job download --all --name {name} --resource-group ")
        assert "when it is completed" not in output
    else:
        assert f"error: the job {name} has ended as {last}: Execution failed. Exit code 2." in errors


@pytest.fixture
def _signals_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_signals_forgotten")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_wait_leaves_the_job_alone(number: int, code: int, capsys: Capture) -> None:
    def stop() -> None:
        while not service.asked("jobs.get"):  # until the program waits
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    with emulated_azure(on_job=lambda _: stopper.start()) as service:
        service.job_statuses = ["Running"]
        found, output, errors = run("--wait", capsys=capsys)
    stopper.join()
    (name,) = service.jobs
    assert found == code
    assert f"cancel: az ml job cancel --name {name} " in output
    *_, goes_on, follow, cancel, last = errors.splitlines()
    assert (goes_on, last) == (f"the job {name} goes on", "interrupted")
    assert follow.startswith(f"follow: az ml job stream --name {name} --resource-group ")
    assert cancel.startswith(f"cancel: az ml job cancel --name {name} --resource-group ")
    assert service.asked("jobs.cancel") == []


def test_a_status_that_cannot_be_read_is_none_of_the_job(azure: AzureEmulator, capsys: Capture) -> None:
    azure.fail("jobs.get", 403)
    code, _, errors = run("--wait", capsys=capsys)
    (name,) = azure.jobs
    assert code == 4
    assert f"the job {name} goes on" in errors


def test_a_job_that_has_completed_is_not_read_again(azure: AzureEmulator, capsys: Capture) -> None:
    azure.fail("jobs.get", 503, after=1)  # the status
    code, output, errors = run("--wait", capsys=capsys)
    assert (code, "goes on" in errors) == (0, False)
    assert "data set: " in output


def test_a_log_in_that_is_asked_for_again_while_files_are_sent_can_be_seen(
    azure: AzureEmulator, capsys: Capture
) -> None:
    claims = base64.b64encode(b'{"access_token": {}}').decode()
    challenge = f'Bearer realm="", error="insufficient_claims", claims="{claims}"'
    azure.reply_with("jobs.put", Reply(status=401, headers={"WWW-Authenticate": challenge}))
    with emulated_login() as login:
        login.access_token = TOKEN
        submit_job.main(["--auth", "device-code"])
    assert capsys.readouterr().err.count(f"enter the code {DEVICE_CODE}") == 2


def test_slides_that_are_not_in_the_data_set_are_the_last_word(
    azure: AzureEmulator, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    azure.job_statuses = ["", *["Running"] * 4, "Completed"]
    azure.first_log = "START\n2026-11-21 22:28:47Z INCOMPLETE: 1 of 3 slides failed; see errors.jsonl\nDONE\n"
    code, output, errors = run("--wait", capsys=capsys)
    assert (code, "its log was not shown" in errors) == (0, False)
    assert "\nSTART\n" in output
    assert errors.splitlines()[-1] == "warning: INCOMPLETE: 1 of 3 slides failed; see errors.jsonl"


@pytest.mark.parametrize(
    ("name", "value"), [("AZUREML_DEV_URL_MFE", "https://elsewhere.example"), ("REQUESTS_CA_BUNDLE", "/nope.pem")]
)
def test_variables_with_which_nothing_works_are_told_before_the_log_in(
    name: str, value: str, azure: AzureEmulator, az_calls: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    code, output, errors = run(capsys=capsys)
    assert (code, output) == (2, "")
    assert name in errors
    assert value in errors
    assert (azure.requests, read_calls(az_calls)) == ([], [])


def test_a_dry_run_lists_files_when_all_is_wanted(capsys: Capture) -> None:
    assert "wsi_extract/stores/png.py" not in run("--dry_run", capsys=capsys)[1]
    assert "wsi_extract/stores/png.py" in run("--dry_run", "-v", capsys=capsys)[1]


OLD_PYTHONS = sorted((Path.home() / ".pyenv" / "versions").glob("3.[6-9].*/bin/python")) + sorted(
    (Path.home() / ".pyenv" / "versions").glob("3.10.*/bin/python")
)


@pytest.mark.skipif(not OLD_PYTHONS, reason="no old interpreters on this machine")
def test_a_python_that_is_too_old_is_named() -> None:
    for python in OLD_PYTHONS:
        process = subprocess.run([python, "submit_job.py"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert process.returncode == 2
        assert process.stderr == (
            f"error: this program needs Python 3.11 or newer; this is {python.parents[1].name}, {python}\n"
        )


def test_what_is_too_old_is_told_before_anything_else_is_loaded() -> None:
    """For machines without such a Python."""
    script = "import runpy, sys; sys.version_info = (3, 10, 1); runpy.run_path('submit_job.py', run_name='__main__')"
    command = [sys.executable, "-X", "importtime", "-c", script]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.endswith(f"this is 3.10.1, {sys.executable}\n")
    assert "wsi_extract" not in process.stderr
    assert f"sys.version_info < {LEAST_PYTHON}" in (ROOT / "submit_job.py").read_text(encoding="utf-8")


def test_without_any_packages_those_of_azure_are_named_too() -> None:
    script = "import runpy, sys; sys.modules['pydantic'] = None; runpy.run_path('submit_job.py', run_name='__main__')"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.endswith("pip install -r requirements-azure.txt\n")
