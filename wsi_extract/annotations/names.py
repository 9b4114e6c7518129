"""Find the slide on disk that each slide name of an annotation file means.

Levels of likeness, the surest first: the user's alias, path, file name, file name without regard to case, name with
another known extension. The first level with a hit decides; names are never compared in part ("1" is in "10").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from wsi_extract.annotations.source import SourceSlide
from wsi_extract.errors import AnnotationError
from wsi_extract.slide_names import fold_name, strip_extension

LEVELS = ("path", "name", "case", "stem")
N_SHOWN = 3

Parts = tuple[str, ...]
Found = Sequence[Sequence[PurePath]]
"""The files of each slide on disk; the first one is the slide, others are further files of it."""


def _keys(parts: Parts) -> Mapping[str, str]:
    """What must be equal at each level; paths are compared by name first and by their other parts later."""
    name = parts[-1]
    return {"path": name, "name": name, "case": fold_name(name), "stem": strip_extension(name)}


def _parts_of(path: PurePath) -> Parts:
    return tuple(path.as_posix().strip("/").split("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Slides on disk: their paths in parts, and their rows by level and key."""

    parts: Sequence[Sequence[Parts]]
    rows_by_key: Mapping[tuple[str, str], set[int]]


def _build_index(found: Found) -> _Index:
    all_parts = [[_parts_of(path) for path in paths] for paths in found]
    rows_by_key: dict[tuple[str, str], set[int]] = {}
    for row, paths in enumerate(all_parts):
        for parts in paths:
            for key in _keys(parts).items():
                rows_by_key.setdefault(key, set()).add(row)
    return _Index(parts=all_parts, rows_by_key=rows_by_key)


def _find_hits(wanted: Parts, *, level: str, index: _Index) -> set[int]:
    """Return the slides on disk that are like the wanted path at the level."""
    if not wanted or (level == "path" and len(wanted) == 1):
        return set()
    rows = index.rows_by_key.get((level, _keys(wanted)[level]), set())
    if level == "path":
        return {row for row in rows if any(path[-len(wanted) :] == wanted for path in index.parts[row])}
    return set(rows)


def _agreement(wanted: Parts, row: int, *, index: _Index) -> int:
    """Return how many folders above the file name agree, counted from the file name up."""
    return max(_n_common_folders(wanted, parts) for parts in index.parts[row])


def _n_common_folders(first: Parts, second: Parts) -> int:
    count = 0
    for a, b in zip(reversed(first[:-1]), reversed(second[:-1]), strict=False):
        if fold_name(a) != fold_name(b):
            break
        count += 1
    return count


def _only_best(scores: Mapping[int, int]) -> int | None:
    """Return the key with the highest score when that is above 0 and nobody else has it."""
    best = max(scores.values())
    winners = [key for key, score in scores.items() if score == best]
    return winners[0] if best > 0 and len(winners) == 1 else None


def _label(slide: SourceSlide) -> str:
    directory = f", directory {slide.directory!r}" if slide.directory else ", no directory"
    return f"{slide.file_name!r} (uid {slide.uid}{directory})"


def _shown(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - N_SHOWN} more" if len(labels) > N_SHOWN else ""
    return ", ".join(labels[:N_SHOWN]) + more


def _pick_slide(slide: SourceSlide, *, hits: set[int], index: _Index, found: Found, path: object) -> int:
    """Return the one slide on disk, or the only one whose folders agree with the annotation's directory."""
    row = next(iter(hits)) if len(hits) == 1 else None
    if row is None:
        row = _only_best({hit: _agreement(slide.parts, hit, index=index) for hit in sorted(hits)})
    if row is None:
        paths = [str(found[hit][0]) for hit in sorted(hits)]
        raise AnnotationError(
            f"{path}: the annotation slide {_label(slide)} matches {len(paths)} slides: {_shown(sorted(paths))}.",
            "Remove one, or say which is meant with --slide_aliases_csv.",
        )
    return row


def _pick_claim(
    claims: Sequence[int], *, row: int, slides: Sequence[SourceSlide], index: _Index, found: Found, path: object
) -> int:
    """Return the one annotation slide that means the slide on disk, by the directory when names are equal."""
    winner = claims[0] if len(claims) == 1 else None
    if winner is None:
        winner = _only_best({claim: _agreement(slides[claim].parts, row, index=index) for claim in claims})
    if winner is None:
        raise AnnotationError(
            f"{path}: {len(claims)} slides of the annotation file match the one slide {found[row][0]}: "
            f"{_shown([_label(slides[claim]) for claim in claims])}.",
            "Put the slides into folders named like the directories in the file; without directories in the file "
            "equal names cannot be told apart.",
        )
    return winner


def _alias_hits(slides: Sequence[SourceSlide], *, aliases: Mapping[str, str], index: _Index) -> dict[int, set[int]]:
    """Return, for every annotation slide with an alias, the slides on disk that the alias means."""
    wanted: dict[int, set[int]] = {}
    for number, slide in enumerate(slides):
        target = aliases.get(slide.label, aliases.get(slide.file_name))
        if target is not None:
            parts = tuple(part for part in target.replace("\\", "/").split("/") if part not in {"", "."})
            levels = (_find_hits(parts, level=level, index=index) for level in LEVELS)
            wanted[number] = next((hits for hits in levels if hits), set())
    return wanted


def match_slides(
    slides: Sequence[SourceSlide], *, found: Found, aliases: Mapping[str, str] | None, path: object
) -> tuple[int | None, ...]:
    """Return the index into ``found`` of each annotation slide, ``None`` for those that are not there.

    The result does not depend on the order of either side. No slide on disk is given to two annotation slides.

    Parameters
    ----------
    found
        The files of each slide on disk, its main file first.
    aliases
        Slide file name by name in the annotation file, with or without directories; wins over every likeness.
    path
        The annotation file, for messages.

    Raises
    ------
    AnnotationError
        When a name means several slides on disk, or several annotation slides mean the same one, and directories
        do not tell them apart.
    """
    index = _build_index(found)
    hits = _alias_hits(slides, aliases=aliases or {}, index=index)
    pending = [number for number, slide in enumerate(slides) if number not in hits and slide.file_name]
    matched: dict[int, int] = {}
    certain: set[int] = set()
    for level in ("alias", *LEVELS):
        if level != "alias":
            # A slide that an alias or a path has claimed is out of question for other slides of that name.
            hits = {
                number: _find_hits(slides[number].parts, level=level, index=index) - certain
                for number in pending
                if number not in matched
            }
        claims: dict[int, list[int]] = {}
        for number in sorted(number for number in hits if hits[number]):
            row = _pick_slide(slides[number], hits=hits[number], index=index, found=found, path=path)
            claims.setdefault(row, []).append(number)
        for row in sorted(set(claims) - set(matched.values())):
            matched[_pick_claim(claims[row], row=row, slides=slides, index=index, found=found, path=path)] = row
        if level in {"alias", "path"}:
            certain = set(matched.values())
    return tuple(matched.get(number) for number in range(len(slides)))
