"""The formats of the loading benchmark, written to disk and ready to be read."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.formats import (
    PEERS,
    PatchFormat,
    Payload,
    decode_with_pillow,
    open_batch_with_tensorstore,
    open_with_tensorstore,
    open_with_zarr_python,
    write_webdataset,
)
from benchmarks.loaders import FormatPatches, LoaderOptions, format_loader, our_loader, webdataset_loader
from benchmarks.ours import write_patch_store, write_pixel_store
from benchmarks.texture import TexturedSlide
from wsi_extract.arrays import RgbImage
from wsi_extract.dataset import open_dataset
from wsi_extract.storage import CodecName
from wsi_extract.stores.codecs import PixelCodec

DEFAULT_CODEC = PixelCodec.of(CodecName.ZSTD)
ZSTD_LEVELS = (-1, 1)
OURS_DEFAULT = f"ours, patch store, zstd {DEFAULT_CODEC.level}"
OURS_NONE = "ours, patch store, uncompressed"
OURS_PIXELS = f"ours, pixel store, zstd {DEFAULT_CODEC.level}"
WEBDATASET = "WebDataset of PNG, Pillow"
ReadInto = Callable[[int, RgbImage], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to read the patches."""

    name: str
    folder: Path
    loader: Callable[[LoaderOptions], Iterable[torch.Tensor]]
    """Shuffled batches (B, H, W, 3) uint8."""
    open_single: Callable[[], ReadInto] | None
    """Opens the data anew and gives what reads one patch; ``None`` where there is no random access."""


def write_contenders(folder: Path, slide: TexturedSlide, payload: Payload) -> tuple[Contender, ...]:
    """Write every format below ``folder`` and return how each is read; two readers may share what was written."""
    shape = payload.patches.shape
    contenders: list[Contender] = []
    for level in sorted({*ZSTD_LEVELS, DEFAULT_CODEC.level}):
        codec, root = PixelCodec.of(CodecName.ZSTD, level), folder / f"zstd{level}"
        array = write_patch_store(root, slide, codec=codec)
        contenders.append(_ours(f"ours, patch store, zstd {level}", root))
        contenders.extend(_peer(reader, array, shape=shape) for reader in _zarr_readers(f"zstd {level}"))
    array = write_patch_store(folder / "none", slide, codec=PixelCodec.of(CodecName.NONE))
    contenders.append(_ours(OURS_NONE, folder / "none"))
    contenders.extend(_peer(reader, array, shape=shape) for reader in _zarr_readers("uncompressed"))
    write_pixel_store(folder / "pixels", slide, codec=DEFAULT_CODEC)
    contenders.append(_ours(OURS_PIXELS, folder / "pixels"))
    written: dict[Callable[[Path, Payload], None], Path] = {}
    for peer in PEERS:
        if peer.write not in written:
            written[peer.write] = _new_folder(folder / f"peer{len(written)}")
            peer.write(written[peer.write], payload)
        contenders.append(_peer(peer, written[peer.write], shape=shape))
    tars = _new_folder(folder / "webdataset")
    write_webdataset(tars, payload)
    contenders.append(
        Contender(
            name=WEBDATASET,
            folder=tars,
            loader=lambda options: webdataset_loader(tars, options),
            open_single=None,
        )
    )
    return tuple(contenders)


def _new_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _ours(name: str, output_dir: Path) -> Contender:
    return Contender(
        name=name,
        folder=output_dir,
        loader=lambda options: our_loader(output_dir, options),
        open_single=lambda: open_dataset(output_dir, "train").read_into,
    )


def _zarr_readers(label: str) -> tuple[PatchFormat, ...]:
    """Return other readers of an array that this package wrote."""
    return (
        PatchFormat(name=f"zarr-python on ours, {label}", write=_write_nothing, open=open_with_zarr_python),
        PatchFormat(
            name=f"tensorstore on ours, {label}",
            write=_write_nothing,
            open=open_with_tensorstore,
            open_batch=open_batch_with_tensorstore,
        ),
    )


def _write_nothing(folder: Path, payload: Payload) -> None:
    """Do nothing: the array is there already."""


def _peer(peer: PatchFormat, folder: Path, *, shape: tuple[int, ...]) -> Contender:
    batch_shape = (shape[0], shape[1], shape[2], shape[3])
    return Contender(
        name=peer.name,
        folder=folder,
        loader=lambda options: format_loader(FormatPatches(peer, folder, shape=batch_shape), options),
        open_single=lambda: FormatPatches(peer, folder, shape=batch_shape).read_into,
    )


def check_pixels(contenders: Iterable[Contender], payload: Payload) -> None:
    """Make sure that every way of reading gives the same pixels, each patch once.

    Raises
    ------
    RuntimeError
        When one does not; nothing must be timed then.
    """
    expected = sorted(rgb.tobytes() for rgb in payload.patches)
    if any(
        not np.array_equal(decode_with_pillow(png), rgb) for png, rgb in zip(payload.pngs, payload.patches, strict=True)
    ):
        raise RuntimeError("the PNG files do not hold the pixels")
    for contender in contenders:
        # One after the other: LMDB refuses to open a file twice in one process.
        _check_batches(contender, expected=expected)
        gc.collect()
        if contender.open_single is not None:
            _check_single_reads(contender.name, contender.open_single(), payload)
            gc.collect()


def _check_batches(contender: Contender, *, expected: Sequence[bytes]) -> None:
    loader = contender.loader(LoaderOptions(n_workers=0, seed=0))
    if sorted(rgb.numpy().tobytes() for batch in loader for rgb in batch) != expected:
        raise RuntimeError(f"{contender.name} does not give every patch once with its pixels")


def _check_single_reads(name: str, read_into: ReadInto, payload: Payload) -> None:
    out = np.empty(payload.patches.shape[1:], dtype=np.uint8)
    for number, rgb in enumerate(payload.patches):
        read_into(number, out)
        if not np.array_equal(out, rgb):
            raise RuntimeError(f"{name} gives other pixels for patch {number}")
