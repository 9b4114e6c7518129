"""What writing a shard costs beyond the codec's own time, and what zarr-python and tensorstore take for the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from benchmarks.timing import Case, Timing, measure
from wsi_extract.arrays import RgbImage
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.shards import write_shard
from wsi_extract.stores.zarr_json import patch_array_document, write_document

CODEC_ALONE = "codec alone"
OURS = "ours"
PATCHES_PER_SHARD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingCost:
    """Medians of one writer, per patch."""

    name: str
    timing: Timing


def compare_writers(
    folder: Path, patches: RgbImage, *, codec: PixelCodec, n_rounds: int, seed: int
) -> tuple[WritingCost, ...]:
    """Write all patches in whole shards with every writer, interleaved.

    Ours makes its files durable and takes their SHA-256, the others do neither.

    Parameters
    ----------
    folder
        Where the arrays are written; on the disk whose speed matters.
    patches
        (N, H, W, 3) uint8.

    Raises
    ------
    RuntimeError
        When what a writer wrote does not read as the patches.
    """
    cases: dict[str, Case] = {CODEC_ALONE: lambda: sum(len(codec.encode(rgb)) > 0 for rgb in patches)}
    writers: dict[str, Callable[[Path, RgbImage, PixelCodec], None]] = {
        OURS: write_ours,
        "tensorstore": write_with_tensorstore,
        "zarr-python": write_with_zarr_python,
    }
    for name, write in writers.items():
        target = folder / name
        _write_outline(target, patches, codec=codec)
        write(target, patches, codec)
        if not np.array_equal(zarr.open_array(str(target), mode="r")[...], patches):
            raise RuntimeError(f"the array written by {name} does not hold the patches")
        cases[name] = _writing(write, target, patches, codec=codec)
    timings = measure(cases, n_patches=len(patches), n_rounds=n_rounds, seed=seed)
    return tuple(WritingCost(name=name, timing=timing) for name, timing in timings.items())


def _writing(
    write: Callable[[Path, RgbImage, PixelCodec], None], target: Path, patches: RgbImage, *, codec: PixelCodec
) -> Case:
    def case() -> int:
        write(target, patches, codec)
        return len(patches)

    return case


def _write_outline(target: Path, patches: RgbImage, *, codec: PixelCodec) -> None:
    shutil.rmtree(target, ignore_errors=True)
    n_patches, height, width, _ = patches.shape
    document = patch_array_document(
        n_patches=n_patches,
        patch_wh_px=(width, height),
        patches_per_shard=PATCHES_PER_SHARD,
        codecs=codec.to_zarr(),
        attributes={},
    )
    write_document(target, document)


def _shards_of(patches: RgbImage) -> list[RgbImage]:
    return [patches[start : start + PATCHES_PER_SHARD] for start in range(0, len(patches), PATCHES_PER_SHARD)]


def write_ours(target: Path, patches: RgbImage, codec: PixelCodec) -> None:
    """Stream every shard into its file."""
    for number, shard in enumerate(_shards_of(patches)):
        path = target / "c" / str(number) / "0" / "0" / "0"
        chunks = ((row, codec.encode(rgb)) for row, rgb in enumerate(shard))
        write_shard(path, chunks, n_chunks=PATCHES_PER_SHARD)


def write_with_zarr_python(target: Path, patches: RgbImage, codec: PixelCodec) -> None:
    """Assign whole shards, which is the fastest that zarr-python has."""
    array = zarr.open_array(str(target), mode="r+")
    for number, shard in enumerate(_shards_of(patches)):
        start = number * PATCHES_PER_SHARD
        array[start : start + len(shard)] = shard


def write_with_tensorstore(target: Path, patches: RgbImage, codec: PixelCodec) -> None:
    """Write whole shards and wait for each."""
    import tensorstore  # noqa: PLC0415  # its threads do not survive a fork

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{target}/"}}
    array = tensorstore.open(spec, open=True).result()
    for number, shard in enumerate(_shards_of(patches)):
        start = number * PATCHES_PER_SHARD
        array[start : start + len(shard)].write(shard).result()
