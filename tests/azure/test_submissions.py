"""Refusals and troubles at every step of a submission: one line, the right exit code, and nothing half made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import submit_job
from tests.azure import fake_az
from tests.azure.emulator import AzureEmulator
from tests.azure.helpers_job import program
from tests.azure.in_process import emulated_azure, write_settings
from tests.azure.messages import Trouble
from tests.azure.repositories import read_shipped
from tests.azure.routes import step_of

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the program did."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A user's machine: a config file, ``az``, and the service."""

    azure: AzureEmulator
    config: Path
    bin_dir: Path
    captured: pytest.CaptureFixture[str]

    def submit(self, *arguments: str) -> Outcome:
        self.captured.readouterr()
        code = submit_job.main(["--config", str(self.config), "--auth", "cli", *arguments])
        out, err = self.captured.readouterr()
        return Outcome(exit_code=code, stdout=out, stderr=err)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    fake_az.install_az(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda wait_s: sleep(min(wait_s, 0.01)))
    monkeypatch.setattr(submit_job, "ROOT", program(tmp_path / "program"))  # a small one
    config = write_settings(tmp_path / "config.json", **read_shipped())
    with emulated_azure() as azure:
        yield Desk(azure=azure, config=config, bin_dir=tmp_path / "bin", captured=capsys)


def test_everything_is_looked_up_before_anything_is_sent(desk: Desk) -> None:
    assert desk.submit().exit_code == 0
    steps = [step_of(request) for request in desk.azure.requests]
    assert steps[:3] == ["compute.get", "environments.get", "data.get"]
    assert steps[-1] == "jobs.put"


def test_without_looking_it_is_submitted_all_the_same(desk: Desk) -> None:
    desk.azure.computes.clear()
    assert desk.submit("--no_preflight").exit_code == 0
    assert desk.azure.asked("compute.get", "environments.get", "data.get") == []


STEPS = ("codes.list", "codes.upload", "blob.put", "blob.metadata", "codes.put", "jobs.put")
REFUSALS: list[tuple[str, int | Trouble]] = [
    *((step, outcome) for step in STEPS for outcome in (403, Trouble.RESET)),
    # of the storage and of the service the other kinds too
    *((step, outcome) for step in ("blob.put", "jobs.put") for outcome in (400, 404, 500)),
]


@pytest.mark.parametrize(("step", "outcome"), REFUSALS)
def test_a_refusal_at_any_step_ends_in_words(desk: Desk, step: str, outcome: int | Trouble) -> None:
    desk.azure.fail(step, outcome, message="It was refused.")
    done = desk.submit("--wait")
    assert done.exit_code == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert desk.azure.jobs == {}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "sig=" not in done.stderr.replace("sig=***", "")


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("compute.get", 429),
        ("codes.list", 503),
        ("jobs.put", 503),
        ("jobs.put", Trouble.RESET),
        ("jobs.get", 429),
        ("jobs.get", Trouble.RESET),
    ],
)
def test_a_short_trouble_is_none(desk: Desk, step: str, outcome: int | Trouble) -> None:
    desk.azure.fail(step, outcome, times=1)
    done = desk.submit("--wait")
    assert done.exit_code == 0, done.stderr
    assert len(desk.azure.jobs) == 1


def test_a_job_that_exists_already_is_not_made_twice(desk: Desk) -> None:
    desk.azure.fail("jobs.put", 409, code="Conflict", message="A job of that name exists.")
    assert desk.submit().exit_code == 4


def test_a_token_that_is_not_accepted_is_told(desk: Desk) -> None:
    desk.azure.fail("compute.get", 401, code="InvalidAuthenticationToken", message="The token is of another tenant.")
    done = desk.submit()
    assert done.exit_code == 3
    assert "tenant" in done.stderr


def test_a_job_that_vanishes_is_an_error(desk: Desk) -> None:
    desk.azure.fail("jobs.get", 404, message="There is no such job.")
    done = desk.submit("--wait")
    assert done.exit_code == 4
    (name,) = desk.azure.jobs
    assert name in done.stdout
