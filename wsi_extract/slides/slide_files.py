"""The files of slides: find them below a folder, and tell whether one was replaced. Opens no slide.

Positions and sizes are bytes.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import fsencode
from pathlib import Path

from wsi_extract.errors import InputError, SlideError
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.slide_names import SLIDE_EXTENSIONS, slide_id_of

_REMEDY_DAMAGED = "The file is damaged, incomplete or not a slide: replace it, or leave it out."

SeriesOf = Callable[[Sequence[Path]], Mapping[Path, str | None]]
"""Returns the series that each of some DICOM files belongs to, ``None`` when it cannot be opened; describing it tells
why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlides:
    """What lies in the slide folder."""

    slides: tuple[SlideFile, ...]
    """Sorted by id."""
    ignored: tuple[Path, ...]
    """Visible files that are no slides by their extension, and pipes or devices that carry a slide's extension."""


def find_slide_files(folder: Path, *, series_of: SeriesOf) -> FoundSlides:
    """Find every slide below ``folder``, by its extension and without opening it, but for DICOM files.

    Links are followed, every real folder is entered once. Hidden files, hidden folders and the data folder beside
    an ``.mrxs`` file are passed over. DICOM files of one folder and one series are one slide.

    Raises `InputError` when the folder is missing, cannot be listed or holds no slide, when two slides would get
    one id (upper and lower case are the same), or when two names lead to one file.

    Parameters
    ----------
    series_of
        Asked once, for all DICOM files.
    """
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the slide folder {folder} {reason}.", "Give the folder that holds the slides as --wsi_dir.")
    candidates: list[Path] = []
    ignored: list[Path] = []
    for path in _walk(folder):
        known = path.suffix.lower() in SLIDE_EXTENSIONS
        (candidates if known and _is_regular_or_missing(path) else ignored).append(path)
    if not candidates:
        remedy = f"Slides end in {' '.join(sorted(SLIDE_EXTENSIONS))}."
        raise InputError(f"no slides in {folder}: {len(ignored)} other files.", remedy)
    slides = [
        SlideFile(slide_id=slide_id_of(files[0].relative_to(folder)), path=files[0], companions=tuple(files[1:]))
        for files in _group_dicom(candidates, series_of=series_of)
    ]
    _refuse_duplicates(slides)
    return FoundSlides(slides=tuple(sorted(slides, key=lambda slide: slide.slide_id)), ignored=tuple(sorted(ignored)))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every visible file below ``folder``; each real folder once, whatever links lead to it."""
    entered: set[Path] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        real = current.resolve()
        if real in entered:
            continue
        entered.add(real)
        try:
            entries = sorted(path for path in current.iterdir() if not path.name.startswith("."))
            folders = {path for path in entries if path.is_dir()}
        except OSError as error:
            message = f"cannot list {current}: {error.strerror}."
            raise InputError(message, "Make the folder readable, or move it away.") from error
        mrxs_data = {path.stem for path in entries if path.suffix.lower() == ".mrxs"}
        pending.extend(path for path in reversed(entries) if path in folders and path.name not in mrxs_data)
        yield from (path for path in entries if path not in folders)


def _is_regular_or_missing(path: Path) -> bool:
    """Return False for pipes, sockets and devices, which are never opened; a broken link is reported later."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _group_dicom(candidates: Sequence[Path], *, series_of: SeriesOf) -> list[list[Path]]:
    """Return the files of each slide, in order of name: one, or all DICOM files of one series in one folder."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    known = series_of([path for path in sorted(candidates) if path.suffix.lower() == ".dcm"])
    for path in sorted(candidates):
        series = known.get(path)
        key = (path, "") if series is None else (path.parent, series)
        groups.setdefault(key, []).append(path)
    return list(groups.values())


def _refuse_duplicates(slides: Sequence[SlideFile]) -> None:
    by_id: dict[str, SlideFile] = {}
    by_file: dict[Path, SlideFile] = {}
    for slide in slides:
        twin = by_id.setdefault(slide.slide_id.casefold(), slide)
        if twin is not slide:
            what, remedy = f"would both be called {slide.slide_id}", "Rename one of them."
        else:
            # A broken link, perhaps to itself, has no target to compare.
            twin = by_file.setdefault(slide.path.resolve() if slide.path.is_file() else slide.path, slide)
            what, remedy = "are one file", "Remove one: a slide under two names can be in training and validation."
        if twin is not slide:
            raise InputError(f"{twin.path} and {slide.path} {what}.", remedy)


def fingerprint_of(file: SlideFile | SlideInfo) -> str:
    """Return a digest that changes when a slide's file is replaced, without reading all of it.

    SHA-256 over size, first and last MiB, 16 x 64 KiB between them, and names and sizes of the slide's further files.
    Raises `SlideError` when a file cannot be read.
    """
    try:
        size = file.path.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        pieces = [(0, 2**20), (max(0, size - 2**20), 2**20), *((size * i // 17, 2**16) for i in range(1, 17))]
        with file.path.open("rb") as stream:
            for start, length in pieces:
                stream.seek(start)
                digest.update(stream.read(length))
        mrxs_data = sorted(file.path.with_suffix("").iterdir()) if file.path.suffix.lower() == ".mrxs" else []
        for path in (*file.companions, *mrxs_data):
            digest.update(b"%s\0%d\0" % (fsencode(path.name), path.stat().st_size))
    except OSError as error:
        message = f"slide {file.slide_id}: cannot read {error.filename or file.path}: {error.strerror}."
        raise SlideError(message, _REMEDY_DAMAGED) from error
    return digest.hexdigest()
