"""The first and the last moments of a program: what goes wrong before it can handle anything is one line there, too.

To be imported before everything else, so it knows Python alone, and little of that.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

EXIT_ENVIRONMENT = 2
"""The exit code when a package is missing or does not load, as of `wsi_extract.node_start`: waiting does not help."""
THIS_PACKAGE = __name__.partition(".")[0]
REQUIREMENTS = "requirements.txt"
NOBODY_READS = frozenset({errno.EPIPE, errno.EIO})
"""What writing to a pipe whose reader has ended, and to a terminal that was closed, fails with."""


class Imports:
    """Guards the imports of a program, as a ``with`` block around them.

    Until signals are handled (`wsi_extract.interrupts.stoppable`) Ctrl-C is a plain death by that signal, which shells
    report as exit code 130, and a package that cannot be loaded is one line and exit code 2.

    Parameters
    ----------
    name
        ``__name__`` of the module. Nothing happens when it is imported instead of run.
    requirements
        The file that lists the packages of the program.
    """

    def __init__(self, name: str, *, requirements: str = REQUIREMENTS) -> None:
        self._is_program = name == "__main__"
        self._requirements = requirements

    def __enter__(self) -> None:
        # Not where Ctrl-C is ignored, as in the background of a shell.
        if self._is_program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._is_program and isinstance(error, ImportError):
            message = describe_missing(error, requirements=self._requirements)
            if message:
                sys.stderr.write(f"error: {message}\n")
                raise SystemExit(EXIT_ENVIRONMENT) from None


def describe_missing(error: ImportError, *, requirements: str = REQUIREMENTS) -> str:
    """Return in one line which package is missing and what to do; ``""`` for modules of this program or of Python."""
    package = (error.name or "").partition(".")[0]
    if package == THIS_PACKAGE or package in sys.stdlib_module_names:
        return ""
    what = f"the package {package} is missing" if isinstance(error, ModuleNotFoundError) and package else "not loaded"
    reason = " ".join(str(error).split())
    return f"{what}: {reason}. Install what this program needs with: pip install -r {requirements}"


def run_program(main: Callable[[], int]) -> int:
    """Run a program whose output may lose its reader, as in ``program | head``, or its disk: it goes on to its end."""
    _open_standard_files()
    sys.stdout = _lenient(1, encoding=sys.stdout.encoding if sys.stdout else "utf-8")
    sys.stderr = _lenient(2, encoding=sys.stderr.encoding if sys.stderr else "utf-8")
    return main()


def _open_standard_files() -> None:
    """Fill the places of standard files that were closed: else a file of pixels could get one.

    Libraries in C write their complaints to descriptor 2, whatever that is.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003  # the lowest free number: this one


def _lenient(descriptor: int, *, encoding: str) -> io.TextIOWrapper:
    raw = _LenientFile(descriptor, "w", closefd=False)
    # Characters that the terminal cannot show must not end a run.
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True)


class _LenientFile(io.FileIO):
    """A standard file that leads nowhere from the moment on when it cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return self._write_all_the_same(data)
        except OSError as error:
            reason = error
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if reason.errno not in NOBODY_READS and self.fileno() != sys.stderr.fileno():
            sys.stderr.write(f"warning: the output is lost from here on: {reason.strerror}; the program goes on\n")
        return memoryview(data).nbytes

    def _write_all_the_same(self, data: ReadableBuffer) -> int:
        """Wait where writing must not block: whoever has the same pipe or terminal may have asked for that."""
        written: int | None = super().write(data)
        while written is None:
            select.select([], [self.fileno()], [])
            written = super().write(data)
        return written
