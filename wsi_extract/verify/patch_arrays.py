"""The arrays of patches of one slide: each opens, holds the recorded patches, and equals the PNG files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from wsi_extract.arrays import RgbImage
from wsi_extract.model import Split
from wsi_extract.state.layout import patch_array_folder, patch_file_name, patch_shard_path, split_folder
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.patch_arrays import open_patch_array, read_patch_into
from wsi_extract.stores.png import decode_png
from wsi_extract.stores.shards import ShardReader
from wsi_extract.stores.zarr_json import DOCUMENT_NAME, JsonObject, patch_array_document, patch_attributes
from wsi_extract.verify.findings import DAMAGE, Check, Findings
from wsi_extract.verify.manifest import ManifestSettings, ManifestSlide
from wsi_extract.verify.patch_files import files_below, is_leftover
from wsi_extract.verify.recorded import RecordedShard, RecordedSlide
from wsi_extract.verify.shard_files import ExpectedShard, PixelCheck, inspect_shards
from wsi_extract.verify.zarr_documents import (
    ArrayLayout,
    find_document_problems,
    find_zarr_problems,
    note_foreign_reader,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Array:
    """What the array of one slide and split must be."""

    output_dir: Path
    slide_id: str
    split: Split
    recorded: RecordedSlide
    shards: tuple[RecordedShard, ...]
    """At least one."""
    codec: PixelCodec

    @property
    def folder(self) -> Path:
        return patch_array_folder(self.output_dir, slide_id=self.slide_id, split=self.split)

    @property
    def n_patches(self) -> int:
        return sum(shard.n_patches for shard in self.shards)

    def shard_path(self, shard: RecordedShard) -> Path:
        return patch_shard_path(self.output_dir, slide_id=self.slide_id, split=self.split, shard=shard.number)

    def file_name(self, row: int) -> str:
        """Return the name of a patch by its row in the columns of `RecordedSlide`."""
        x_l0, y_l0 = self.recorded.origins_l0[row].tolist()
        return patch_file_name(self.slide_id, x_l0=x_l0, y_l0=y_l0)


def check_patch_arrays(
    output_dir: Path,
    slide: ManifestSlide,
    *,
    recorded: RecordedSlide | None,
    settings: ManifestSettings,
    findings: Findings,
) -> None:
    """Check the arrays of one slide, split by split.

    Parameters
    ----------
    recorded
        What the slide's records say, ``None`` when it has no patches.
    """
    codec = settings.pixel_codec
    if codec is None:
        return  # reported with the manifest
    if settings.store.has_png and not codec.is_lossless:
        findings.note(f"pixels of PNG files and arrays were not compared: {codec.name} changes pixels")
    for split in slide.splits:
        folder = patch_array_folder(output_dir, slide_id=slide.slide_id, split=split)
        shards = () if recorded is None else tuple(shard for shard in recorded.shards if shard.split is split)
        with findings.reading(Check.ARRAYS, folder):
            known = {path.relative_to(folder).as_posix() for path in _known_files(output_dir, slide, split, shards)}
            for name in files_below(folder):
                if name not in known and not is_leftover(name):
                    findings.add(Check.ARRAYS, folder / name, "belongs to no recorded patch")
            if recorded is not None and shards:
                array = _Array(
                    output_dir=output_dir,
                    slide_id=slide.slide_id,
                    split=split,
                    recorded=recorded,
                    shards=shards,
                    codec=codec,
                )
                _check_array(array, has_png=settings.store.has_png, findings=findings)


def _known_files(
    output_dir: Path, slide: ManifestSlide, split: Split, shards: tuple[RecordedShard, ...]
) -> Iterator[Path]:
    if shards:
        yield patch_array_folder(output_dir, slide_id=slide.slide_id, split=split) / DOCUMENT_NAME
    for shard in shards:
        yield patch_shard_path(output_dir, slide_id=slide.slide_id, split=split, shard=shard.number)


def _check_array(array: _Array, *, has_png: bool, findings: Findings) -> None:
    problems = list(_layout_problems(array.shards))
    for message in problems:
        findings.add(Check.RECORDS, array.folder, message)
    if problems:
        return
    is_readable = _check_document(array, findings=findings)
    n_damaged = 0
    for path, messages in inspect_shards(_expected_shards(array, has_png=has_png)):
        findings.n_files += 1
        n_damaged += len(messages)
        for message in messages:
            findings.add(Check.ARRAYS, path, message)
    if is_readable and not n_damaged:
        _check_readers(array, findings=findings)


def _layout_problems(shards: tuple[RecordedShard, ...]) -> Iterator[str]:
    """Yield why the recorded shards do not make up one array, each row in its place."""
    numbers = [shard.number for shard in shards]
    if numbers != list(range(len(shards))):
        yield f"the recorded shards are numbered {numbers[:10]}, must count from 0"
    n_rows = shards[0].n_rows
    if n_rows < 1 or any(shard.n_rows != n_rows for shard in shards):
        yield f"the recorded shards have room for {sorted({shard.n_rows for shard in shards})} patches, must be equal"
    if any(shard.n_patches != n_rows for shard in shards[:-1]) or not 0 < shards[-1].n_patches <= n_rows:
        held = [shard.n_patches for shard in shards[:10]]
        yield f"the recorded shards hold {held} patches of {n_rows}; only the last may lack some"


def _check_document(array: _Array, *, findings: Findings) -> bool:
    """Check the array's document, and tell whether it is as it must be."""
    n_before = findings.n_by_check[Check.ARRAYS]
    path = array.folder / DOCUMENT_NAME
    with findings.reading(Check.ARRAYS, path):
        findings.n_files += 1
        for message in find_document_problems(array.folder, _document_of(array)):
            findings.add(Check.ARRAYS, path, message)
    return findings.n_by_check[Check.ARRAYS] == n_before


def _document_of(array: _Array) -> JsonObject:
    frame = array.recorded.frame
    return patch_array_document(
        n_patches=array.n_patches,
        patch_wh_px=frame.patch_wh_px,
        patches_per_shard=array.shards[0].n_rows,
        codecs=array.codec.to_zarr(),
        attributes=patch_attributes(
            slide_id=array.slide_id,
            split=array.split.value,
            level=frame.level,
            l0_per_px_xy=frame.l0_per_px_xy,
            um_per_px_xy=frame.um_per_px_xy,
        ),
    )


def _expected_shards(array: _Array, *, has_png: bool) -> Iterator[ExpectedShard]:
    for shard in array.shards:
        names = {row: array.file_name(shard.first + row) for row in range(shard.n_patches)}
        folder = array.output_dir / split_folder(array.split)
        is_compared = has_png and array.codec.is_lossless
        yield ExpectedShard(
            path=array.shard_path(shard),
            n_bytes=shard.n_bytes,
            sha256=shard.sha256,
            n_chunks=shard.n_rows,
            chunks=names,
            chunk_wh_px=array.recorded.frame.patch_wh_px,
            codec=array.codec,
            check_pixels=_comparison(folder, names) if is_compared else _accept,
        )


def _accept(_: int, __: RgbImage) -> str:
    return ""


def _comparison(folder: Path, names: dict[int, str]) -> PixelCheck:
    def compare(number: int, pixels: RgbImage) -> str:
        try:
            image = decode_png((folder / names[number]).read_bytes())
        except DAMAGE:
            return ""  # reported with the PNG files
        return "" if np.array_equal(image, pixels) else "differs from its PNG file"

    return compare


def _check_readers(array: _Array, *, findings: Findings) -> None:
    """Check that this program's reader opens the array, and that zarr-python finds the same in it."""
    frame, n_rows = array.recorded.frame, array.shards[0].n_rows
    width, height = frame.patch_wh_px
    ours = open_patch_array(array.output_dir, slide_id=array.slide_id, split=array.split)
    if not note_foreign_reader(array.codec, findings=findings):
        return
    theirs = zarr.open_array(str(array.folder), mode="r", zarr_format=3)
    layout = ArrayLayout(
        shape=(array.n_patches, height, width, 3),
        chunk_shape=(1, height, width, 3),
        shard_shape=(n_rows, height, width, 3),
        dimension_names=("patch", "y", "x", "channel"),
    )
    for message in find_zarr_problems(theirs, layout=layout):
        findings.add(Check.ARRAYS, array.folder, message)
    out: RgbImage = np.empty((height, width, 3), dtype=np.uint8)
    with ShardReader(max_open=1) as shards:
        for row in sorted({0, array.n_patches - 1}):
            read_patch_into(ours, row, out, shards=shards)
            if not np.array_equal(np.asarray(theirs[row]), out):
                findings.add(Check.ARRAYS, array.folder, f"zarr-python reads other pixels in row {row}")
