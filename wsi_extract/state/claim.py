"""Take possession of an output folder: one run owns it, resumes in it, and deletes nothing it did not write.

To be called under the lock of the folder, see `wsi_extract.state.folder_lock`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsi_extract.disk.files import is_temporary, pretty_json, write_atomically
from wsi_extract.disk.mounts import CommitForm, commit_form
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.state.clearing import (
    delete_output,
    discard_slide,
    find_foreign,
    find_temporaries,
    present,
    refuse_link,
    remove_temporaries,
    unfinish,
)
from wsi_extract.state.fault_records import slides_at_fault
from wsi_extract.state.layout import MANIFEST, OWNED, PATCHES, STATE, claim_path, lock_path, next_run_path, run_path
from wsi_extract.state.record_files import read_json_object
from wsi_extract.state.run_claims import SECTIONS, remove_claim, without_name, write_claim

SAME_AFTER_REPAIR = ("annotations", "splits")
"""What must stay the same of a slide that comes back repaired; the rest says what its file holds."""
REMEDY = (
    "If the data set was finished, mend it with: python -m wsi_extract verify OUT --repair; else start over in another "
    "--output_dir."
)
CONVERSION = "conversion"
"""Of the manifest's ``run``, and of the name of the marker of one that is not finished: a data set that was made from
another one instead of from slides."""
MAX_NAMED = 20


def claim_folder(
    output_dir: Path, *, description: Mapping[str, Any], failed: Collection[str] = (), fresh: bool
) -> None:
    """Prepare ``output_dir`` for the run described, so that finished work of the same run is kept.

    Of a slide that failed, and has been repaired or replaced since then, nothing is kept.

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
        When the folder holds files of the contract's names that this program did not write, or links in their place.
    IntegrityError
        When it holds the output of a run with other settings or inputs.
    """
    known, description = _check(output_dir, description=description, failed=failed, fresh=fresh)
    left_behind = find_temporaries(output_dir)  # refuses links, of which there is no trace yet
    unfinish(output_dir)
    if fresh:
        remove_claim(output_dir)  # before anything else of the run: whoever still writes for it is to stop
        delete_output(output_dir)
    remove_temporaries(left_behind)
    if known is not None and not fresh:
        # Before run.json speaks of the new file: a run that is killed in between begins with this again.
        for slide_id in _repaired(output_dir, known=known, description=description):
            discard_slide(output_dir, slide_id=slide_id)
    write_claim(output_dir, description)
    _write_run(output_dir, pretty_json(dict(description)))


def _write_run(output_dir: Path, content: bytes) -> None:
    """Write run.json; where it cannot be replaced in one step, its content is in one of two files at any moment."""
    path, spare = run_path(output_dir), next_run_path(output_dir)
    is_replaced = path.exists() and path.read_bytes() != content
    if is_replaced and commit_form(output_dir) is CommitForm.DIRECT:
        write_atomically(spare, content)
    write_atomically(path, content)
    if spare.exists():
        spare.unlink(missing_ok=True)


def check_folder(
    output_dir: Path, *, description: Mapping[str, Any], failed: Collection[str] = (), fresh: bool
) -> Mapping[str, Any]:
    """Refuse a folder that `claim_folder` would refuse, without touching it; parameters and errors are the same.

    Returns
    -------
    The description with what is known of the failed slides.
    """
    return _check(output_dir, description=description, failed=failed, fresh=fresh)[1]


def refuse_foreign(output_dir: Path) -> None:
    """Refuse a folder that no run can use, whatever its settings, without touching it: before long preparations.

    Raises
    ------
    InputError, IntegrityError
        Those of `claim_folder` that do not depend on the run, and when the folder holds a converted data set.
    """
    if _read_owner(output_dir) is not None and _is_converted(output_dir):
        raise InputError(
            f"{output_dir} was converted from another data set: nothing can be extracted into it.",
            "Choose another --output_dir. To mend it, repair the data set that it came from, and convert that again.",
        )


def _is_converted(output_dir: Path) -> bool:
    if (output_dir / f"{CONVERSION}.unfinished.json").exists():
        return True
    with suppress(IntegrityError):  # a damaged manifest says nothing, and the run makes it anew
        run = (read_json_object(output_dir / MANIFEST, remedy="") or {}).get("run")
        return isinstance(run, dict) and CONVERSION in run
    return False


def _check(
    output_dir: Path, *, description: Mapping[str, Any], failed: Collection[str], fresh: bool
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    """Return also what run.json says."""
    known = _read_owner(output_dir)
    if known is not None and fresh:
        _refuse_to_delete(output_dir)
    if known is None or fresh:
        return known, description
    kept = {slide_id: known["slides"][slide_id] for slide_id in known["slides"].keys() & set(failed)}
    description = {**description, "slides": {**kept, **description["slides"]}}
    _refuse_changes(output_dir, known=known, description=description)
    return known, description


def _refuse_to_delete(output_dir: Path) -> None:
    """Refuse ``--fresh`` where it would delete files that no run wrote.

    Raises
    ------
    InputError
        With the first of them.
    """
    foreign = list(itertools.islice(find_foreign(output_dir), MAX_NAMED + 1))
    if foreign:
        listing = "\n".join(f"  {path}" for path in foreign[:MAX_NAMED])
        more = "\n  and more" if len(foreign) > MAX_NAMED else ""
        raise InputError(
            f"--fresh would delete files that no run wrote:\n{listing}{more}\n",
            "Move them away, or choose another --output_dir.",
        )


def _read_owner(output_dir: Path) -> dict[str, Any] | None:
    """Return what run.json says, ``None`` when the folder belongs to nobody; errors are those of `refuse_foreign`."""
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output_dir {output_dir} is a file.", "Name a folder.")
    if output_dir.is_symlink() and not output_dir.exists():
        raise InputError(
            f"--output_dir {output_dir} is a link to nowhere: {output_dir.readlink()}.", "Make that folder."
        )
    if output_dir.resolve() in (Path("/"), Path.home().resolve()):
        raise InputError(f"--output_dir {output_dir} is no place for a data set.", "Name a folder below it.")
    _refuse_links(output_dir)
    known = _read_run(output_dir)
    if known is None and not _is_barely_claimed(output_dir):
        raise InputError(
            f"{output_dir} already holds {', '.join(present(output_dir))}, not written by this program (there is no "
            f"{STATE}/run.json).",
            "Choose another --output_dir; if it is what is left of a data set of this program, delete it.",
        )
    return known


def is_unclaimed(output_dir: Path) -> bool:
    """Tell whether the folder holds nothing of a run's but what one killed before its first step may leave."""
    return _holds_only(output_dir, lock_path(output_dir), claim_path(output_dir))


def _is_barely_claimed(output_dir: Path) -> bool:
    """Tell whether nothing of a run is there beside ``run.json``: half of one was written by a run that died then.

    So may its second copy be, by another run that died when it was about to mend it.
    """
    early = (lock_path(output_dir), claim_path(output_dir), run_path(output_dir), next_run_path(output_dir))
    return _holds_only(output_dir, *early)


def _holds_only(output_dir: Path, *early: Path) -> bool:
    if present(output_dir) not in ([], [STATE]):
        return False
    return all(path in early or is_temporary(path.name) for path in (output_dir / STATE).glob("*"))


def known_stain_target(output_dir: Path) -> Mapping[str, Any] | None:
    """Return the stain target of the run that the folder belongs to, ``None`` when there is neither.

    What a picture was measured to be stands in run.json, so that resuming does not need the picture.

    Raises
    ------
    IntegrityError
        When run.json is damaged.
    """
    target = (_read_run(output_dir) or {}).get("stain_target")
    return target if isinstance(target, dict) else None


def _read_run(output_dir: Path) -> dict[str, Any] | None:
    """Return what run.json says, or what stands for it; half of one in a folder without anything else says nothing."""
    path = run_path(output_dir)
    try:
        known = read_json_object(path, remedy=REMEDY) or _read_spare(output_dir)
    except IntegrityError:
        known = _read_spare(output_dir)
        if known is None and not _is_barely_claimed(output_dir):
            raise
    if known is None:
        return None
    slides = known.setdefault("slides", {})
    if not isinstance(slides, dict) or not all(isinstance(slide, dict) for slide in slides.values()):
        raise IntegrityError(f"{path} is damaged: its slides are no objects.", REMEDY)
    return known


def _read_spare(output_dir: Path) -> dict[str, Any] | None:
    with suppress(IntegrityError):
        return read_json_object(next_run_path(output_dir), remedy=REMEDY)
    return None


def _refuse_links(output_dir: Path) -> None:
    """Refuse links in the place of what a run writes and deletes: neither may happen outside the folder.

    Raises
    ------
    InputError
        With the first link and where it leads.
    """
    owned = [output_dir / name for name in OWNED]
    below = [path for name in (STATE, PATCHES, "annotations") for path in (output_dir / name).glob("*")]
    for path in (*owned, *below):
        refuse_link(path)


def _refuse_changes(output_dir: Path, *, known: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    changes = []
    for section in SECTIONS:
        old, new = (without_name(document.get(section)) for document in (known, description))
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [
                f"{section}.{key}: was {old.get(key)!r}, now {new.get(key)!r}"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
        elif old != new:
            changes.append(f"{section}: was {old!r}, now {new!r}")
    old_slides = known["slides"]
    repaired = _repaired(output_dir, known=known, description=description)
    changes += [
        f"slide {slide_id}: {'no longer taking part' if slide_id not in description['slides'] else 'changed'}"
        for slide_id, old in old_slides.items()
        if description["slides"].get(slide_id) != old and slide_id not in repaired
    ]
    if changes:
        listing = "\n".join(f"  {change}" for change in changes[:20])
        more = f"\n  and {len(changes) - 20} more" if len(changes) > 20 else ""
        raise IntegrityError(
            f"{output_dir} holds the output of another run:\n{listing}{more}\n",
            "Choose another --output_dir, or start over with --fresh.",
        )


def _repaired(output_dir: Path, *, known: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """Return the slides that failed last time and have another file now, but the same splits and annotations."""
    old_slides, new_slides = known["slides"], description["slides"]
    return [
        slide_id
        for slide_id in sorted(slides_at_fault(output_dir) & old_slides.keys() & new_slides.keys())
        if old_slides[slide_id] != new_slides[slide_id]
        and all(old_slides[slide_id].get(key) == new_slides[slide_id].get(key) for key in SAME_AFTER_REPAIR)
    ]
