"""Whose fault an error is, and the error as a value. Touches the disk only to ask whether a mount is still there."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Collection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from wsi_extract.causes import (
    ABSENT,
    SHORTAGES,
    TRANSIENT,
    describe_os_error,
    errno_of,
    name_of,
    path_of,
    remedy_for,
    why_folder_is_lost,
)
from wsi_extract.errors import EnvironmentFaultError, IntegrityError, SlideError, WsiExtractError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.printable import as_printable

NO_THREAD = "can't start new thread"
"""What Python says when the system grants no further thread; it has no type of its own for that."""
REMEDY_UNREADABLE = "Replace the slide, or leave it out."
REMEDY_MOUNT = "Is the mount still there? Mend it, then run the same command again; finished work is kept."
ANSWER_S = 30.0
"""How long a file may take to answer before what it lies on counts as stalled."""
N_PLACES = 4
"""That are read of a file, at random: some of it may be in this machine's memory, whatever the mount does."""
PIECE_BYTES = 4096
PACKAGE = Path(__file__).parent


def fault_from(error: Exception, *, slide_id: str, stage: str, n_attempts: int = 1) -> Fault:
    """Turn an error raised by a task into a value, and decide whose fault it is.

    Its texts are printable: they name files, and stand in records, tables and logs.
    """
    fault_class = class_of(error)
    message, remedy = str(error), ""
    if isinstance(error, WsiExtractError):
        message, remedy = error.message, error.remedy
        if fault_class is FaultClass.ENVIRONMENT and (isinstance(error, SlideError) or not remedy):
            remedy = remedy_for(errno_of(error))
    elif isinstance(error, OSError):
        message = describe_os_error(error)
        remedy = remedy_for(error.errno) if fault_class is FaultClass.ENVIRONMENT else REMEDY_UNREADABLE
    elif isinstance(error, MemoryError):
        message = message or "out of memory"
        remedy = "Give each worker more memory: fewer --workers, or a smaller --patch_size."
    elif fault_class is FaultClass.ENVIRONMENT:
        remedy = "Raise the limit of threads and processes (ulimit -u), then run the same command again."
    else:
        message = f"{message or type(error).__name__}{_place_of(error)}"
        remedy = "This looks like a bug; please report it with the slide's format."
    return Fault(
        slide_id=slide_id,
        stage=stage,
        fault_class=fault_class,
        error_type=type(error).__name__,
        message=as_printable(message) or type(error).__name__,
        remedy=as_printable(remedy),
        n_attempts=n_attempts,
        errno_name=name_of(errno_of(error)),
    )


def class_of(error: Exception) -> FaultClass:
    """Decide whose fault an error is. Slide readers raise `SlideError`: any other OSError comes from our own files."""
    if isinstance(error, IntegrityError):
        return FaultClass.INTEGRITY
    if isinstance(error, EnvironmentFaultError):
        return FaultClass.ENVIRONMENT
    if isinstance(error, SlideError):
        return FaultClass.ENVIRONMENT if errno_of(error) in SHORTAGES else FaultClass.SLIDE
    if isinstance(error, OSError):  # without a number it is a library's, such as Pillow's, about what it reads
        return FaultClass.SLIDE if error.errno is None else FaultClass.ENVIRONMENT
    return FaultClass.ENVIRONMENT if _is_no_thread(error) else FaultClass.SLIDE


def _is_no_thread(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and str(error) == NO_THREAD


def _place_of(error: Exception) -> str:
    """Return file and line of the innermost frame of this package; nothing when it was never raised there."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(Path(frame.filename), frame.lineno) for frame in frames if PACKAGE in Path(frame.filename).parents]
    return "".join(f" (at {path.relative_to(PACKAGE.parent)}:{line})" for path, line in places[-1:])


def find_lost_mount(error: Exception) -> EnvironmentFaultError | None:
    """Return the error of a mount that has gone, when that is why a slide could not be read."""
    if not isinstance(error, SlideError):
        return None
    path = error.path or path_of(error)
    reason = "" if path is None else why_folder_is_lost(path)
    if not reason:
        return None
    assert path is not None
    return EnvironmentFaultError(f"the slides have gone: {path.parent} {reason}", REMEDY_MOUNT)


def refuse_silent_slide(path: Path, *, patience_s: float = ANSWER_S) -> None:
    """Refuse to go on when a slide's file does not answer at all: what waits for it in vain is no fault of the slide.

    Nothing is decoded, so that no damage of the slide matters. A call that never returns stays behind in a thread.

    Raises
    ------
    EnvironmentFaultError
        When nothing comes within ``patience_s``, or the folder has gone.
    """
    answers: SimpleQueue[str] = SimpleQueue()
    try:
        Thread(target=lambda: answers.put(_ask(path)), name="probe", daemon=True).start()
    except RuntimeError:  # the system grants no further thread: then nobody is asked
        return
    try:
        reason = answers.get(timeout=patience_s)
    except Empty:
        message = f"the slides do not answer: nothing has come from {path} for {patience_s:.0f} s"
        raise EnvironmentFaultError(message, REMEDY_MOUNT) from None
    if reason:
        raise EnvironmentFaultError(f"the slides have gone: {path.parent} {reason}", REMEDY_MOUNT)


def _ask(path: Path) -> str:
    """Read a little of a file; return why its folder is lost, empty when it is not."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            n_bytes = os.fstat(descriptor).st_size
            for _ in range(N_PLACES):
                os.pread(descriptor, PIECE_BYTES, random.randrange(max(1, n_bytes)))
        finally:
            os.close(descriptor)
        path.stat()
    except OSError:  # an answer as well
        return why_folder_is_lost(path)
    return ""


def refuse_lost_slides(faults: Collection[Fault], *, n_slides: int, folder: Path) -> None:
    """Refuse to go on when not one slide could be read, each because of the disk or the network.

    Raises
    ------
    EnvironmentFaultError
        When that many slides failed, and the system complained at each of them in the way of a mount that is gone.
    """
    passing = {name_of(number) for number in TRANSIENT | ABSENT}
    if faults and len(faults) == n_slides and all(fault.errno_name in passing for fault in faults):
        first = min(faults, key=lambda fault: fault.slide_id)
        raise EnvironmentFaultError(f"none of {n_slides} slides in {folder} can be read: {first.message}", REMEDY_MOUNT)
