"""Faults of slides survive the run, so that the next one knows which slides may come back repaired."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.disk.files import temporary_beside
from wsi_extract.errors import IntegrityError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.state.fault_records import (
    FaultRecord,
    forget_fault,
    have_workers_died,
    note_fault,
    read_fault,
    read_faults,
    slides_at_fault,
)
from wsi_extract.state.layout import fault_path


def fault_of(slide_id: str, *, message: str = "cannot read", n_attempts: int = 1) -> Fault:
    return Fault(
        slide_id=slide_id,
        stage="extract",
        fault_class=FaultClass.SLIDE,
        error_type="SlideError",
        message=message,
        remedy="Replace it.",
        n_attempts=n_attempts,
    )


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    fault=st.builds(
        Fault,
        slide_id=st.just("s1"),
        stage=st.sampled_from(["describe", "survey", "extract", "pixels"]),
        fault_class=st.sampled_from(FaultClass),
        error_type=texts,
        message=texts,
        remedy=texts,
        n_attempts=st.integers(1, 4),
    ),
    fingerprint=st.none() | texts,
)
def test_what_is_noted_comes_back(fault: Fault, fingerprint: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        note_fault(Path(folder), fault, fingerprint=fingerprint)
        assert read_fault(Path(folder), slide_id="s1") == FaultRecord(fault=fault, fingerprint=fingerprint)


def test_the_last_fault_counts_until_it_is_forgotten(tmp_path: Path) -> None:
    assert read_faults(tmp_path) == {}
    note_fault(tmp_path, fault_of("s2"), fingerprint=None)
    note_fault(tmp_path, fault_of("s1", message="first"), fingerprint="f")
    note_fault(tmp_path, fault_of("s1", message="second"), fingerprint="g")
    known = read_faults(tmp_path)
    assert list(known) == ["s1", "s2"]
    assert (known["s1"].fault.message, known["s1"].fingerprint) == ("second", "g")
    forget_fault(tmp_path, slide_id="s1")
    forget_fault(tmp_path, slide_id="s1")
    assert read_fault(tmp_path, slide_id="s1") is None
    assert slides_at_fault(tmp_path) == {"s2"}


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_every_flipped_bit_is_noticed_but_the_slide_stays_known(tmp_path: Path, position: int) -> None:
    note_fault(tmp_path, fault_of("s1"), fingerprint="f" * 64)
    path = fault_path(tmp_path, slide_id="s1")
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="s1"):
        read_fault(tmp_path, slide_id="s1")
    assert slides_at_fault(tmp_path) == {"s1"}


def test_the_record_of_another_slide_is_refused(tmp_path: Path) -> None:
    note_fault(tmp_path, fault_of("s1"), fingerprint=None)
    fault_path(tmp_path, slide_id="s1").rename(fault_path(tmp_path, slide_id="s2"))
    with pytest.raises(IntegrityError, match="that of slide s1"):
        read_fault(tmp_path, slide_id="s2")


def test_half_written_records_are_none(tmp_path: Path) -> None:
    note_fault(tmp_path, fault_of("s1.json"), fingerprint=None)
    temporary_beside(fault_path(tmp_path, slide_id="s2")).write_bytes(b"half")
    assert slides_at_fault(tmp_path) == {"s1.json"}


def test_slides_that_kill_their_reader_are_told_from_others(tmp_path: Path) -> None:
    assert not have_workers_died(tmp_path)
    note_fault(tmp_path, fault_of("s1"), fingerprint=None)
    assert not have_workers_died(tmp_path)
    note_fault(tmp_path, replace(fault_of("s2"), fault_class=FaultClass.WORKER), fingerprint=None)
    assert have_workers_died(tmp_path)
    forget_fault(tmp_path, slide_id="s2")
    assert not have_workers_died(tmp_path)
    fault_path(tmp_path, slide_id="s1").write_bytes(b"damaged")
    assert have_workers_died(tmp_path)
