"""Waiting for jobs of an emulated service, with the real library."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.azure.emulator import TRIPLE, AzureEmulator
from tests.azure.helpers_job import plan_of
from tests.azure.messages import Reply, Request, Trouble
from wsi_extract.azure_job import service
from wsi_extract.azure_job.service_errors import UnreachableError
from wsi_extract.azure_job.snapshot import staged
from wsi_extract.azure_job.waiting import JobEnd, Pace, wait_for
from wsi_extract.errors import ServiceError

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

# azure-ai-ml 1.35 is written for marshmallow 3, which announces what version 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")

FAST = Pace(first_s=0.001, longest_s=0.005, patience_s=300)
IMPATIENT = Pace(first_s=0.001, longest_s=0.005, patience_s=0.2)
LOG = "user_logs/std_log.txt"


@pytest.fixture
def name(client: MLClient, azure: AzureEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A submitted job, whose log is asked for without long pauses."""
    from azure.ai.ml.operations import _job_ops_helper  # noqa: PLC0415

    monkeypatch.setattr(_job_ops_helper, "_wait_before_polling", lambda _: 0)
    azure.job_statuses = ["Queued"]
    plan = plan_of(tmp_path, **TRIPLE)
    with staged(plan.snapshot) as code:
        return service.submit(client, plan, code=code).name


def wait(client: MLClient, name: str) -> tuple[str, str]:
    end, text = wait_to_the_end(client, name)
    return end.state.status, text


def wait_to_the_end(client: MLClient, name: str) -> tuple[JobEnd, str]:
    out = io.StringIO()
    return wait_for(client, name, out=out, pace=FAST), out.getvalue()


def told_statuses(text: str) -> list[str]:
    return [line.removeprefix("status: ") for line in text.splitlines() if line.startswith("status: ")]


@pytest.mark.parametrize("last", ["Completed", "Failed", "Canceled"])
@pytest.mark.parametrize("log_place", ["details", "sas datastore", "identity datastore"])
def test_the_last_status_decides_whatever_the_log_viewer_says(
    log_place: str, last: str, client: MLClient, azure: AzureEmulator, name: str
) -> None:
    azure.log_place = log_place  # type: ignore[assignment]  # parametrised text
    azure.jobs[name].statuses[:] = ["Queued", "Starting", *["Running"] * 4, "CancelRequested", "Finalizing", last]
    azure.jobs[name].logs[LOG] = "START\nDONE\n"
    status, text = wait(client, name)
    assert status == last
    assert f"status: {last}\n" in text
    assert ("START\nDONE\n" in text) == (log_place == "details")
    assert ("the log cannot be shown any further" in text) == (log_place != "details")


def test_what_a_terminal_would_obey_is_shown(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.jobs[name].statuses[:] = ["", *["Running"] * 4, "Completed"]
    azure.jobs[name].logs[LOG] = "10 %\r20 %\n\x1b[2Jgone\n"
    text = wait(client, name)[1]
    assert "\n10 %\n20 %\n\\x1b[2Jgone\n" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("trouble", [500, 404, 403, Trouble.RESET, Reply(status=200, body=b"[]")])
def test_a_log_that_cannot_be_followed_costs_nothing_but_the_log(
    trouble: int | Trouble | Reply, client: MLClient, azure: AzureEmulator, name: str
) -> None:
    if isinstance(trouble, Reply):
        azure.reply_with("details.get", trouble)
    else:
        azure.fail("details.get", trouble)
    azure.jobs[name].statuses[:] = ["Queued"] * 3 + ["Running"] * 3 + ["Completed"]
    status, text = wait(client, name)
    assert status == "Completed"
    assert text.count("the log cannot be shown any further") == 1
    assert told_statuses(text) == ["Queued", "Running", "Completed"]


def test_what_happens_until_the_job_runs_is_told_before_its_log(
    client: MLClient, azure: AzureEmulator, name: str
) -> None:
    waiting = ["NotStarted", "Queued", "Queued", "Starting", "Provisioning", "Preparing"]
    azure.jobs[name].statuses[:] = ["", *waiting, *["Running"] * 4, "Completed"]
    azure.jobs[name].logs[LOG] = "START\n"
    end, text = wait_to_the_end(client, name)
    assert told_statuses(text) == [*dict.fromkeys(waiting), "Running", "Completed"]
    assert text.index("status: Running") < text.index("START")
    assert end.is_log_shown


def test_the_viewer_is_not_started_before_the_job_is(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.jobs[name].statuses[:] = ["Queued"] * 3 + ["Canceled"]
    end, text = wait_to_the_end(client, name)
    assert (told_statuses(text), end.is_log_shown) == (["Queued", "Canceled"], False)
    assert azure.asked("details.get") == []


def test_a_job_that_ends_before_the_viewer_looks_has_shown_no_log(
    client: MLClient, azure: AzureEmulator, name: str
) -> None:
    azure.jobs[name].statuses[:] = ["", "Running", "Failed"]
    azure.jobs[name].logs[LOG] = "SyntaxError\n"
    end, text = wait_to_the_end(client, name)
    assert (told_statuses(text), end.is_log_shown) == (["Running", "Failed"], False)


def test_what_the_viewer_repeats_is_left_out(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.jobs[name].statuses[:] = ["", *["Running"] * 4, "Completed"]
    azure.jobs[name].logs[LOG] = "START\nDONE\n"
    text = wait(client, name)[1]
    assert text.splitlines() == [
        "status: Running",
        "",
        "Streaming user_logs/std_log.txt",
        "===============================",
        "",
        "START",
        "DONE",
        "status: Completed",
    ]


def test_slides_that_are_not_in_the_data_set_are_remembered(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.jobs[name].statuses[:] = ["", *["Running"] * 4, "Completed"]
    azure.jobs[name].logs[LOG] = "START\n2026-11-21 22:28:47Z INCOMPLETE: 1 of 3 slides failed\nDONE\n"
    assert wait_to_the_end(client, name)[0].shortfall == "INCOMPLETE: 1 of 3 slides failed"


@pytest.mark.parametrize("trouble", [503, 429, Trouble.RESET, Trouble.TIMEOUT])
def test_a_network_that_comes_back_is_waited_for(
    trouble: int | Trouble, client: MLClient, azure: AzureEmulator, name: str
) -> None:
    azure.log_place = "identity datastore"
    azure.fail("jobs.get", trouble, times=12, after=2)
    azure.jobs[name].statuses[:] = [*["Running"] * 4, "Completed"]
    status, text = wait(client, name)
    assert status == "Completed"
    assert "Trying again." in text


def test_a_log_in_that_comes_back_is_waited_for(client: MLClient, azure: AzureEmulator, name: str) -> None:
    """As when a token runs out after an hour and ``az`` finds no network just then."""
    azure.log_place = "identity datastore"
    azure.fail("jobs.get", 401, code="ExpiredAuthenticationToken", message="The access token has expired", times=4)
    azure.jobs[name].statuses[:] = [*["Running"] * 4, "Completed"]
    status, text = wait(client, name)
    assert status == "Completed"
    assert "Trying again." in text


@pytest.mark.parametrize("trouble", [503, Trouble.RESET])
def test_patience_ends(trouble: int | Trouble, client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.fail("jobs.get", trouble)
    begun_s = time.monotonic()
    with pytest.raises(UnreachableError, match=name):
        wait_for(client, name, out=io.StringIO(), pace=IMPATIENT)
    assert time.monotonic() - begun_s >= IMPATIENT.patience_s


def test_a_refusal_is_not_asked_again(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.fail("jobs.get", 403)
    with pytest.raises(ServiceError, match="rights on the workspace"):
        wait(client, name)
    assert len(azure.asked("jobs.get")) == 1


@pytest.mark.parametrize("log_place", ["details", "identity datastore"])
def test_an_interruption_is_none_of_the_job(
    log_place: str, client: MLClient, azure: AzureEmulator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure.log_place = log_place  # type: ignore[assignment]  # parametrised text
    azure.jobs[name].statuses[:] = ["Running"]
    azure.jobs[name].logs[LOG] = "START\n"  # at which the viewer fails in a datastore
    # While the log is followed, or once it cannot be. From this thread, so that it arrives just here: where it is sent
    # from another one, it may fall into a destructor, and Python drops it.
    step, n_before = ("details.get", 3) if log_place == "details" else ("jobs.get", 5)
    answer = azure.answer

    def answer_or_interrupt(request: Request) -> Reply | Trouble:
        if len(azure.asked(step)) == n_before:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    monkeypatch.setattr(azure, "answer", answer_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        wait(client, name)
    assert len(azure.asked(step)) == n_before
    assert azure.asked("jobs.cancel") == []


def test_an_interruption_that_python_has_dropped_is_found(client: MLClient, azure: AzureEmulator, name: str) -> None:
    azure.log_place = "identity datastore"
    azure.jobs[name].statuses[:] = ["Running"]
    azure.jobs[name].logs[LOG] = "START\n"

    def check() -> None:
        if len(azure.asked("jobs.get")) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for(client, name, out=io.StringIO(), pace=FAST, check=check)
    assert len(azure.asked("jobs.get")) == 5
