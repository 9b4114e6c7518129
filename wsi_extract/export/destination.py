"""The folder of an export: which export it holds, whether that is finished, and what may not be written over.

<destination>/export.unfinished.json    which export this is; there from its start to its end
<destination>/export.json               the same, and what it holds; written last: its existence means done
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import TEMPORARY_SUFFIX, is_temporary, pretty_json, write_atomically
from wsi_extract.errors import EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.state.folder_lock import NO_LOCKS
from wsi_extract.state.record_files import read_json_object

EXPORT = "export.json"
UNFINISHED = "export.unfinished.json"
ELSEWHERE = "Choose another --dest."


def check_destination(
    destination: Path, *, output_dir: Path, identity: Mapping[str, object]
) -> Mapping[str, Any] | None:
    """Refuse a folder that holds anything but this export, without touching it.

    Parameters
    ----------
    output_dir
        The data set that is exported; the destination must not lie in it.
    identity
        Which export this is, as JSON values.

    Returns
    -------
    The content of export.json when the export is finished, else ``None``.

    Raises
    ------
    InputError
        When the destination is a file, lies inside the data set, or holds files of others.
    IntegrityError
        When it holds another export, or its marker is damaged.
    """
    if destination.exists() and not destination.is_dir():
        raise InputError(f"--dest {destination} is a file.", "Name a folder.")
    if destination.resolve().is_relative_to(output_dir.resolve()):
        raise InputError(f"--dest {destination} lies inside the data set {output_dir}.", ELSEWHERE)
    for name in (EXPORT, UNFINISHED):
        document = read_json_object(destination / name, remedy=ELSEWHERE)
        if document is not None:
            _refuse_changes(destination, known=document, identity=identity)
            return document if name == EXPORT else None
    strange = _first_strange(destination)
    if strange is not None:
        raise InputError(f"--dest {destination} already holds {strange}, which is no part of an export.", ELSEWHERE)
    return None


@contextmanager
def held_destination(destination: Path) -> Iterator[None]:
    """Keep other exports out of the folder, which is made where it is missing; the lock ends with the process.

    It lies on the folder itself, since an export holds nothing but what its format demands. File systems without locks
    keep nobody out.

    Raises
    ------
    EnvironmentFaultError
        When another export is writing there.
    """
    make_folder(destination)
    descriptor = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, destination=destination)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, destination: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise EnvironmentFaultError(
            f"another export is writing to {destination}.", "Wait until it has ended, or choose another --dest."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def claim_destination(destination: Path, *, identity: Mapping[str, object]) -> None:
    """Mark the folder as that of this export, and remove what a killed attempt left half-written."""
    found = destination.rglob(f"*{TEMPORARY_SUFFIX}")
    for left_over in sorted(path for path in found if is_temporary(path.name) and path.is_file()):
        left_over.unlink(missing_ok=True)
    write_atomically(destination / UNFINISHED, pretty_json(identity))


def finish_destination(destination: Path, *, document: Mapping[str, object]) -> None:
    """Mark the export as finished."""
    write_atomically(destination / EXPORT, pretty_json(document))
    (destination / UNFINISHED).unlink(missing_ok=True)


def _refuse_changes(destination: Path, *, known: Mapping[str, Any], identity: Mapping[str, object]) -> None:
    changes = [
        f"  {key}: was {known.get(key)!r}, now {value!r}" for key, value in identity.items() if known.get(key) != value
    ]
    if changes:
        raise IntegrityError(f"{destination} holds another export:\n" + "\n".join(changes) + "\n", ELSEWHERE)


def _first_strange(destination: Path) -> str | None:
    """Return a name in the folder that is not the temporary of a marker that was never finished."""
    if not destination.exists():
        return None
    names = sorted(path.name for path in destination.iterdir())
    return next((name for name in names if not (name.startswith(UNFINISHED) and name.endswith(TEMPORARY_SUFFIX))), None)
