"""The ways to store patches that people use, each written and read as it usually is, one patch at a time.

A format is written once from pixels and their PNG files, and opened in the process that reads: what `open` returns
gives the pixels of a patch by its number. tensorstore is imported where it is used, because its threads do not
survive a fork.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import h5py
import lmdb
import numpy as np
import zarr
from PIL import Image

from wsi_extract.arrays import RgbImage

if TYPE_CHECKING:
    import tensorstore

ReadPatch = Callable[[int], RgbImage]
"""Returns the pixels of one patch ``(H, W, 3)``, which may be a view of memory the format owns."""
ReadBatch = Callable[[Sequence[int]], Sequence[RgbImage]]

PATCHES_PER_TAR = 250


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Payload:
    """What every format stores."""

    patches: RgbImage
    """(N, H, W, 3) uint8."""
    pngs: tuple[bytes, ...]
    """The patches as Pillow writes them by default."""

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFormat:
    """A format with random access. Functions are those of modules, so that loader processes can be sent a format."""

    name: str
    write: Callable[[Path, Payload], None]
    open: Callable[[Path], ReadPatch]
    open_batch: Callable[[Path], ReadBatch] | None = None
    """Reads a batch at once where the format's library reads it in parallel."""


def payload_of(patches: RgbImage) -> Payload:
    """Encode the PNG files that several formats hold: once, because they are the slowest part."""
    return Payload(patches=patches, pngs=tuple(_pillow_png(rgb) for rgb in patches))


def _pillow_png(rgb: RgbImage) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    return stream.getvalue()


def decode_with_pillow(data: bytes) -> RgbImage:
    """Return the pixels of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(data)))


def decode_with_opencv(data: bytes | memoryview) -> RgbImage:
    """Return the pixels of a PNG file, as RGB."""
    return _rgb_of(cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR))


def _rgb_of(bgr: cv2.typing.MatLike | None) -> RgbImage:
    if bgr is None:
        raise ValueError("not an image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


# --- memory-mapped array: the limit


def write_memmap(folder: Path, payload: Payload) -> None:
    """Write one NumPy file."""
    np.save(folder / "patches.npy", payload.patches)


def open_memmap(folder: Path) -> ReadPatch:
    """Map the file; a patch is a view of it."""
    array: RgbImage = np.load(folder / "patches.npy", mmap_mode="r")
    return lambda number: np.asarray(array[number])


# --- a folder of PNG files


def write_png_folder(folder: Path, payload: Payload) -> None:
    """Write one file per patch."""
    for number, png in enumerate(payload.pngs):
        (folder / f"{number:06d}.png").write_bytes(png)


def open_png_with_pillow(folder: Path) -> ReadPatch:
    """Read as torchvision and most scripts do."""
    return lambda number: np.asarray(Image.open(folder / f"{number:06d}.png").convert("RGB"))


def open_png_with_opencv(folder: Path) -> ReadPatch:
    """Read with OpenCV."""
    return lambda number: _rgb_of(cv2.imread(str(folder / f"{number:06d}.png")))


# --- HDF5


def write_hdf5_lzf(folder: Path, payload: Payload) -> None:
    """Write one data set, one patch per chunk, compressed with LZF."""
    with h5py.File(folder / "patches.h5", "w") as file:
        chunks = (1, *payload.patches.shape[1:])
        file.create_dataset("images", data=payload.patches, chunks=chunks, compression="lzf")


def open_hdf5(folder: Path) -> ReadPatch:
    """Open the file in the process that reads."""
    images = h5py.File(folder / "patches.h5", "r")["images"]
    return lambda number: np.asarray(images[number])


# --- LMDB


def write_lmdb_png(folder: Path, payload: Payload) -> None:
    """Write the PNG files as values."""
    _write_lmdb(folder, payload.pngs, side_px=payload.patches.shape[1])


def write_lmdb_raw(folder: Path, payload: Payload) -> None:
    """Write the pixels as values."""
    _write_lmdb(folder, [rgb.tobytes() for rgb in payload.patches], side_px=payload.patches.shape[1])


def _write_lmdb(folder: Path, values: Sequence[bytes], *, side_px: int) -> None:
    map_bytes = 2 * sum(len(value) for value in values) + 64 * 2**20
    with lmdb.open(str(folder), map_size=map_bytes) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(f"{number:06d}".encode(), value)
        transaction.put(b"__side__", str(side_px).encode())


def open_lmdb_png(folder: Path) -> ReadPatch:
    """Decode with OpenCV, straight from the mapped file."""
    get = _open_lmdb(folder)
    return lambda number: decode_with_opencv(get(f"{number:06d}"))


def open_lmdb_raw(folder: Path) -> ReadPatch:
    """Return views of the mapped file."""
    get = _open_lmdb(folder)
    side = int(bytes(get("__side__")))
    return lambda number: np.frombuffer(get(f"{number:06d}"), np.uint8).reshape(side, side, 3)


def _open_lmdb(folder: Path) -> Callable[[str], memoryview]:
    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    transaction = environment.begin(buffers=True)

    def get(key: str) -> memoryview:
        value = transaction.get(key.encode())
        if not isinstance(value, memoryview):
            raise KeyError(key)
        return value

    return get


# --- other readers of this package's patch store


def open_with_zarr_python(folder: Path) -> ReadPatch:
    """Index the array one patch at a time, as its documentation does."""
    array = zarr.open_array(str(folder), mode="r")
    return lambda number: np.asarray(array[number])


def _tensorstore_array(folder: Path) -> tensorstore.TensorStore:
    import tensorstore  # noqa: PLC0415  # see the module's docstring

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}{os.sep}"}}
    return tensorstore.open(spec, read=True).result()


def open_with_tensorstore(folder: Path) -> ReadPatch:
    """Read one patch and wait for it."""
    array = _tensorstore_array(folder)
    return lambda number: np.asarray(array[number].read().result(), dtype=np.uint8)


def open_batch_with_tensorstore(folder: Path) -> ReadBatch:
    """Ask for all patches of a batch, then wait: the library reads them in parallel."""
    array = _tensorstore_array(folder)

    def read(numbers: Sequence[int]) -> list[RgbImage]:
        futures = [array[number].read() for number in numbers]
        return [np.asarray(future.result(), dtype=np.uint8) for future in futures]

    return read


# --- WebDataset: sequential


def write_webdataset(folder: Path, payload: Payload) -> None:
    """Write tar files of PNG files."""
    for start in range(0, len(payload), PATCHES_PER_TAR):
        with tarfile.open(folder / f"{start // PATCHES_PER_TAR:04d}.tar", "w") as tar:
            for number, png in enumerate(payload.pngs[start : start + PATCHES_PER_TAR], start):
                entry = tarfile.TarInfo(f"{number:06d}.png")
                entry.size = len(png)
                tar.addfile(entry, io.BytesIO(png))


PEERS = (
    PatchFormat(name="memory-mapped array (limit)", write=write_memmap, open=open_memmap),
    PatchFormat(name="PNG folder, Pillow", write=write_png_folder, open=open_png_with_pillow),
    PatchFormat(name="PNG folder, OpenCV", write=write_png_folder, open=open_png_with_opencv),
    PatchFormat(name="HDF5 lzf, h5py", write=write_hdf5_lzf, open=open_hdf5),
    PatchFormat(name="LMDB of PNG, OpenCV", write=write_lmdb_png, open=open_lmdb_png),
    PatchFormat(name="LMDB of raw pixels", write=write_lmdb_raw, open=open_lmdb_raw),
)
