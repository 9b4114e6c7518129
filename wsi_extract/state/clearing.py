"""Take away what earlier runs left in an output folder, so that a power cut at any moment leaves nothing that misleads.

A file system may make removals durable in any order. Where the order matters, one step is therefore durable before the
next begins: what says that something is finished always goes before the thing itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsi_extract.disk.durable import fsync_after_removal, remove_tree
from wsi_extract.disk.files import TEMPORARY_SUFFIX, is_temporary, temporary_beside
from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.errors import InputError
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    INDEX,
    MANIFEST,
    OWNED,
    PATCHES,
    PIXELS,
    STATE,
    lock_path,
    next_run_path,
    patch_array_folder,
    pixel_image_folder,
    pixel_record_path,
    plan_path,
    record_path,
    run_path,
    slide_manifest_path,
    split_folder,
    survey_path,
)

DOCUMENTS_OF_GROUPS = ("zarr.json", "*/zarr.json")
DOCUMENTS_OF_ARRAYS = "*/*/zarr.json"
"""Of a Zarr store, from the outermost to the innermost."""

PATCH_NAMES = re.compile(r"(?P<slide>[^/]+)/(?P=slide)_x-?\d+_y-?\d+\.png")
DOCUMENT_NAMES = re.compile(r"instances_[a-z]+2017\.json")
STORE_NAMES = re.compile(r"(?:[^/]+/)*(?:zarr\.json|\d+)")
STATE_OF_WORK = ("slides", "records", "pixels", "plans")
"""Folders of the state in which a file says that something is done, those that vouch for more first."""


def present(output_dir: Path) -> list[str]:
    """Return the names of the contract (`layout.OWNED`) that the folder holds."""
    return [name for name in OWNED if (output_dir / name).exists()]


def unfinish(output_dir: Path) -> None:
    """Let neither the folder nor its stores look finished; shards, PNG files and records stay.

    The manifest goes first, then the documents that let Zarr stores open, the outermost first, then the index.
    """
    _unlink_durably([output_dir / MANIFEST])
    for pattern in DOCUMENTS_OF_GROUPS:
        _unlink_durably([path for store in (PATCHES, PIXELS) for path in (output_dir / store).glob(pattern)])
    for store in (PATCHES, PIXELS):  # no group leads to them any more, and nothing else depends on them
        for document in (output_dir / store).glob(DOCUMENTS_OF_ARRAYS):
            document.unlink()
    index = output_dir / INDEX
    if not index.is_dir():
        return
    if commit_form(output_dir) is CommitForm.DIRECT:
        for pattern in DOCUMENTS_OF_GROUPS:
            _unlink_durably(list(index.glob(pattern)))
    else:
        aside = temporary_beside(index)  # all of it in one step; the next start collects what is left of it
        index.rename(aside)
        fsync_after_removal(output_dir)
        index = aside
    remove_tree(index)


def _unlink_durably(paths: list[Path]) -> None:
    removed = [path for path in paths if path.exists()]
    for path in removed:
        path.unlink()
    for folder in sorted({path.parent for path in removed}):
        fsync_after_removal(folder)


def delete_output(output_dir: Path) -> None:
    """Delete everything a run writes: what says that something is done first, ``run.json`` last.

    While ``run.json`` is there, it tells that the rest may be deleted. The lock stays: it is held, and a new file of
    its name would be another lock.
    """
    state = output_dir / STATE
    _unlink_durably(list(state.glob("plans/*.json")))
    records = [state / name for name in STATE_OF_WORK if (state / name).exists()]
    for folder in records:
        _delete(folder)
    if records:
        fsync_after_removal(state)
    for name in present(output_dir):
        if name != STATE:
            _delete(output_dir / name)
    fsync_after_removal(output_dir)
    for child in state.iterdir() if state.is_dir() else ():
        if child not in (run_path(output_dir), next_run_path(output_dir), lock_path(output_dir)):
            _delete(child)
    _unlink_durably([next_run_path(output_dir)])  # speaks for the other while that is torn
    _unlink_durably([run_path(output_dir)])


def find_foreign(output_dir: Path) -> Iterator[Path]:
    """Yield files among those of the contract whose names no run gives: ``--fresh`` would delete a user's own."""
    patterns = {split_folder(split): PATCH_NAMES for split in Split}
    patterns |= {"annotations": DOCUMENT_NAMES, PATCHES: STORE_NAMES, PIXELS: STORE_NAMES}
    for name, pattern in patterns.items():
        top = output_dir / name
        for parent, folders, files in os.walk(top):
            folders.sort()
            for file in sorted(files):
                path = Path(parent) / file
                if not pattern.fullmatch(path.relative_to(top).as_posix()) and not is_temporary(file):
                    yield path


def discard_slide(output_dir: Path, *, slide_id: str) -> None:
    """Delete all that was made of a slide: what says that it is done first, its pixels last; why it failed is kept."""
    paths = [
        slide_manifest_path(output_dir, slide_id=slide_id),
        record_path(output_dir, slide_id=slide_id, index=0).parent,
        pixel_record_path(output_dir, slide_id=slide_id, row=0, column=0).parent,
        survey_path(output_dir, slide_id=slide_id),
        plan_path(output_dir, slide_id=slide_id),
        *(output_dir / split_folder(split) / slide_id for split in Split),
        *(patch_array_folder(output_dir, slide_id=slide_id, split=split) for split in Split),
        pixel_image_folder(output_dir, slide_id=slide_id),
    ]
    for path in paths:
        if path.is_symlink() or path.exists():
            _delete(path)
            fsync_after_removal(path.parent)


def find_temporaries(output_dir: Path) -> list[Path]:
    """Return what processes left behind that were killed in the middle of a write, files and folders.

    Raises
    ------
    InputError
        When a link lies among the files of the contract: a run would write, or delete, where it leads.
    """
    found = [path for name in present(output_dir) for path in _temporaries_below(output_dir / name)]
    beside = [path for name in OWNED for path in output_dir.glob(f"{name}.*{TEMPORARY_SUFFIX}")]
    return [path for path in (*found, *beside) if is_temporary(path.name)]


def sweep_temporaries(output_dir: Path) -> None:
    """Remove what `find_temporaries` finds. Nothing may be writing."""
    remove_temporaries(find_temporaries(output_dir))


def remove_temporaries(found: Iterable[Path]) -> None:
    """Remove files and folders of temporaries, as far as they are still there."""
    for path in found:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


def _temporaries_below(top: Path) -> Iterator[Path]:
    """Yield files that end like a temporary; a run walks through its patches, perhaps millions, twice."""
    refuse_link(top)
    folders = [os.fspath(top)] if top.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    refuse_link(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.endswith(TEMPORARY_SUFFIX):
                    yield Path(entry.path)


def refuse_link(path: Path) -> None:
    """Refuse a link in the place of what a run writes and deletes: neither may happen outside the output folder.

    Raises
    ------
    InputError
        With the link and where it leads.
    """
    if path.is_symlink():
        raise InputError(
            f"{path} is a link, to {path.readlink()}: a run would write and delete there.",
            "Remove the link; to keep the data set elsewhere, make --output_dir itself a link.",
        )


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()
