"""Wait for the end of a job: show its log as long as that works, then ask for its status, patiently.

What the library's log viewer says decides nothing: it fails with some datastores, ends before the job does, and takes
a cancelled job for a good one.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from wsi_extract.azure_job.service import JobState, read_job
from wsi_extract.azure_job.service_errors import UnreachableError, one_line, reason_of
from wsi_extract.printable import as_printable

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

COMPLETED = "Completed"
FINAL = frozenset({COMPLETED, "Failed", "Canceled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to ask, in seconds."""

    first_s: float = 2.0
    longest_s: float = 30.0
    patience_s: float = 900.0
    """How long nobody may answer: shorter troubles of a network are no reason to give up."""


def wait_for(client: MLClient, name: str, *, out: TextIO, pace: Pace | None = None) -> JobState:
    """Wait until a job has ended, and return its last state, with a status of `FINAL`.

    Parameters
    ----------
    out
        Gets the log of the job, and a line whenever its status changes.
    pace
        How often to ask.

    Raises
    ------
    KeyboardInterrupt
        The job goes on.
    ServiceError
        When its status cannot be read for long; the job goes on.
    """
    _show_log(client, name, out=out)
    return _poll(lambda: read_job(client, name), out=out, pace=pace or Pace())


def _show_log(client: MLClient, name: str, *, out: TextIO) -> None:
    """Follow the log of the job's first node, until it ends or cannot be followed any further."""
    from azure.ai.ml.exceptions import JobException  # noqa: PLC0415
    from azure.core.exceptions import AzureError  # noqa: PLC0415

    try:
        with contextlib.redirect_stdout(_PrintableFile(out)):
            client.jobs.stream(name)
    except JobException as error:
        # Raised for a failed job, of which the status tells, and in place of Ctrl-C.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
    except Exception as error:  # noqa: BLE001  # the log is a nicety, and its viewer fails in many ways
        reason = reason_of(error) if isinstance(error, AzureError) else one_line(f"{type(error).__name__}: {error}")
        out.write(f"the log cannot be shown any further ({reason}); waiting for the end of the job\n")


def _poll(read: Callable[[], JobState], *, out: TextIO, pace: Pace) -> JobState:
    wait_s, known = pace.first_s, ""
    answered_s = time.monotonic()
    while True:
        try:
            state = read()
        except UnreachableError as error:
            if time.monotonic() - answered_s >= pace.patience_s:
                raise
            out.write(f"{error.message} Trying again.\n")
        else:
            answered_s = time.monotonic()
            if state.status != known:
                out.write(f"status: {state.status}\n")
                known = state.status
            if state.status in FINAL:
                return state
        out.flush()
        time.sleep(wait_s)
        wait_s = min(1.5 * wait_s, pace.longest_s)


class _PrintableFile(io.TextIOBase):
    """Hands on what can be shown: the log of a job may hold what a terminal would obey."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str, /) -> int:
        self._out.write(as_printable(text.replace("\r\n", "\n").replace("\r", "\n")))
        return len(text)

    def flush(self) -> None:
        self._out.flush()
