"""A slide that failed is repaired or replaced, and the same command is given again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers_run import Inputs, content_of, copy_inputs, extract, make_inputs, read_manifest
from tests.helpers_slides import write_ramp_slide
from tests.test_failures import damage
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Rect
from wsi_extract.state.fault_records import read_faults, slides_at_fault
from wsi_extract.verify import audit


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=3)


@pytest.mark.parametrize("store", ["png", "zarr", "pixels"])
def test_a_repaired_slide_gives_what_an_undisturbed_run_gives(inputs: Inputs, tmp_path: Path, store: str) -> None:
    mended, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    good = (mended.wsi_dir / "slide_3.svs").read_bytes()
    damage(mended.wsi_dir / "slide_3.svs")
    assert extract(mended, out, store=store).has_failures
    (record,) = read_faults(out).values()
    assert record.fault.slide_id == "slide_3"
    assert record.fingerprint is not None
    (mended.wsi_dir / "slide_3.svs").write_bytes(good)
    assert not extract(mended, out, store=store).has_failures
    assert slides_at_fault(out) == set()
    extract(inputs, tmp_path / "undisturbed", store=store)
    assert content_of(out) == content_of(tmp_path / "undisturbed")
    assert audit(out).problems == ()


def test_another_slide_of_another_size_may_take_its_place(inputs: Inputs, tmp_path: Path) -> None:
    mended, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    path = mended.wsi_dir / "slide_3.svs"
    damage(path)
    extract(mended, out)
    whole = Rect(x0=0, y0=0, x1=1700, y1=1300)
    write_ramp_slide(path, width_px=1700, height_px=1300, tissue_l0=(whole,), um_per_px=0.25, vendor="aperio")
    assert not extract(mended, out).has_failures
    extract(mended, tmp_path / "undisturbed")
    assert content_of(out) == content_of(tmp_path / "undisturbed")


def test_a_slide_that_fails_again_may_come_back_again(inputs: Inputs, tmp_path: Path) -> None:
    mended, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    path = mended.wsi_dir / "slide_3.svs"
    good = path.read_bytes()
    damage(path)
    extract(mended, out)
    path.write_bytes(b"no slide at all")
    assert extract(mended, out).has_failures
    path.unlink()
    with pytest.raises(IntegrityError, match="slide slide_3: no longer taking part"):
        extract(mended, out)
    path.write_bytes(good)
    assert not extract(mended, out).has_failures
    assert read_manifest(out)["status"] == "complete"


def test_a_slide_that_did_not_fail_must_not_change(inputs: Inputs, tmp_path: Path) -> None:
    changed, out = copy_inputs(inputs, tmp_path / "input"), tmp_path / "out"
    damage(changed.wsi_dir / "slide_3.svs")
    extract(changed, out)
    damage(changed.wsi_dir / "slide_1.svs")
    with pytest.raises(IntegrityError, match="slide slide_1: changed"):
        extract(changed, out)
