"""The log of a job as Azure's log viewer writes it: without what it repeats, and with what matters most remembered."""

from __future__ import annotations

import io
import re
from typing import TextIO

from wsi_extract.printable import as_printable

TITLE = "Execution Summary"
HEADING = "Streaming "
"""Begins the viewer's line above each file of the log."""
_VERDICT = re.compile(r"(?:[\d-]+ [\d:]+Z )?((?:IN)?COMPLETE: .*)")
"""How the extraction sums up what it did; a job that was restarted does so more than once."""


class JobLog(io.TextIOBase):
    """Hands a log on, line by line; what a terminal would obey is shown instead.

    Parameters
    ----------
    out
        Gets the lines.
    name
        Name of the job.

    Attributes
    ----------
    is_shown
        Whether there was any line of the job's own.
    shortfall
        The line that says which slides are not in the data set, without its time; ``None`` if the last verdict was
        another one.
    """

    def __init__(self, out: TextIO, *, name: str) -> None:
        self._out = out
        self._repeats = frozenset({f"RunId: {name}", TITLE})
        self._rest = ""
        self._n_blank = 0
        self._is_after_repeat = False
        self.is_shown = False
        self.shortfall: str | None = None

    def write(self, text: str, /) -> int:
        """Take some text; what follows its last line end waits for more."""
        *lines, self._rest = (self._rest + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Hand on what is there."""
        self._out.flush()

    def end_with(self, line: str) -> None:
        """Hand on what waits for its line end, then a line of ours."""
        if self._rest:
            self.write("\n")
        self._out.write(f"{line}\n")

    def _take(self, line: str) -> None:
        if not line:
            self._n_blank += 1  # shown if something follows
            return
        if self._is_repeat(line):
            self._n_blank, self._is_after_repeat = 0, True
            return
        self._is_after_repeat = False
        self.is_shown = self.is_shown or line.startswith(HEADING)
        verdict = _VERDICT.match(line)
        if verdict is not None:
            self.shortfall = verdict[1] if verdict[1].startswith("IN") else None
        self._out.write("\n" * self._n_blank + as_printable(line) + "\n")
        self._n_blank = 0

    def _is_repeat(self, line: str) -> bool:
        """Whether the viewer says what stands above the log already."""
        if line in self._repeats or line.startswith("Web View: "):
            return True
        return self._is_after_repeat and line == "=" * len(TITLE)
