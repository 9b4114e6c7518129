"""A data set is made of what the manifests of its slides name, and of nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.helpers_dataset import shared_dataset
from tests.helpers_run import read_manifest
from wsi_extract.errors import IntegrityError
from wsi_extract.model import Fault, FaultClass, Split
from wsi_extract.slide_outcomes import (
    SlideOutcome,
    digests_of_blocks,
    documents_of,
    manifest_of_slide,
    pixel_digests_of,
)
from wsi_extract.state.layout import pixel_record_path, record_path, slide_manifest_path
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.state.slide_manifests import SlideManifest, encode_slide_manifest, read_slide_manifest
from wsi_extract.survey import read_survey

Damage = Callable[[Path], object]


def outcome(out: Path, slide_id: str = "slide_1") -> SlideOutcome:
    row = next(row for row in read_manifest(out)["slides"] if row["slide_id"] == slide_id)
    survey = read_survey(out, slide_id=slide_id)
    return SlideOutcome(slide_id=slide_id, survey=survey, n_blocks=row["n_blocks"], fault=None)


def block_path(out: Path) -> Path:
    return record_path(out, slide_id="slide_1", index=0)


def rewrite_block(out: Path, **changes: object) -> None:
    document = read_document(block_path(out))
    assert document is not None
    block_path(out).write_bytes(
        encode_document({**document, **changes})  # type: ignore[typeddict-item]  # damage on purpose
    )


def name_block_as_it_is(out: Path) -> None:
    """Let the manifest of the slide name the record that lies there now."""
    survey = read_survey(out, slide_id="slide_1")
    assert survey is not None
    found = read_slide_manifest(out, slide_id="slide_1")
    assert found is not None
    document = read_document(block_path(out))
    assert document is not None
    digests = digests_of_blocks(out, replace(survey, plan_digest=document["plan_digest"]))
    edit_manifest(out, lambda manifest: manifest.update(blocks=digests))


def edit_manifest(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = read_slide_manifest(out, slide_id="slide_1")
    assert found is not None
    manifest: dict[str, Any] = {**found[0]}
    change(manifest)
    slide_manifest_path(out, slide_id="slide_1").write_bytes(encode_slide_manifest(cast(SlideManifest, manifest)))


def swap_plan(out: Path) -> None:
    rewrite_block(out, plan_digest="0" * 64)
    name_block_as_it_is(out)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda out: slide_manifest_path(out, slide_id="slide_1").unlink(), "slide_1 has no manifest"),
        (lambda out: slide_manifest_path(out, slide_id="slide_1").write_bytes(b""), "damaged"),
        (lambda out: edit_manifest(out, lambda m: m.update(plan_digest="0")), "is that of another plan"),
        (lambda out: edit_manifest(out, lambda m: m["blocks"].pop()), "is that of another plan"),
        (lambda out: edit_manifest(out, lambda m: m.update(slide_id="slide_2")), "is that of another plan"),
        (lambda out: block_path(out).unlink(), "has disappeared"),
        (lambda out: block_path(out).write_bytes(b"{"), "damaged"),
        (lambda out: rewrite_block(out, label_counts={}), "is not the one that the manifest of its slide names"),
        (swap_plan, "belongs to another plan of slide slide_1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, damage: Damage, named: str) -> None:
    out = Path(shutil.copytree(shared_dataset(tmp_path), tmp_path / "out"))
    slides = [outcome(out)]
    assert [document["index"] for document in documents_of(out, slides)] == list(range(slides[0].n_blocks))
    damage(out)
    with pytest.raises(IntegrityError, match=named):
        list(documents_of(out, slides))


def test_only_the_documents_of_a_split_are_asked_for(tmp_path: Path) -> None:
    out = shared_dataset(tmp_path)
    slides = [outcome(out, f"slide_{number}") for number in (1, 2, 3)]
    of_split = {split: list(documents_of(out, slides, split=split)) for split in (Split.TRAIN, Split.VAL)}
    assert sorted(of_split[Split.TRAIN] + of_split[Split.VAL], key=lambda each: (each["slide_id"], each["index"])) == (
        list(documents_of(out, slides))
    )
    assert {document["split"] for document in of_split[Split.VAL]} == {"val"}


def test_pixels_are_those_of_the_manifest(tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared_dataset(tmp_path, setting="pixels"), tmp_path / "out"))
    slide = outcome(out)
    manifest, _ = manifest_of_slide(out, slide)
    assert len(list(pixel_digests_of(out, slide))) == len(manifest["pixels"]) > 0
    row, column, _ = manifest["pixels"][-1]
    path = pixel_record_path(out, slide_id="slide_1", row=int(row), column=int(column))
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{path.name} has disappeared"):
        list(pixel_digests_of(out, slide))
    assert list(pixel_digests_of(shared_dataset(tmp_path), outcome(shared_dataset(tmp_path)))) == []


def test_digests_of_blocks_are_those_of_the_manifest(tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared_dataset(tmp_path), tmp_path / "out"))
    slide = outcome(out)
    assert slide.survey is not None
    manifest, _ = manifest_of_slide(out, slide)
    assert digests_of_blocks(out, slide.survey) == manifest["blocks"]
    for survey, named in (
        (replace(slide.survey, plan_digest="0"), "belongs to another plan"),
        (replace(slide.survey, n_patches=slide.survey.n_patches - 1), "were planned"),
        (replace(slide.survey, n_patches=slide.survey.n_patches + 1), "has disappeared"),
    ):
        with pytest.raises(IntegrityError, match=named):
            digests_of_blocks(out, survey)


def test_a_slide_that_failed_yields_nothing() -> None:
    fault = Fault(
        slide_id="a", stage="extract", fault_class=FaultClass.SLIDE, error_type="SlideError", message="torn", remedy=""
    )
    nothing = SlideOutcome(slide_id="a", survey=None, n_blocks=0, fault=fault)
    assert (nothing.n_planned, nothing.n_written, nothing.n_not_possible) == (0, 0, 0)
