"""Find the slide on disk that each slide name of an annotation file means.

Levels of likeness, the surest first: the user's alias, path, file name, file name without regard to case, name with
another known extension. The first level with a hit decides; names are never compared in part ("1" is in "10").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
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


def _key(parts: Parts, *, level: str) -> str:
    """What must be equal at a level."""
    match level:
        case "path":
            return "/".join(parts)
        case "name":
            return parts[-1]
        case "case":
            return fold_name(parts[-1])
        case _:
            return strip_extension(parts[-1])


def _parts_of(path: PurePath) -> Parts:
    return tuple(path.as_posix().strip("/").split("/"))


def _folders_above(parts: Parts) -> Iterator[str]:
    """Yield the folder of a file, the same with the folder above it, and so on up to the root; case is unified."""
    folded = [fold_name(part) for part in parts[:-1]]
    return ("/".join(folded[start:]) for start in reversed(range(len(folded))))


Rows = AbstractSet[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """Slides on disk, by number: a look-up costs the same however many of them have one name."""

    folders: Sequence[Sequence[Sequence[str]]]
    """What `_folders_above` gives for each file of each slide."""
    rows_by_key: Mapping[str, Mapping[str, Rows]]
    """By level and key."""
    rows_by_folders: Mapping[str, Rows]
    """By each of `_folders_above`."""


def _build_index(found: Found) -> _Index:
    all_parts = [[_parts_of(path) for path in paths] for paths in found]
    folders = [[tuple(_folders_above(parts)) for parts in of_slide] for of_slide in all_parts]
    rows_by_key: dict[str, defaultdict[str, set[int]]] = {level: defaultdict(set) for level in LEVELS}
    rows_by_folders: defaultdict[str, set[int]] = defaultdict(set)
    for row, of_slide in enumerate(all_parts):
        for parts, above in zip(of_slide, folders[row], strict=True):
            for start in range(len(parts) - 1):  # a path is like all its endings, but for the name alone
                rows_by_key["path"][_key(parts[start:], level="path")].add(row)
            for level in LEVELS[1:]:
                rows_by_key[level][_key(parts, level=level)].add(row)
            for ending in above:
                rows_by_folders[ending].add(row)
    return _Index(folders=folders, rows_by_key=rows_by_key, rows_by_folders=rows_by_folders)


def _find_hits(wanted: Parts, *, level: str, rows_by_key: Mapping[str, Rows]) -> Rows:
    """Return the slides on disk that are like the wanted path at the level."""
    return rows_by_key.get(_key(wanted, level=level), frozenset()) if wanted else frozenset()


def _nearest(wanted: Parts, *, hits: Rows, index: _Index) -> int | None:
    """Return the one hit with most folders above the file name like the wanted path's, counted from the name up."""
    best: Rows = frozenset()
    for ending in _folders_above(wanted):
        agreeing = hits & index.rows_by_folders.get(ending, frozenset())
        if not agreeing:
            break
        best = agreeing
    return next(iter(best)) if len(best) == 1 else None


def _n_common_folders(wanted: Parts, row: int, *, index: _Index) -> int:
    # Endings of one length are equal only if all shorter ones are.
    return max(
        sum(a == b for a, b in zip(_folders_above(wanted), folders, strict=False)) for folders in index.folders[row]
    )


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


def _pick_slide(slide: SourceSlide, *, hits: Rows, index: _Index, found: Found, path: object) -> int:
    """Return the one slide on disk, or the only one whose folders agree with the annotation's directory."""
    row = next(iter(hits)) if len(hits) == 1 else _nearest(slide.parts, hits=hits, index=index)
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
        winner = _only_best({claim: _n_common_folders(slides[claim].parts, row, index=index) for claim in claims})
    if winner is None:
        raise AnnotationError(
            f"{path}: {len(claims)} slides of the annotation file match the one slide {found[row][0]}: "
            f"{_shown([_label(slides[claim]) for claim in claims])}.",
            "Put the slides into folders named like the directories in the file; without directories in the file "
            "equal names cannot be told apart.",
        )
    return winner


def _alias_hits(slides: Sequence[SourceSlide], *, aliases: Mapping[str, str], index: _Index) -> dict[int, Rows]:
    """Return, for every annotation slide with an alias, the slides on disk that the alias means."""
    wanted: dict[int, Rows] = {}
    for number, slide in enumerate(slides):
        target = aliases.get(slide.label, aliases.get(slide.file_name))
        if target is not None:
            parts = tuple(part for part in target.replace("\\", "/").split("/") if part not in {"", "."})
            levels = (_find_hits(parts, level=level, rows_by_key=index.rows_by_key[level]) for level in LEVELS)
            wanted[number] = next((hits for hits in levels if hits), frozenset())
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
            free = {key: rows - certain for key, rows in index.rows_by_key[level].items()}
            hits = {
                number: _find_hits(slides[number].parts, level=level, rows_by_key=free)
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
