"""The driver's account of slides in work: every slide that is done has its manifest, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.model import Fault, FaultClass
from wsi_extract.state import slide_ledger
from wsi_extract.state.fault_records import read_fault
from wsi_extract.state.layout import slide_manifest_path
from wsi_extract.state.plans import SurveyRecord
from wsi_extract.state.slide_ledger import SlideLedger
from wsi_extract.state.slide_manifests import read_slide_manifest

FAULT = Fault(
    slide_id="a", stage="extract", fault_class=FaultClass.SLIDE, error_type="SlideError", message="torn", remedy=""
)


def survey(slide_id: str, *, n_patches: int) -> SurveyRecord:
    return SurveyRecord(
        slide_id=slide_id,
        job_key="k",
        plan_digest="d",
        n_patches=n_patches,
        accounts=(),
        tissue_share=0.5,
        mask_l0_per_px_xy=(16.0, 16.0),
        coverage_digest="c",
    )


def digest(number: int) -> str:
    return f"{number:064x}"


def done(out: Path) -> set[str]:
    folder = slide_manifest_path(out, slide_id="any").parent
    return {path.stem for path in folder.iterdir()} if folder.is_dir() else set()


@settings(max_examples=25)
@given(sizes=st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4), data=st.data())
def test_a_manifest_comes_with_the_last_record_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
) -> None:
    out = tmp_path_factory.mktemp("out")
    ledger = SlideLedger(out)
    for number, blocks in enumerate(sizes):
        ledger.begin(survey(f"s{number}", n_patches=sum(blocks)), fingerprint="f", n_units=sum(blocks))
    left = {number: len(blocks) for number, blocks in enumerate(sizes)}
    everything = [(number, index) for number, blocks in enumerate(sizes) for index in range(len(blocks))]
    for number, index in data.draw(st.permutations(everything)):
        ledger.add_block(f"s{number}", index=index, n_patches=sizes[number][index], sha256=digest(100 * number + index))
        left[number] -= 1
        ledger.flush()
        assert done(out) == {f"s{each}" for each, n in left.items() if n == 0}
    for number, blocks in enumerate(sizes):
        found = read_slide_manifest(out, slide_id=f"s{number}")
        assert found is not None
        assert found[0]["blocks"] == [digest(100 * number + index) for index in range(len(blocks))]
        assert found[0]["n_patches"] == sum(blocks)


def test_shards_follow_the_blocks_row_by_row(tmp_path: Path) -> None:
    ledger = SlideLedger(tmp_path)
    ledger.begin(survey("a", n_patches=7), fingerprint="f", n_units=5, blocks=[digest(1), digest(2)])
    for row, column in ((10, 0), (2, 1), (2, 0)):
        assert not done(tmp_path)
        ledger.add_shard("a", row=row, column=column, n_chunks=1 if row == 10 else 2, sha256=digest(10 * row + column))
    found = read_slide_manifest(tmp_path, slide_id="a")
    assert found is not None
    assert found[0]["blocks"] == [digest(1), digest(2)]
    assert found[0]["pixels"] == [[2, 0, digest(20)], [2, 1, digest(21)], [10, 0, digest(100)]]
    assert found[0]["coverage_digest"] == "c"


def test_the_last_slide_in_work_is_written_at_once(tmp_path: Path) -> None:
    """Of others, those that come quickly after each other wait for company."""
    ledger = SlideLedger(tmp_path)
    for name in ("a", "b", "c"):
        ledger.begin(survey(name, n_patches=2), fingerprint="f", n_units=2)
    ledger.add_block("a", index=0, n_patches=2, sha256=digest(0))
    assert done(tmp_path) == {"a"}
    ledger.add_block("b", index=0, n_patches=2, sha256=digest(0))
    assert done(tmp_path) == {"a"}
    ledger.add_block("c", index=0, n_patches=2, sha256=digest(0))
    assert done(tmp_path) == {"a", "b", "c"}


def test_what_waits_is_written_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_ledger, "FLUSH_EVERY_S", 0.0)
    monkeypatch.setattr(slide_ledger, "MAX_FLUSH_SHARE", float("inf"))
    ledger = SlideLedger(tmp_path)
    for name in ("a", "b", "c"):
        ledger.begin(survey(name, n_patches=2), fingerprint="f", n_units=2)
    for n_done, name in enumerate(("a", "b"), start=1):
        ledger.add_block(name, index=0, n_patches=2, sha256=digest(0))
        assert len(done(tmp_path)) == n_done


def test_a_slide_without_patches_is_done_at_once(tmp_path: Path) -> None:
    SlideLedger(tmp_path).begin(survey("a", n_patches=0), fingerprint="f", n_units=0)
    assert done(tmp_path) == {"a"}


def test_a_slide_that_fails_is_not_done_whatever_was_said_before(tmp_path: Path) -> None:
    SlideLedger(tmp_path).begin(survey("a", n_patches=0), fingerprint="f", n_units=0)
    ledger = SlideLedger(tmp_path)
    ledger.begin(survey("a", n_patches=4), fingerprint="f", n_units=4)
    ledger.add_block("a", index=0, n_patches=2, sha256=digest(0))
    ledger.fail(FAULT, fingerprint="f")
    ledger.add_block("a", index=1, n_patches=2, sha256=digest(1))  # it was on its way
    ledger.flush()
    assert done(tmp_path) == set()
    known = read_fault(tmp_path, slide_id="a")
    assert known is not None
    assert (known.fault, known.fingerprint) == (FAULT, "f")


def test_a_slide_that_is_done_has_no_fault_any_more(tmp_path: Path) -> None:
    ledger = SlideLedger(tmp_path)
    ledger.fail(FAULT, fingerprint=None)
    ledger.begin(survey("a", n_patches=1), fingerprint="f", n_units=1)
    assert read_fault(tmp_path, slide_id="a") is not None
    ledger.add_block("a", index=0, n_patches=1, sha256=digest(0))
    assert read_fault(tmp_path, slide_id="a") is None
    assert done(tmp_path) == {"a"}
