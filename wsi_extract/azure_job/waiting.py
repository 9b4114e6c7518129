"""Wait for the end of a job: tell its status until it runs, show its log, then ask for its status, patiently.

What the library's log viewer says decides nothing: it fails with some datastores, ends before the job does, and takes
a cancelled job for a good one. It says nothing at all while a job is in the queue, so it is started when the job is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from wsi_extract.azure_job.job_log import JobLog
from wsi_extract.azure_job.service import JobState, read_job
from wsi_extract.azure_job.service_errors import UnreachableError, one_line, reason_of
from wsi_extract.errors import AuthenticationFailedError
from wsi_extract.interrupts import Check

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

COMPLETED = "Completed"
FINAL = frozenset({COMPLETED, "Failed", "Canceled"})
NOT_RUNNING_YET = frozenset({"NotStarted", "Scheduled", "Queued", "Starting", "Provisioning", "Preparing", "Paused"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to ask, in seconds."""

    first_s: float = 2.0
    longest_s: float = 30.0
    longest_until_it_runs_s: float = 5.0
    """A job that has ended by the time it is noticed has no log that can be followed."""
    patience_s: float = 900.0
    """How long nobody may answer, or accept who asks: shorter troubles of a network are no reason to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a job has ended.

    Attributes
    ----------
    state
        Its status is one of `FINAL`.
    shortfall
        The line of the log that says which slides are not in the data set; ``None`` if there was none.
    is_log_shown
        Whether any of its log was.
    """

    state: JobState
    shortfall: str | None
    is_log_shown: bool


def wait_for(
    client: MLClient, name: str, *, out: TextIO, pace: Pace | None = None, check: Check | None = None
) -> JobEnd:
    """Wait until a job has ended.

    Parameters
    ----------
    out
        Gets the log of the job, and a line whenever its status changes.
    pace
        How often to ask.
    check
        Raises `KeyboardInterrupt` when a signal has arrived: the one that Python raises itself can get lost within
        Azure's libraries.

    Raises
    ------
    KeyboardInterrupt
        The job goes on.
    ServiceError, AuthenticationFailedError
        When its status cannot be read for long; the job goes on.
    """

    def read() -> JobState:
        state = read_job(client, name)
        if check is not None:
            check()
        return state

    watch = _Watch(read, out=out, pace=pace or Pace())
    log = JobLog(out, name=name)
    state = watch.follow_until_it_runs()
    if state.status not in FINAL:
        _show_log(client, name, log=log)
        state = watch.follow_to_the_end()
    return JobEnd(state=state, shortfall=log.shortfall, is_log_shown=log.is_shown)


def _show_log(client: MLClient, name: str, *, log: JobLog) -> None:
    """Follow the log of the job's first node, until it ends or cannot be followed any further."""
    from azure.ai.ml.exceptions import JobException  # noqa: PLC0415
    from azure.core.exceptions import AzureError  # noqa: PLC0415

    try:
        with contextlib.redirect_stdout(log):
            client.jobs.stream(name)
    except JobException as error:
        # Raised for a failed job, of which the status tells, and in place of Ctrl-C.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
    except Exception as error:  # noqa: BLE001  # the log is a nicety, and its viewer fails in many ways
        reason = reason_of(error) if isinstance(error, AzureError) else one_line(f"{type(error).__name__}: {error}")
        log.end_with(f"the log cannot be shown any further ({reason}); waiting for the end of the job")
    finally:
        log.flush()


class _Watch:
    """Asks for the status of a job again and again, and tells when it is another one."""

    def __init__(self, read: Callable[[], JobState], *, out: TextIO, pace: Pace) -> None:
        self._read = read
        self._out = out
        self._pace = pace
        self._told = ""

    def follow_until_it_runs(self) -> JobState:
        pace = replace(self._pace, longest_s=min(self._pace.longest_s, self._pace.longest_until_it_runs_s))
        return self._follow(lambda status: status not in NOT_RUNNING_YET, pace=pace)

    def follow_to_the_end(self) -> JobState:
        return self._follow(lambda status: status in FINAL, pace=self._pace)

    def _follow(self, is_enough: Callable[[str], bool], *, pace: Pace) -> JobState:
        wait_s, answered_s = pace.first_s, time.monotonic()
        while True:
            try:
                state = self._read()
            except (UnreachableError, AuthenticationFailedError) as error:
                # Tokens live for an hour: asking for the next one fails like any request while the network is away.
                if time.monotonic() - answered_s >= pace.patience_s:
                    raise
                self._out.write(f"{error.message} Trying again.\n")
            else:
                answered_s = time.monotonic()
                self._tell(state.status)
                if is_enough(state.status):
                    return state
            self._out.flush()
            time.sleep(wait_s)
            wait_s = min(1.5 * wait_s, pace.longest_s)

    def _tell(self, status: str) -> None:
        if status != self._told:
            self._out.write(f"status: {status}\n")
            self._out.flush()
            self._told = status
