"""The group of each slide: slides of one patient, which must never be in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wsi_extract.errors import SplitError
from wsi_extract.model import SlideFile
from wsi_extract.printable import as_printable
from wsi_extract.splits.names import find_slides_named, index_names
from wsi_extract.splits.search import search_names


def group_slides(slides: Sequence[SlideFile], *, regex: str | None, table: Mapping[str, str] | None) -> dict[str, str]:
    """Return the group of each slide, by slide id.

    Parameters
    ----------
    regex
        Searched in the file name; its first capture group, or else the whole match, is the group.
    table
        Group by slide name; may list further slides. Without ``regex`` and ``table`` each slide is its own group.

    Raises
    ------
    SplitError
        When a slide has no group, or more than one; when the regex is none, or takes too long.
    """
    if regex is not None and table is not None:
        raise SplitError("slides can be grouped by a regex or by a table, not by both.", "Give one of them.")
    if regex is not None:
        return _group_by_regex(slides, regex=regex)
    if table is not None:
        return _group_by_table(slides, table=table)
    return {slide.slide_id: slide.slide_id for slide in slides}


def _group_by_regex(slides: Sequence[SlideFile], *, regex: str) -> dict[str, str]:
    found = search_names(regex, [slide.path.name for slide in slides], setting="--group_regex")
    # As it will stand in the manifest: two groups that look the same there are one.
    groups = {slide.slide_id: as_printable(group) for slide, group in zip(slides, found, strict=True) if group}
    _refuse_missing(slides, groups=groups, reason=f"--group_regex {regex!r} finds no group in")
    return groups


def _group_by_table(slides: Sequence[SlideFile], *, table: Mapping[str, str]) -> dict[str, str]:
    index = index_names({slide.slide_id: [slide.path.name] for slide in slides})
    named: dict[str, str] = {}
    for name in table:
        found = find_slides_named(name, index=index)
        if len(found) > 1:
            raise SplitError(f"the table of groups lists {name}, which means several slides: {', '.join(found)}.")
        if found and found[0] in named:
            raise SplitError(f"the table of groups lists slide {found[0]} twice: as {named[found[0]]} and as {name}.")
        named.update(dict.fromkeys(found, name))
    _refuse_missing(slides, groups=named, reason="the table of groups does not list")
    return {slide.slide_id: table[named[slide.slide_id]] for slide in slides}


def _refuse_missing(slides: Sequence[SlideFile], *, groups: Mapping[str, str], reason: str) -> None:
    missing = [slide.path.name for slide in slides if slide.slide_id not in groups]
    if missing:
        raise SplitError(
            f"{reason} {len(missing)} of {len(slides)} slides: {', '.join(sorted(missing))}.",
            "Every slide needs a group, or none.",
        )
