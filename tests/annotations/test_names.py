"""Slide names of annotation files against files on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.annotations.names import match_slides
from wsi_extract.annotations.source import SourceSlide
from wsi_extract.errors import AnnotationError

Names = Sequence[str | tuple[str, str | None]]


def match(names: Names, found: Sequence[str], aliases: dict[str, str] | None = None) -> list[str | None]:
    """Return the file matched by each annotation slide, given as a name or as (directory, name)."""
    slides = [
        SourceSlide(uid=uid, file_name=name)
        if isinstance(name, str)
        else SourceSlide(uid=uid, directory=name[0], file_name=name[1] or "")
        for uid, name in enumerate(names, 1)
    ]
    rows = match_slides(slides, found=[(PurePath(path),) for path in found], aliases=aliases, path="a.sqlite")
    return [None if row is None else found[row] for row in rows]


MATCHED = {
    "exact": ("001.tiff", ["w/001.tiff", "w/002.tiff"], "w/001.tiff"),
    "never in part": ("1.svs", ["w/10.svs", "w/11.svs"], None),
    "exact before case": ("Tumor_001.tif", ["w/Tumor_001.tif", "w/tumor_001.tif"], "w/Tumor_001.tif"),
    "case": ("Tumor_001.tif", ["w/tumor_001.TIF"], "w/tumor_001.TIF"),
    "exact before extension": ("a.svs", ["w/a.tiff", "w/a.svs"], "w/a.svs"),
    "extension": ("a.svs", ["w/a.tiff"], "w/a.tiff"),
    "extension and case": ("A.SVS", ["w/a.tiff"], "w/a.tiff"),
    "without extension": ("001", ["w/001.tiff"], "w/001.tiff"),
    "unknown extension is part of the name": ("a.jpg", ["w/a.svs"], None),
    "only the last known extension": ("x.ome.tif", ["w/x.tif", "w/x.ome.tiff"], "w/x.ome.tiff"),
    "dots of a TCGA name": ("TCGA-DX1.0A1B.svs", ["w/TCGA-DX1.svs", "w/TCGA-DX1.0a1b.tif"], "w/TCGA-DX1.0a1b.tif"),
    "back-slash directory": (r"D:\slides\01\a.svs", ["w/01/a.svs"], "w/01/a.svs"),
    "path in the file name": ("02/a.svs", ["w/01/a.svs", "w/02/a.svs"], "w/02/a.svs"),
    "directory": (("02", "a.svs"), ["w/01/a.svs", "w/02/a.svs"], "w/02/a.svs"),
    "last folders agree": ((r"D:\tupac\02", "a.svs"), ["w/01/a.svs", "w/02/a.svs"], "w/02/a.svs"),
    "other directory": ((r"D:\here", "a.svs"), ["w/a.svs"], "w/a.svs"),
    "decomposed letters": ("a\u0308.svs", ["w/\u00e4.svs"], "w/\u00e4.svs"),
    "no file name": (("01", None), ["w/01"], None),
    "extension alone": (".svs", ["w/.tif"], None),
}


@pytest.mark.parametrize(("name", "found", "expected"), MATCHED.values(), ids=MATCHED)
def test_one_name(name: str | tuple[str, str | None], found: list[str], expected: str | None) -> None:
    assert match([name], found) == [expected]


REFUSED = {
    "same name in two folders": (["a.svs"], ["w/1/a.svs", "w/2/a.svs"], r"'a.svs' \(uid 1, no directory\) matches 2"),
    "two extensions": (["a.svs"], ["w/a.tif", "w/a.tiff"], r"w/a.tif, w/a.tiff"),
    "two cases": (["A.svs"], ["w/a.SVS", "w/a.svs"], "matches 2 slides"),
    "duplicates without directory": (["01.tif"] * 5, ["w/01.tif"], r"5 slides.*uid 1.*uid 2.*uid 3.*and 2 more"),
    "duplicates with directories": (
        [("03", "01.tif"), ("04", "01.tif")],
        ["w/01.tif"],
        r"directory '03'\), '01.tif' \(uid 2, directory '04'",
    ),
    "same directory twice": ([("03", "01.tif"), ("03", "01.tif")], ["w/03/01.tif"], "2 slides of the annotation file"),
}


@pytest.mark.parametrize(("names", "found", "message"), REFUSED.values(), ids=REFUSED)
def test_what_stays_ambiguous_is_refused_with_both_sides(names: Names, found: list[str], message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"a\.sqlite: .*{message}"):
        match(names, found)


def test_directories_separate_equal_names_whatever_part_of_them_is_on_disk() -> None:
    names = [(f"{case:02}", "01.tif") for case in range(1, 4)]
    assert match(names, ["w/02/01.tif"]) == [None, "w/02/01.tif", None]
    assert match(names, ["w/03/01.tif", "w/01/01.tif"]) == ["w/01/01.tif", None, "w/03/01.tif"]


def test_duplicates_of_names_that_are_not_on_disk_do_no_harm() -> None:
    assert match(["01.tif", "01.tif", "x.tif"], ["w/x.tif"]) == [None, None, "w/x.tif"]


def test_a_slide_is_given_to_the_surest_name_only() -> None:
    assert match(["a.svs", "a.tif", "A.tif"], ["w/a.tif"]) == [None, "w/a.tif", None]


def test_aliases_win_and_are_not_second_guessed() -> None:
    found = ["w/1.tiff", "w/2.tiff"]
    assert match(["1.tiff"], found, {"1.tiff": "2.tiff"}) == ["w/2.tiff"]
    assert match(["1.tiff"], found, {"1.tiff": "gone.tiff"}) == [None]
    assert match(["b3.tiff"], ["w/x/9.svs", "w/y/9.svs"], {"b3.tiff": "y/9.svs"}) == ["w/y/9.svs"]
    assert match([("d", "1.tif")], found, {"d/1.tif": "2"}) == ["w/2.tiff"]
    assert match(["x.tiff", "1.tiff"], found, {"x.tiff": "1.tiff"}) == ["w/1.tiff", None]


def test_two_aliases_of_one_slide_are_refused() -> None:
    with pytest.raises(AnnotationError, match="2 slides of the annotation file match"):
        match(["a.svs", "b.svs"], ["w/1.tiff"], {"a.svs": "1.tiff", "b.svs": "1.tiff"})


def test_further_files_of_a_slide_carry_its_name_too() -> None:
    slides = [SourceSlide(uid=1, file_name="series_2.dcm")]
    found = [(PurePath("w/series_1.dcm"), PurePath("w/series_2.dcm")), (PurePath("w/other.dcm"),)]
    assert match_slides(slides, found=found, aliases=None, path="a.sqlite") == (0,)


words = st.sampled_from(["a.svs", "A.svs", "a.tif", "b.svs", "b", "1/a.svs", "2/a.svs", "1/b.tif"])


@given(
    names=st.lists(words, max_size=4),
    found=st.lists(words.map("w/{}".format), max_size=4, unique=True),
    data=st.data(),
)
@settings(deadline=None)
def test_the_order_of_both_sides_does_not_matter(names: list[str], found: list[str], data: st.DataObject) -> None:
    def answer(order: list[int], files: list[str]) -> dict[int, str | None] | str:
        try:
            return dict(zip(order, match([names[i] for i in order], files), strict=True))
        except AnnotationError:
            return "refused"

    original = answer(list(range(len(names))), found)
    order = data.draw(st.permutations(range(len(names))))
    assert answer(list(order), list(data.draw(st.permutations(found)))) == original
    if isinstance(original, dict):
        used = [file for file in original.values() if file is not None]
        assert len(used) == len(set(used))
