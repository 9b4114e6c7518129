"""One digest says whether two data sets hold the same: whatever made them, and whatever was changed in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers_dataset import run_extraction, shared_dataset, shared_inputs
from tests.helpers_run import (
    MEMORY_BYTES,
    Inputs,
    ShuffledExecutor,
    content_of,
    copy_inputs,
    extract,
    make_inputs,
    read_manifest,
)
from tests.test_failures import damage
from wsi_extract.content_digest import content_digest, digests_of_documents, with_own_digest
from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import EnvironmentFaultError, IntegrityError
from wsi_extract.model import Split
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.fault_records import read_faults
from wsi_extract.state.layout import record_path, slide_manifest_path
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.state.slide_manifests import read_slide_manifest
from wsi_extract.tasks import SerialExecutor, Task, TaskResult
from wsi_extract.verify import audit

LEAVES = {"b": "1" * 64, "a": "2" * 64}
DOCUMENTS = {"x": "3" * 64, "index.zarr": "4" * 64}


def slides_done(out: Path) -> set[str]:
    return {path.stem for path in slide_manifest_path(out, slide_id="any").parent.glob("*.json")}


# --- the digest itself


def test_the_digest_is_that_of_a_plain_document() -> None:
    """Whoever has the digests of slides and documents can compute it with nothing but JSON and SHA-256."""
    text = (
        f'{{"documents":{{"index.zarr":"{"4" * 64}","x":"{"3" * 64}"}},'
        f'"slides":[["a","{"2" * 64}"],["b","{"1" * 64}"]]}}'
    )
    assert content_digest(LEAVES, DOCUMENTS) == sha256_of(text.encode())
    assert content_digest(dict(reversed(LEAVES.items())), dict(reversed(DOCUMENTS.items()))) == sha256_of(text.encode())


@pytest.mark.parametrize(
    ("leaves", "documents"),
    [
        ({**LEAVES, "a": "1" * 64}, DOCUMENTS),
        ({"a": "2" * 64}, DOCUMENTS),
        ({"b": "2" * 64, "a": "1" * 64}, DOCUMENTS),
        (LEAVES, {**DOCUMENTS, "x": "4" * 64}),
        (LEAVES, {**DOCUMENTS, "y": "4" * 64}),
    ],
)
def test_every_part_counts(leaves: dict[str, str], documents: dict[str, str]) -> None:
    assert content_digest(leaves, documents) != content_digest(LEAVES, DOCUMENTS)


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=3), st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=3))
def test_a_manifest_ends_with_its_own_digest(manifest: dict[str, object]) -> None:
    sealed = with_own_digest(manifest)
    assert list(sealed)[-1] == "sha256"
    rest = {key: value for key, value in sealed.items() if key != "sha256"}
    assert sealed["sha256"] == sha256_of(canonical_json(rest))
    assert with_own_digest(sealed) == sealed


@pytest.mark.parametrize(
    ("setting", "documents"),
    [
        ("both", {"patches.zarr/zarr.json", "patches.zarr/train/zarr.json", "patches.zarr/train/slide_1/zarr.json"}),
        ("pixels", {"pixels.zarr/zarr.json", "pixels.zarr/slide_1/zarr.json", "pixels.zarr/slide_1/0/zarr.json"}),
    ],
)
def test_all_that_readers_open_counts(tmp_path: Path, setting: str, documents: set[str]) -> None:
    out = shared_dataset(tmp_path, setting=setting)
    slides = {row["slide_id"]: [Split(name) for name in row["splits"]] for row in read_manifest(out)["slides"]}
    found = digests_of_documents(out, splits=[Split.TRAIN, Split.VAL], slides=slides)
    stores = {path.relative_to(out).as_posix() for path in out.glob("p*.zarr/**/zarr.json")}
    cocos = {path.relative_to(out).as_posix() for path in (out / "annotations").iterdir()}
    assert documents <= stores
    assert set(found) == stores | cocos | {"index.zarr"}


# --- of whole runs


@pytest.mark.parametrize("setting", ["both", "pixels"])
def test_a_run_states_it_and_an_audit_finds_it(tmp_path: Path, setting: str) -> None:
    out = shared_dataset(tmp_path, setting=setting)
    manifest = read_manifest(out)
    assert audit(out).content_sha256 == manifest["content_sha256"]
    for row in manifest["slides"]:
        found = read_slide_manifest(out, slide_id=row["slide_id"])
        assert found is not None
        assert row["content_sha256"] == found[1]
        assert len(found[0]["blocks"]) == row["n_blocks"]
        assert bool(found[0]["pixels"]) is (setting == "pixels")


@dataclass(kw_only=True)
class StoppingExecutor(SerialExecutor):
    """Does a number of tasks of a stage, then the machine fails."""

    stage: str
    n_left: int

    def run(self, tasks: Iterable[Task | None]) -> Iterator[TaskResult]:
        return super().run(self.until_failure(tasks))

    def until_failure(self, tasks: Iterable[Task | None]) -> Iterator[Task | None]:
        for task in tasks:
            if task is not None and task.stage == self.stage:
                self.n_left -= 1
                if self.n_left < 0:
                    raise EnvironmentFaultError("the power is gone.")
            yield task


@pytest.mark.parametrize(("setting", "stage", "n_before"), [("both", "extract", 2), ("pixels", "pixels", 1)])
def test_the_same_digest_after_a_stop(tmp_path: Path, setting: str, stage: str, n_before: int) -> None:
    """The slides that were done before it have their manifests already, and keep them."""
    out, inputs = tmp_path / "out", shared_inputs(tmp_path)
    with SlideCache() as slides:
        executor = StoppingExecutor(slides=slides, worker_memory_bytes=MEMORY_BYTES, stage=stage, n_left=n_before)
        with pytest.raises(EnvironmentFaultError):
            run_extraction(inputs, out, store=setting, executor=executor)
    assert slides_done(out) == {f"slide_{number}" for number in range(1, n_before + 1)}
    before = {path: path.stat().st_mtime_ns for path in slide_manifest_path(out, slide_id="any").parent.iterdir()}
    run_extraction(inputs, out, store=setting)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert content_of(out) == content_of(shared_dataset(tmp_path, setting=setting))


@pytest.mark.parametrize("store", ["png", "pixels"])
def test_the_same_digest_in_any_order(tmp_path: Path, store: str) -> None:
    inputs = shared_inputs(tmp_path)
    extract(inputs, tmp_path / "serial", store=store)
    with SlideCache() as slides:
        extract(inputs, tmp_path / "shuffled", store=store, executor=ShuffledExecutor(slides=slides, seed=5))
    digests = {read_manifest(tmp_path / name)["content_sha256"] for name in ("serial", "shuffled")}
    assert len(digests) == 1


@cache
def _small_digest(inputs: Inputs, folder: Path, **settings: Any) -> str:
    extract(inputs, folder / "out", patches_per_slide=6, **settings)
    return str(read_manifest(folder / "out")["content_sha256"])


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        pytest.param({"seed": 43}, False, id="other patches"),
        pytest.param({"label_hard_negatives": True}, False, id="other labels"),
        pytest.param({"train_val_split": 0.34}, False, id="other splits"),
        pytest.param({"reader": "openslide"}, True, id="read by another reader"),
    ],
)
def test_other_content_has_another_digest(tmp_path: Path, change: dict[str, Any], is_same: bool) -> None:
    inputs = shared_inputs(tmp_path)
    first = _small_digest(inputs, tmp_path.parent / "small")
    assert (_small_digest(inputs, tmp_path, **change) == first) is is_same


def test_asked_is_planned_and_not_possible_and_planned_is_written_and_failed(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "input", n_slides=3)
    damage(inputs.wsi_dir / "slide_3.svs")
    sizes: dict[str, Any] = {
        "patches_per_slide": 6,
        "patch_size": 1150,
        "min_tissue_fraction": 1.0,
    }  # wider than the tissue
    extract(inputs, tmp_path / "out", **sizes)
    manifest = read_manifest(tmp_path / "out")
    counts = manifest["counts"]
    accounts = [account for row in manifest["slides"] for account in row.get("accounts", ())]
    assert 0 < counts["patches_not_possible"] == sum(account["n_missing"] for account in accounts)
    n_asked = sum(account["n_asked"] for account in accounts)
    assert n_asked == counts["patches_planned"] + counts["patches_not_possible"]
    assert counts["patches_planned"] == counts["patches_written"] + counts["patches_failed"]
    assert audit(tmp_path / "out").problems == ()


# --- faults


@pytest.mark.parametrize("store", ["png", "pixels"])
def test_a_slide_that_failed_is_remembered_until_it_is_done(tmp_path: Path, store: str) -> None:
    inputs = copy_inputs(shared_inputs(tmp_path), tmp_path / "input")
    slide, out = inputs.wsi_dir / "slide_3.svs", tmp_path / "out"
    whole = slide.read_bytes()
    damage(slide)
    extract(inputs, out, store=store)
    fault = read_faults(out)["slide_3"]
    failed = json.loads((out / "errors.jsonl").read_bytes())
    assert (fault.fault.stage, fault.fault.message) == (failed["stage"], failed["message"])
    assert slides_done(out) == {"slide_1", "slide_2"}
    slide.write_bytes(whole)
    extract(inputs, out, store=store)
    assert read_faults(out) == {}
    assert slides_done(out) == {"slide_1", "slide_2", "slide_3"}
    assert audit(out).problems == ()


def test_a_slide_that_cannot_be_opened_is_remembered(tmp_path: Path) -> None:
    inputs = copy_inputs(shared_inputs(tmp_path), tmp_path / "input")
    (inputs.wsi_dir / "slide_3.svs").write_bytes(b"II*\0 and nothing else")
    extract(inputs, tmp_path / "dry", dry_run=True)
    assert not (tmp_path / "dry").exists()
    extract(inputs, tmp_path / "out")
    assert read_faults(tmp_path / "out")["slide_3"].fingerprint is None


# --- what does not fit is refused


def _relabel(out: Path, **changes: object) -> None:
    path = record_path(out, slide_id="slide_1", index=0)
    document = read_document(path)
    assert document is not None
    path.write_bytes(encode_document({**document, **changes}))  # type: ignore[typeddict-item]  # damage on purpose


def test_a_block_that_was_altered_is_an_alarm(tmp_path: Path) -> None:
    """Its record has a digest that fits, yet it is not what the slide consisted of when it was done."""
    out = Path(shutil.copytree(shared_dataset(tmp_path), tmp_path / "out"))
    _relabel(out, label_counts={"target_label": 99})
    with pytest.raises(IntegrityError, match=r"determinism alarm: slide slide_1 .* block 0 differs"):
        run_extraction(shared_inputs(tmp_path), out, store="both")
    assert not (out / "manifest.json").exists()


def test_a_block_of_another_plan_is_made_anew(tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared_dataset(tmp_path), tmp_path / "out"))
    _relabel(out, plan_digest="0" * 64)
    run_extraction(shared_inputs(tmp_path), out, store="both")
    assert content_of(out) == content_of(shared_dataset(tmp_path))


def test_a_damaged_manifest_of_a_slide_is_made_anew(tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared_dataset(tmp_path), tmp_path / "out"))
    slide_manifest_path(out, slide_id="slide_1").write_bytes(b"{")
    slide_manifest_path(out, slide_id="slide_2").unlink()
    run_extraction(shared_inputs(tmp_path), out, store="both")
    assert content_of(out) == content_of(shared_dataset(tmp_path))
