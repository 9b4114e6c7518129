"""What a conversion refuses: damaged and contradictory sources, folders of others, impossible requests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers_convert import StoppedError, assert_unfinished, convert, finished, own
from tests.helpers_dataset import flip_byte, shared_inputs
from tests.helpers_run import copy_inputs, extract, read_manifest
from wsi_extract.__main__ import main
from wsi_extract.convert.destination import UNFINISHED
from wsi_extract.convert.options import ConvertRequest
from wsi_extract.disk.files import pretty_json
from wsi_extract.errors import ConfigError, EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.model import Split
from wsi_extract.state.folder_lock import locked
from wsi_extract.state.layout import patch_shard_path, record_path, split_folder
from wsi_extract.state.records import BlockDocument, encode_document, read_document
from wsi_extract.storage import Store
from wsi_extract.verify import audit


def _flip_patch(source: Path) -> Path:
    path = min((source / "val2017").glob("*/*.png"))
    flip_byte(path, at=path.stat().st_size // 2)
    return path


def _swap_patches(source: Path) -> Path:
    """Both are whole, and each of them is the other."""
    first, second = sorted((source / "val2017").glob("*/*.png"))[:2]
    first.write_bytes(second.read_bytes())
    return first


def _lose_patch(source: Path) -> Path:
    path = min((source / "val2017").glob("*/*.png"))
    path.unlink()
    return path


@pytest.mark.parametrize("damage", [_flip_patch, _swap_patches, _lose_patch])
def test_a_damaged_file_stops_with_its_name(tmp_path: Path, damage: Callable[[Path], Path]) -> None:
    source, dest = own(tmp_path, "png"), tmp_path / "dest"
    path = damage(source)
    with pytest.raises(IntegrityError) as caught:
        convert(source, dest, "zarr")
    assert path.name in str(caught.value)
    assert path.parent.name in str(caught.value)
    assert_unfinished(dest)
    shutil.copyfile(finished(tmp_path, "png") / path.relative_to(source), path)
    convert(source, dest, "zarr")
    assert audit(dest).is_sound


@pytest.mark.parametrize("store", ["zarr", "pixels"])
def test_a_damaged_chunk_stops_with_the_name_of_its_patch(tmp_path: Path, store: str) -> None:
    source, dest = own(tmp_path, store), tmp_path / "dest"
    shard = max((path for path in source.glob("p*.zarr/**/c/**/*") if path.is_file()), key=lambda file: file.name)
    size = shard.stat().st_size
    shard.write_bytes(bytes(size // 2) + shard.read_bytes()[size // 2 :])  # of the pixel store patches use a part only
    with pytest.raises(IntegrityError, match=r"patch slide_\d/slide_\d_x\d+_y\d+\.png of slide slide_\d \("):
        convert(source, dest, "png")
    assert_unfinished(dest)


def test_a_shard_of_another_run_is_refused(tmp_path: Path) -> None:
    """Its checksums fit, but it is not the file that was recorded."""
    source = own(tmp_path, "zarr")
    path, other = (patch_shard_path(source, slide_id="slide_1", split=Split.TRAIN, shard=shard) for shard in (0, 1))
    path.write_bytes(other.read_bytes()[: other.stat().st_size])
    with pytest.raises(IntegrityError, match=r"slide_1"):
        convert(source, tmp_path / "dest", "png")
    assert_unfinished(tmp_path / "dest")


def _edit_record(source: Path, change: Callable[[BlockDocument], object]) -> None:
    path = record_path(source, slide_id="slide_1", index=0)
    document = read_document(path)
    assert document is not None
    change(document)
    path.write_bytes(encode_document(document))


def _forget_a_label(document: BlockDocument) -> None:
    next(patch["labels"] for patch in document["patches"] if patch["labels"]).pop()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda source: record_path(source, slide_id="slide_1", index=1).unlink(), "000001.json is missing"),
        (lambda source: _edit_record(source, lambda record: record["patches"].pop()), "no shard of"),
        (lambda source: _edit_record(source, lambda record: record["patches"].reverse()), "name different patches"),
        (lambda source: _edit_record(source, _forget_a_label), "do not give the COCO document"),
        (lambda source: (source / "slides.csv").unlink(), "slides.csv is missing"),
        (lambda source: (source / ".wsi_extract/plans/slide_1.json").unlink(), "slide_1.json is missing"),
        (lambda source: (source / ".wsi_extract/run.json").write_text("["), "run.json is damaged"),
        (lambda source: (source / "manifest.json").write_text("{"), "manifest.json is damaged"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    source = own(tmp_path, "png")
    damage(source)
    with pytest.raises(IntegrityError, match=named):
        convert(source, tmp_path / "dest", "zarr")
    assert not (tmp_path / "dest" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("is_finished", "source", "to", "codec", "named"),
    [
        (True, "pixels", "zarr", None, "source_manifest_sha256"),
        (True, "png", "both", None, "store: was 'zarr', now 'both'"),
        (False, "png", "zarr", "none", "codec: was 'zstd', now 'none'"),
    ],
)
def test_another_conversion_is_refused(
    tmp_path: Path, is_finished: bool, source: str, to: str, codec: str | None, named: str
) -> None:
    dest = tmp_path / "dest"
    if is_finished:
        convert(finished(tmp_path, "png"), dest, "zarr")
    else:
        with pytest.raises(StoppedError):
            convert(finished(tmp_path, "png"), dest, "zarr", stop_at=1)
    before = {path: path.stat().st_mtime_ns for path in dest.rglob("*")}
    with pytest.raises(IntegrityError, match="holds another conversion") as caught:
        convert(finished(tmp_path, source), dest, to, codec=codec)
    assert named in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*")} == before


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    source = own(tmp_path, "png")
    extracted = finished(tmp_path, "zarr")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("precious")
    for dest, reason in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "full", "already holds precious.txt"),
        (source / "new", "overlaps the data set"),
        (source, "overlaps the data set"),
        (tmp_path, "overlaps the data set"),
        (extracted, r"already holds \.wsi_extract"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=reason):
            convert(source, dest, "zarr")
        assert sorted(tmp_path.rglob("*")) == before
    assert audit(extracted).is_sound


def test_a_destination_that_is_being_written_is_refused(tmp_path: Path) -> None:
    source, dest = finished(tmp_path, "png"), tmp_path / "dest"
    with locked(dest, command="another one"), pytest.raises(EnvironmentFaultError, match="is being written by"):
        convert(source, dest, "zarr")
    assert not (dest / UNFINISHED).exists()
    convert(source, dest, "zarr")  # what is left of the other one is no content
    assert audit(dest).is_sound


def test_sources_that_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished data set"):
        convert(tmp_path, tmp_path / "dest", "zarr")
    with pytest.raises(InputError, match=r"has the store zarr, codec zstd -?\d+ already"):
        convert(finished(tmp_path, "zarr"), tmp_path / "dest", "zarr")
    old = own(tmp_path, "png")
    manifest = read_manifest(old)
    (old / "manifest.json").write_bytes(pretty_json({k: v for k, v in manifest.items() if k != "index_sha256"}))
    with pytest.raises(InputError, match="has no index"):
        convert(old, tmp_path / "dest", "zarr")
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize(
    ("store", "more", "named"),
    [
        ("png", ["--codec", "zstd"], "--codec and --codec_level belong to"),
        ("png", ["--codec_level", "1"], "--codec and --codec_level belong to"),
        ("zarr", ["--codec_level", "20"], "zstd has levels -7 to 19, got 20"),
        ("both", ["--codec", "none", "--codec_level", "1"], "none has levels 0 to 0, got 1"),
        ("both", ["--workers", "0"], "at least 1, got 0"),
    ],
)
def test_flags_that_contradict_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str, more: list[str], named: str
) -> None:
    assert main(["convert", str(tmp_path), "--store", store, "--dest", str(tmp_path / "dest"), *more]) == 2
    assert named in capsys.readouterr().err


def test_pixels_cannot_be_made_from_patches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be converted to the store pixels"):
        ConvertRequest(source_dir=tmp_path, destination=tmp_path / "dest", store=Store.PIXELS)


def test_names_that_arrays_cannot_have_are_refused_first(tmp_path: Path) -> None:
    inputs = copy_inputs(shared_inputs(tmp_path), tmp_path / "input")
    (inputs.wsi_dir / "slide_1.svs").rename(inputs.wsi_dir / "zarr.json.svs")
    extract(inputs, tmp_path / "source", patches_per_slide=4, unannotated_slides="negative")
    with pytest.raises(InputError, match=r"'zarr\.json' cannot be the name of an array"):
        convert(tmp_path / "source", tmp_path / "dest", "zarr")
    assert not (tmp_path / "dest").exists()


def test_a_codec_without_its_package_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ConfigError, match="pip install imagecodecs"):
        convert(finished(tmp_path, "png"), tmp_path / "dest", "zarr", codec="webp")
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("to", ["png", "zarr"])
def test_a_block_that_is_converted_once_more_and_differs_raises_the_alarm(tmp_path: Path, to: str) -> None:
    source, dest = own(tmp_path, "both"), tmp_path / "dest"
    with pytest.raises(StoppedError):
        convert(source, dest, to, n_workers=1, stop_at=1)
    record = record_path(dest, slide_id="slide_1", index=0)
    document = read_document(record)
    assert document is not None
    split = Split(document["split"])
    if to == "png":
        document["patches"][0]["sha256"] = "0" * 64
        lost = dest / split_folder(split) / document["patches"][0]["file_name"]
    else:
        document["shard"]["sha256"] = "0" * 64
        lost = patch_shard_path(dest, slide_id="slide_1", split=split, shard=0)
    record.write_bytes(encode_document(document))
    lost.unlink()
    files = [path for path in dest.glob("*2017/*/*" if to == "png" else "patches.zarr/**/c/*/0/0/0") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in (*files, record)}
    with pytest.raises(IntegrityError, match=r"determinism alarm: slide slide_1, block 0"):
        convert(source, dest, to, n_workers=1)
    assert before == {path: (path.read_bytes(), path.stat().st_ino) for path in (*files, record)}
    assert not lost.exists()
