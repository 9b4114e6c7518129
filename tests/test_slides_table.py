"""What the tables say of each slide."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.helpers_run import extract, make_inputs, read_manifest
from tests.test_coco import two_blocks
from wsi_extract.reading import ReaderChoice, StainNorm
from wsi_extract.slides_table import CSV_COLUMNS, SlideSums, describe_kept_stains, facts_of_survey, slides_csv, summed
from wsi_extract.stain import StainTransform
from wsi_extract.state.layout import SLIDES_TABLE
from wsi_extract.state.plans import SurveyRecord

FACTS_OF_READING = ("reader", "reader_reason", "stain", "stain_reason")


OPENSLIDE = ReaderChoice()


def survey(
    *, reader: ReaderChoice = OPENSLIDE, stain: StainTransform | None = None, stain_reason: str = ""
) -> SurveyRecord:
    return SurveyRecord(
        slide_id="s1",
        job_key="k",
        plan_digest="d",
        n_patches=1,
        accounts=(),
        tissue_share=0.5,
        mask_l0_per_px_xy=(16.0, 16.0),
        reader=reader,
        stain=stain,
        stain_reason=stain_reason,
    )


@pytest.mark.parametrize(
    ("reader", "level", "expected"),
    [
        pytest.param(ReaderChoice(), 0, ("openslide", ""), id="asked for"),
        pytest.param(ReaderChoice(direct_levels=(0, 1)), 1, ("direct", ""), id="direct"),
        pytest.param(
            ReaderChoice(direct_levels=(0,), reason="level 1: a pixel differs"),
            1,
            ("openslide", "level 1: a pixel differs"),
            id="another level is direct",
        ),
    ],
)
def test_the_reader_is_that_of_the_level_of_the_patches(
    reader: ReaderChoice, level: int, expected: tuple[str, str]
) -> None:
    facts = facts_of_survey(survey(reader=reader), level=level)
    assert (facts["reader"], facts["reader_reason"]) == expected


def test_the_stain_is_named_or_the_reason_why_it_stayed_as_it_was() -> None:
    untouched = facts_of_survey(survey(stain_reason="too little tissue"), level=0)
    assert (untouched["stain"], untouched["stain_reason"]) == (None, "too little tissue")
    unchanged = StainTransform(method=StainNorm.MACENKO, affine=(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))
    normalised = facts_of_survey(survey(stain=unchanged), level=0)
    assert (normalised["stain"], normalised["stain_reason"]) == ("macenko", "")


def test_only_the_first_of_many_slides_that_keep_their_stain_are_named() -> None:
    lines = describe_kept_stains([survey(stain_reason="too pale")] * 7 + [survey()])
    assert lines[:2] == ["7 of 8 slides keep their own stain:", "  slide s1: too pale"]
    assert lines[-1] == "  and 2 more; slides.csv lists all"
    assert len(lines) == 7
    assert describe_kept_stains([survey()]) == []


def test_sums_are_those_of_the_records_and_the_records_pass_unchanged() -> None:
    documents = two_blocks()
    documents[0]["label_counts"] = {"target_label": 2}
    digests = [hashlib.sha256(bytes([row])).hexdigest() for row in range(4)]
    entries = [entry for document in documents for entry in document["patches"]]
    for entry, digest in zip(entries, digests, strict=True):
        entry["sha256"] = digest
    sums: defaultdict[str, SlideSums] = defaultdict(SlideSums)
    assert list(summed(iter(documents), sums)) == documents
    assert set(sums) == {"s1", "sé"}
    assert sums["s1"].kinds == Counter({"mitosis": 2, "random": 1})
    assert sums["s1"].labels == Counter({"target_label": 2})
    raw = b"".join(bytes.fromhex(digest) for digest in digests[:3])
    assert sums["s1"].pixels.hexdigest() == hashlib.sha256(raw).hexdigest()
    assert sums["sé"].pixels.hexdigest() == hashlib.sha256(bytes.fromhex(digests[3])).hexdigest()


def test_an_absent_fact_is_an_empty_cell() -> None:
    row = {"slide_id": "s1", "stain": None, "splits": ["train", "val"], "patches_by_kind": {"grid": 3},
           "label_counts": {}, "l0_per_px_xy": [1.0, 2.0]}  # fmt: skip
    (cells,) = csv.DictReader(io.StringIO(slides_csv([row], files=["a/s1.svs"]).decode()))
    filled = {key: value for key, value in cells.items() if value}
    assert filled == {
        "slide_id": "s1", "file": "a/s1.svs", "splits": "train+val", "grid": "3",
        "l0_per_px_x": "1.0", "l0_per_px_y": "2.0",
    }  # fmt: skip
    assert tuple(cells) == CSV_COLUMNS


def test_a_finished_run_says_how_each_slide_was_read(tmp_path: Path) -> None:
    extract(make_inputs(tmp_path / "input"), tmp_path / "out")
    rows = read_manifest(tmp_path / "out")["slides"]
    with (tmp_path / "out" / SLIDES_TABLE).open(newline="", encoding="utf-8") as stream:
        cells = list(csv.DictReader(stream))
    for row, texts in zip(rows, cells, strict=True):
        assert row["reader"] in {"direct", "openslide"}
        assert row["stain"] is None
        assert [texts[key] for key in FACTS_OF_READING] == [row["reader"], row["reader_reason"], "", ""]
