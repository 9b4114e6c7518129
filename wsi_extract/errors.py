"""Errors of the package: one base class, one subclass per cause a user can act on.

A message says what was wrong, with the value, the slide and the file, and what to do about it.
The class decides the exit code of the program.
"""

from __future__ import annotations

from pathlib import Path

RESTORE = "Delete the file, if it is there, and run the extraction again: what is missing is made anew."
"""The remedy for a damaged or lost file of pixels: resuming looks for files and their sizes, not for bytes."""


class WsiExtractError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    message
        What was wrong: the value, the slide id and the path.
    remedy
        What the user can do about it, as one sentence; empty when the message says it already.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        blank = "" if self.message.endswith("\n") else " "
        return f"{self.message}{blank}{self.remedy}".strip()


class ConfigError(WsiExtractError, ValueError):
    """The settings cannot be used; the message lists every problem, one per line."""

    exit_code = 2


class InputError(WsiExtractError, ValueError):
    """The input as a whole cannot be used: no slides, no annotation file, no target class."""

    exit_code = 2


class AnnotationError(InputError):
    """An annotation file cannot be read without guessing."""


class SplitError(InputError):
    """Slides cannot be assigned to splits as asked."""


class SlideError(WsiExtractError):
    """One slide cannot be used. It costs that slide only; the run goes on.

    Raised from the OSError, if the system complained: whether another attempt may succeed depends on that.

    Parameters
    ----------
    path
        The file, when it could not be read: where it lies tells whether a mount has gone.
    """

    def __init__(self, message: str, remedy: str = "", *, path: Path | None = None) -> None:
        super().__init__(message, remedy)
        self.path = path


class EnvironmentFaultError(WsiExtractError, OSError):
    """The machine, not the data, failed: disk full, no workers. The run stops and can be resumed."""

    exit_code = 5


class IntegrityError(WsiExtractError):
    """The output folder does not hold what it claims to hold, or belongs to another run."""

    exit_code = 6


class AuthenticationFailedError(WsiExtractError):
    """Nobody could log in at Azure."""

    exit_code = 3


class PreflightError(WsiExtractError):
    """Something that a job needs is not there; found before anything was uploaded."""

    exit_code = 2


class ServiceError(WsiExtractError, OSError):
    """Azure refused, or cannot be reached."""

    exit_code = 4
