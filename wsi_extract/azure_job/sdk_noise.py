"""What Azure's libraries say on the way: warnings of theirs as one line each, everything else only when asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from wsi_extract.azure_job.service_errors import hide_secrets, one_line
from wsi_extract.printable import as_printable

LOGGERS = ("azure", "msal", "msrest", "py.warnings")
_OWN_HANDLER = "azure.ai.ml"
"""This logger brings a handler of its own, which writes every remark to the terminal."""
_NOISE = re.compile(
    r"This is an experimental (class|method|field)"
    r"|Use of \{\} for parameters is deprecated"
    r"|get_token(_info)? failed|failed to retrieve a token"  # what is raised says it again
    r"|no tenant id appended to studio URL"
)


class _Remarks(logging.Handler):
    """Writes the records of a library as lines of ours, without secrets."""

    def __init__(self, stream: TextIO, *, is_verbose: bool) -> None:
        super().__init__(logging.INFO if is_verbose else logging.WARNING)
        self._stream = stream
        self._is_verbose = is_verbose

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if self._is_verbose:
            line = " ".join(f"{record.name}: {text}".split())
            self._stream.write(as_printable(hide_secrets(line)) + "\n")
        elif _NOISE.search(text) is None:
            self._stream.write(f"warning: {one_line(text)}\n")


@contextmanager
def quiet_libraries(*, is_verbose: bool) -> Iterator[None]:
    """Let Azure's libraries say within the block what matters: warnings, or all they do with ``is_verbose``.

    What they log is written to stderr, without secrets.
    """
    handler = _Remarks(sys.stderr, is_verbose=is_verbose)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    logging.captureWarnings(True)  # noqa: FBT003  # the library's own signature
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(handler.level)
    try:
        yield
    finally:
        logging.captureWarnings(False)  # noqa: FBT003
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)


def hand_over_handlers() -> None:
    """Take the handler away that Azure ML's library brings along, so that its remarks arrive at `quiet_libraries`."""
    logger = logging.getLogger(_OWN_HANDLER)
    for handler in tuple(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@contextmanager
def without_progress(*, is_verbose: bool) -> Iterator[None]:
    """Keep progress bars off the terminal, unless ``is_verbose``; they are drawn on stderr without being asked for."""
    with contextlib.nullcontext() if is_verbose else contextlib.redirect_stderr(io.StringIO()):
        yield
