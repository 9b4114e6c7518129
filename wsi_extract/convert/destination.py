"""The folder of a converted data set: which conversion it holds, and what may not be written over.

<destination>/conversion.unfinished.json    which conversion this is; there from its start to its end
<destination>/manifest.json                 says the same below "run"; written last: its existence means done
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import TEMPORARY_SUFFIX, pretty_json, write_atomically
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.state.claim import CONVERSION, claim_folder
from wsi_extract.state.layout import MANIFEST, STATE, lock_path, run_path
from wsi_extract.state.record_files import read_json_object

UNFINISHED = "conversion.unfinished.json"
ELSEWHERE = "Choose another --dest."


def check_destination(destination: Path, *, source_dir: Path, identity: Mapping[str, object]) -> None:
    """Refuse a folder that holds anything but this conversion, without touching it.

    Parameters
    ----------
    source_dir
        The data set that is converted; neither folder may lie in the other.
    identity
        Which conversion this is, as JSON values.

    Raises
    ------
    InputError
        When the destination is a file, overlaps the data set, or holds files of others.
    IntegrityError
        When it holds another conversion, or its marker is damaged.
    """
    if destination.exists() and not destination.is_dir():
        raise InputError(f"--dest {destination} is a file.", "Name a folder.")
    ours, theirs = destination.resolve(), source_dir.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(f"--dest {destination} overlaps the data set {source_dir}.", ELSEWHERE)
    known = read_json_object(destination / UNFINISHED, remedy=ELSEWHERE) or _read_finished(destination)
    if known is not None:
        _refuse_changes(destination, known=known, identity=identity)
        return
    names = sorted(path.name for path in destination.iterdir()) if destination.exists() else []
    if list((destination / STATE).glob("*")) in ([], [lock_path(destination)]):
        names = [name for name in names if name != STATE]  # a conversion was killed before it said what it is
    strange = [name for name in names if not (name.startswith(UNFINISHED) and name.endswith(TEMPORARY_SUFFIX))]
    if strange:
        raise InputError(
            f"--dest {destination} already holds {strange[0]}, which is no part of a conversion.", ELSEWHERE
        )


def claim_destination(destination: Path, *, identity: Mapping[str, object], description: Mapping[str, object]) -> None:
    """Mark the folder as that of this conversion; from here on it does not look finished.

    Parameters
    ----------
    description
        What run.json says of the new data set.
    """
    make_folder(destination)
    for left_over in destination.glob(f"{UNFINISHED}*{TEMPORARY_SUFFIX}"):
        left_over.unlink()
    write_atomically(destination / UNFINISHED, pretty_json(identity))
    # The marker has decided whose folder this is, so no earlier run.json, nor its absence, can speak against it.
    write_atomically(run_path(destination), pretty_json(description))
    claim_folder(destination, description=description, fresh=False)


def finish_destination(destination: Path, *, manifest: Mapping[str, object]) -> None:
    """Mark the data set as finished."""
    write_atomically(destination / MANIFEST, pretty_json(manifest))
    (destination / UNFINISHED).unlink()


def _read_finished(destination: Path) -> dict[str, Any] | None:
    """Return which conversion a finished data set is, ``None`` when it is none."""
    try:
        identity = (read_json_object(destination / MANIFEST, remedy=ELSEWHERE) or {})["run"][CONVERSION]["identity"]
    except (KeyError, TypeError):
        return None
    return identity if isinstance(identity, dict) else None


def _refuse_changes(destination: Path, *, known: Mapping[str, Any], identity: Mapping[str, object]) -> None:
    changes = [
        f"  {key}: was {known.get(key)!r}, now {value!r}" for key, value in identity.items() if known.get(key) != value
    ]
    if changes:
        raise IntegrityError(f"{destination} holds another conversion:\n" + "\n".join(changes) + "\n", ELSEWHERE)
