"""Data sets made by somebody who means harm: the audit ends, finds the fault, and touches nothing else."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers_bit_flips import make_tiny_dataset
from tests.verify.helpers import Json, edit_coco, edit_json, edit_survey
from wsi_extract.__main__ import main
from wsi_extract.disk.files import sha256_of_file
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    MANIFEST,
    SLIDES_TABLE,
    fault_path,
    instances_name,
    patch_shard_path,
    plan_path,
    record_path,
    run_path,
    slide_manifest_path,
    survey_path,
)
from wsi_extract.state.record_files import encode_record
from wsi_extract.storage import Store
from wsi_extract.verify import audit, compare
from wsi_extract.verify.entries import MAX_DOCUMENT_BYTES, is_slide_id

SLIDE = "slide_1"
DEEP = b"[" * 200_000
HUGE = b"1" * 5_000
"""Longer than Python turns into a number."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[Store, Path]:
    return {store: make_tiny_dataset(tmp_path_factory.mktemp(store.value), store) for store in (Store.PNG, Store.ZARR)}


@pytest.fixture
def out(originals: dict[Store, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[Store.PNG], tmp_path / "out"))


def first_patch(out: Path) -> Path:
    return min(out.glob(f"*2017/{SLIDE}/*.png"))


def snapshot(out: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in out.rglob("*")}


def refused(out: Path) -> str:
    """Audit a folder, which must not change by that, and return all problems."""
    before = snapshot(out)
    report = audit(out)
    assert not report.is_sound
    assert snapshot(out) == before
    return "\n".join(map(str, report.problems))


DOCUMENTS: list[Callable[[Path], Path]] = [
    lambda out: out / MANIFEST,
    lambda out: out / SLIDES_TABLE,
    lambda out: out / instances_name(Split.TRAIN),
    run_path,
    lambda out: record_path(out, slide_id=SLIDE, index=0),
    lambda out: survey_path(out, slide_id=SLIDE),
    lambda out: plan_path(out, slide_id=SLIDE),
    lambda out: slide_manifest_path(out, slide_id=SLIDE),
    lambda out: fault_path(out, slide_id="broken"),
    lambda out: out / "index.zarr" / "train" / "zarr.json",
    lambda out: out / "index.zarr" / "train" / "kind" / "c" / "0",
    first_patch,
]


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_a_pipe_is_not_waited_for(out: Path, number: int) -> None:
    path = DOCUMENTS[number](out)
    path.unlink()
    os.mkfifo(path)
    assert "is no file but a pipe" in refused(out)


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "/nowhere/at/all"])
@pytest.mark.parametrize("number", range(0, len(DOCUMENTS), 3))
def test_a_link_that_leads_out_is_not_followed(out: Path, number: int, target: str) -> None:
    path = DOCUMENTS[number](out)
    path.unlink()
    path.symlink_to(target)
    assert "is a link that leads out of the folder" in refused(out)


def test_a_folder_elsewhere_is_not_entered(out: Path, tmp_path: Path) -> None:
    shutil.move(first_patch(out).parent, tmp_path / "elsewhere")
    (out / "train2017" / SLIDE).parent.mkdir(exist_ok=True)
    next(out.glob("*2017")).joinpath(SLIDE).symlink_to(tmp_path / "elsewhere")
    assert "leads out of the folder" in refused(out)


def test_a_link_to_itself_and_a_link_within_the_folder(out: Path) -> None:
    path = first_patch(out)
    kept = path.with_name("kept.png")
    shutil.move(path, kept)
    path.symlink_to(kept.name)
    assert "kept.png: is not an image of the COCO document" in refused(out)
    path.unlink()
    path.symlink_to(path.name)
    assert refused(out)


def test_further_names_of_a_file_are_no_fault(out: Path, tmp_path: Path) -> None:
    os.link(first_patch(out), tmp_path / "another name.png")
    assert audit(out).problems == ()


def test_a_link_to_the_output_folder_is_no_fault(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    assert audit(tmp_path / "link").problems == ()


@pytest.mark.parametrize("content", [DEEP, HUGE, b"", b"null", b"[]", b"\xff\xfe{\0}\0", b'{"a":' * 90_000])
@pytest.mark.parametrize("number", [0, 2, 3, 4, 5, 7, 8, 9])
def test_documents_that_are_none(out: Path, number: int, content: bytes) -> None:
    DOCUMENTS[number](out).write_bytes(content)
    assert refused(out)


def test_files_that_are_too_large_are_not_read(out: Path) -> None:
    for path in (survey_path(out, slide_id=SLIDE), plan_path(out, slide_id=SLIDE)):
        os.truncate(path, MAX_DOCUMENT_BYTES + 1)  # of holes: it takes no room
        assert "bytes, more than" in refused(out)


@pytest.mark.parametrize("slide_id", ["../../../etc/passwd", "/etc/passwd", "..", "a/b", "", "a\0b", "x" * 999])
def test_slide_ids_are_no_paths(out: Path, slide_id: str) -> None:
    assert not is_slide_id(slide_id)
    edit_json(out / MANIFEST, lambda manifest: manifest["slides"][-1].update(slide_id=slide_id))
    problems = refused(out)
    assert "cannot be the id of a slide" in problems or "slide_id" in problems


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m["slides"][-1].update(n_blocks=10**18), id="blocks"),
        pytest.param(lambda m: m["slides"][-1].update(n_blocks=-1), id="fewer than no block"),
        pytest.param(lambda m: m["slides"][-1].update(n_planned=10**30), id="patches"),
        pytest.param(lambda m: m["slides"][-1].update(width_l0_px=10**30, height_l0_px=-1), id="size"),
        pytest.param(lambda m: m["slides"][-1].update(l0_per_px_xy=[1e-308, 1e308]), id="scale"),
        pytest.param(lambda m: m["settings"].update(patch_size=10**12), id="patch"),
        pytest.param(lambda m: m["settings"].update(store="pixels", codec="zstd", codec_level=1), id="store"),
        pytest.param(lambda m: m["splits"].update(test=m["splits"]["train"]), id="split"),
        pytest.param(lambda m: m["slides"].extend(m["slides"] * 50), id="rows"),
    ],
)
def test_numbers_that_cannot_be(out: Path, change: Callable[[Json], object]) -> None:
    edit_json(out / MANIFEST, change)
    assert refused(out)
    assert main(["verify", str(out)]) == 6


def test_images_that_claim_to_be_huge_are_not_decoded(out: Path) -> None:
    edit_coco(out, lambda coco: [image.update(width=10**6, height=10**6) for image in coco["images"]])
    assert "cannot have 1000000 x 1000000 px" in refused(out)


def test_records_may_claim_what_they_like(originals: dict[Store, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(originals[Store.ZARR], tmp_path / "zarr"))
    path = record_path(out, slide_id=SLIDE, index=0)
    document = json.loads(path.read_bytes())["block"]
    for facts in (
        {"shard": {**document["shard"], "n_rows": 10**12}},
        {"shard": {**document["shard"], "number": 10**12}},
        {"shard": {**document["shard"], "number": -1, "bytes": "x"}},
        {"patch_wh_px": [10**6, 10**6]},
        {"split": "../../.."},
        {"patches": [{**document["patches"][0], "file_name": "../../../../etc/passwd"}]},
        {"patches": [{**document["patches"][0], "x_l0": 10**40}]},
    ):
        path.write_bytes(encode_record({**document, **facts}, kind="block"))
        assert refused(out)
        assert main(["verify", str(out)]) == 6
    assert patch_shard_path(out, slide_id=SLIDE, split=Split(document["split"]), shard=0).is_file()


class Payload:
    """Writes a file when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_loaded(out: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "executed"
    assert pickle.dumps(Payload(bomb))
    columns = dict(np.load(plan_path(out, slide_id=SLIDE)))
    columns["kind"] = np.array([Payload(bomb)], dtype=object)
    np.savez(plan_path(out, slide_id=SLIDE), **columns)
    fit_plan(out)
    assert "allow_pickle" in refused(out)
    assert not bomb.exists()


def fit_plan(out: Path) -> None:
    digest = sha256_of_file(plan_path(out, slide_id=SLIDE))
    edit_survey(out, lambda survey: survey.update(plan_sha256=digest), slide_id=SLIDE)


def test_archives_are_not_unpacked_to_more_than_a_plan(out: Path) -> None:
    path = plan_path(out, slide_id=SLIDE)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")  # of what the archive says of its last member
    data[start + 24 : start + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    fit_plan(out)
    assert "would unpack to 2,147,4" in refused(out)


def test_a_header_may_not_reserve_memory(out: Path) -> None:
    path = plan_path(out, slide_id=SLIDE)
    columns = dict(np.load(path))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 60,)})
    np.savez(path, **{name: column for name, column in columns.items() if name != "kind"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("kind.npy", header.getvalue())
    fit_plan(out)
    assert "cannot be read" in refused(out)


def test_a_mask_may_not_claim_more_than_its_bits(out: Path) -> None:
    path = plan_path(out, slide_id=SLIDE)
    columns = dict(np.load(path))
    columns["mask_shape_hw"] = np.array([1 << 30, 1 << 30])
    np.savez(path, **columns)
    fit_plan(out)
    assert "no mask of" in refused(out)


def test_what_a_terminal_obeys_is_not_printed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_coco(out, lambda coco: coco["images"][0].update(file_name="\x1b]0;owned\x07\ud800.png"))
    assert main(["verify", str(out)]) == 6
    captured = capsys.readouterr()
    assert "\x1b" not in captured.err + captured.out
    assert "owned" in captured.err


def test_a_comparison_opens_nothing_strange_either(originals: dict[Store, Path], out: Path) -> None:
    pipe = first_patch(out).with_name("pipe.png")
    os.mkfifo(pipe)
    report = compare(originals[Store.PNG], out)
    assert [problem.path for problem in report.problems] == [pipe]
