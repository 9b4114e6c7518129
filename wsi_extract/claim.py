"""Take possession of an output folder: one run owns it, resumes in it, and deletes nothing it did not write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.files import TEMPORARY_SUFFIX, is_temporary, pretty_json, write_atomically
from wsi_extract.layout import INDEX, MANIFEST, OWNED, PATCHES, PIXELS, STATE, run_path
from wsi_extract.record_files import read_json_object


def claim_folder(
    output_dir: Path, *, description: Mapping[str, Any], failed: Collection[str] = (), fresh: bool
) -> None:
    """Prepare ``output_dir`` for the run described, so that finished work of the same run is kept.

    Parameters
    ----------
    description
        ``settings``, ``annotations`` and ``stain_target`` of the run, and ``slides``: for each slide id
        what its patches depend on.
    failed
        Ids of slides that cannot be read this time: what is known of them is kept for when they can.
    fresh
        Delete the folders and files of the contract (`layout.OWNED`) that an earlier run left there.

    Raises
    ------
    InputError
        When the folder holds files of the contract's names that this program did not write.
    IntegrityError
        When it holds the output of a run with other settings or inputs.
    """
    description = check_folder(output_dir, description=description, failed=failed, fresh=fresh)
    # From here on neither the folder nor its stores must look finished until they are.
    (output_dir / MANIFEST).unlink(missing_ok=True)
    _close_stores(output_dir)
    if fresh:
        _delete_output(output_dir)
    sweep_temporaries(output_dir)
    write_atomically(run_path(output_dir), pretty_json(dict(description)))


def check_folder(
    output_dir: Path, *, description: Mapping[str, Any], failed: Collection[str] = (), fresh: bool
) -> Mapping[str, Any]:
    """Refuse a folder that `claim_folder` would refuse, without touching it; parameters and errors are the same.

    Returns
    -------
    The description with what is known of the failed slides.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output_dir {output_dir} is a file.", "Name a folder.")
    known, present = (
        read_json_object(run_path(output_dir), remedy="Start over in another --output_dir."),
        _present(output_dir),
    )
    if known is None and not _holds_only_temporaries(output_dir):
        raise InputError(
            f"{output_dir} already holds {', '.join(present)}, not written by this program (there is no "
            f"{STATE}/run.json).",
            "Choose another --output_dir.",
        )
    if known is None or fresh:
        return description
    kept = {slide_id: known["slides"][slide_id] for slide_id in known.get("slides", {}).keys() & set(failed)}
    description = {**description, "slides": {**kept, **description["slides"]}}
    _refuse_changes(output_dir, known=known, description=description)
    return description


def _delete_output(output_dir: Path) -> None:
    """Delete everything a run writes, ``run.json`` last, because it is what tells that the rest may be deleted."""
    for name in _present(output_dir):
        if name != STATE:
            _delete(output_dir / name)
    state = output_dir / STATE
    for child in state.iterdir() if state.is_dir() else ():
        if child != run_path(output_dir):
            _delete(child)
    if state.exists():
        _delete(state)


def _close_stores(output_dir: Path) -> None:
    """Remove the documents that let Zarr stores open, and the index; shards stay."""
    for store in (output_dir / PATCHES, output_dir / PIXELS):
        for pattern in ("zarr.json", "*/zarr.json", "*/*/zarr.json"):
            for document in store.glob(pattern):
                document.unlink()
    if (output_dir / INDEX).exists():
        _delete(output_dir / INDEX)


def sweep_temporaries(output_dir: Path) -> None:
    """Remove what processes that were killed in the middle of a write left behind. Nothing may be writing."""
    found = [file for name in _present(output_dir) for file in _temporaries_below(output_dir / name)]
    beside = [file for name in OWNED for file in output_dir.glob(f"{name}.*{TEMPORARY_SUFFIX}")]
    for file in (*found, *beside):
        if is_temporary(file.name) and not file.is_dir():
            file.unlink(missing_ok=True)


def _temporaries_below(top: Path) -> Iterator[Path]:
    """Yield what ends like a temporary below a folder; a run walks through its patches, perhaps millions, twice."""
    folders = [os.fspath(top)] if top.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.endswith(TEMPORARY_SUFFIX):
                    yield Path(entry.path)


def _holds_only_temporaries(output_dir: Path) -> bool:
    """Whether a run was killed before it could say whose folder this is."""
    present = _present(output_dir)
    return present in ([], [STATE]) and all(is_temporary(file.name) for file in (output_dir / STATE).glob("*"))


def _present(output_dir: Path) -> list[str]:
    return [name for name in OWNED if (output_dir / name).exists()]


def _refuse_changes(output_dir: Path, *, known: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    changes = []
    for section in ("program", "libraries", "annotations", "settings", "stain_target"):
        old, new = (_without_name(document.get(section)) for document in (known, description))
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [
                f"{section}.{key}: was {old.get(key)!r}, now {new.get(key)!r}"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
        elif old != new:
            changes.append(f"{section}: was {old!r}, now {new!r}")
    old_slides = known.get("slides", {})
    changes += [
        f"slide {slide_id}: {'no longer taking part' if slide_id not in description['slides'] else 'changed'}"
        for slide_id, old in old_slides.items()
        if description["slides"].get(slide_id) != old
    ]
    if changes:
        listing = "\n".join(f"  {change}" for change in changes[:20])
        more = f"\n  and {len(changes) - 20} more" if len(changes) > 20 else ""
        raise IntegrityError(
            f"{output_dir} holds the output of another run:\n{listing}{more}\n",
            "Choose another --output_dir, or start over with --fresh.",
        )


def _without_name(section: object) -> object:
    """Return a section without the name of the stain target, which is for people: a picture may be renamed."""
    return {key: value for key, value in section.items() if key != "name"} if isinstance(section, dict) else section


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
