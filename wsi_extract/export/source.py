"""Where exported patches come from: one split of a finished data set, as pixels or as PNG files."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wsi_extract.arrays import RgbImage
from wsi_extract.dataset import PatchDataset, open_dataset
from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import RESTORE, EnvironmentFaultError, InputError, IntegrityError
from wsi_extract.export.recorded import RecordedFiles
from wsi_extract.index import SplitIndex
from wsi_extract.model import Split
from wsi_extract.state.layout import MANIFEST, STATE, split_folder
from wsi_extract.storage import Store
from wsi_extract.stores.png import decode_png, encode_png

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_OVERHEAD_BYTES = 12
"""Of a chunk of a PNG file: length, type, checksum."""
HEADER_TYPE, END_TYPE = b"IHDR", b"IEND"
EIGHT_BIT_RGB = (8, 2)
"""Bit depth and colour type of the header."""


class Source(Protocol):
    """The patches of one split by their position in its index."""

    @property
    def index(self) -> SplitIndex:
        """The index of the split."""

    def pixels(self, i: int) -> RgbImage:
        """Return the pixels of a patch, ``(H, W, 3)`` uint8."""

    def png(self, i: int) -> bytes:
        """Return a patch as a PNG file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoDocument:
    """What the manifest says of the COCO document of a split."""

    sha256: str
    n_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedDataset:
    """What an export needs of the manifest of a data set."""

    output_dir: Path
    sha256: str
    """Digest of the manifest but for its times: which data set this is."""
    store: Store
    has_records: bool
    """Whether the records of the extraction are there, with the digests of all files of pixels."""
    documents: Mapping[Split, CocoDocument]
    """The splits of the data set."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoreSource:
    """Patches of a finished data set, from whichever store it has."""

    dataset: PatchDataset
    png_folder: Path | None
    """The split's PNG files where the data set has them: they are copied rather than made again."""
    recorded: RecordedFiles | None
    """What the files that are read are compared with; ``None`` where the records are not there."""

    @property
    def index(self) -> SplitIndex:
        """The index of the split."""
        return self.dataset.index

    def pixels(self, i: int) -> RgbImage:
        """Return the pixels of a patch, ``(H, W, 3)`` uint8.

        Raises
        ------
        IntegrityError
            When the patch is missing, damaged, or not the recorded one.
        EnvironmentFaultError
            When the machine cannot read it.
        """
        if self.dataset.store is Store.PNG and self.png_folder is not None:
            path, data = self._read_png(i, self.png_folder)
            try:
                return decode_png(data)
            except ValueError as error:
                raise IntegrityError(f"slide {self._slide_id(i)}: {path} is damaged: {error}.", RESTORE) from error
        if self.recorded is not None:
            try:
                self.recorded.check_shards(i)
            except OSError as error:
                raise _reading_fault(error, slide_id=self._slide_id(i)) from error
        return self.dataset.read(i)

    def png(self, i: int) -> bytes:
        """Return a patch as a PNG file, the data set's own where there is one.

        Raises
        ------
        IntegrityError
            When the patch is missing, damaged, or not the recorded one.
        EnvironmentFaultError
            When the machine cannot read it.
        """
        if self.png_folder is None:
            return encode_png(self.pixels(i))
        return self._read_png(i, self.png_folder)[1]

    def _read_png(self, i: int, folder: Path) -> tuple[Path, bytes]:
        path, slide_id = folder / self.index.file_name(i), self._slide_id(i)
        try:
            data = path.read_bytes()
            check_png(data, wh_px=self.index.patch_wh_px)
        except FileNotFoundError as error:
            raise IntegrityError(f"slide {slide_id}: the patch {path} is missing.", RESTORE) from error
        except ValueError as error:
            raise IntegrityError(f"slide {slide_id}: the patch {path} is damaged: {error}.", RESTORE) from error
        except OSError as error:
            raise _reading_fault(error, slide_id=slide_id) from error
        if self.recorded is not None:
            self.recorded.check_png(i, data, path=path)
        return path, data

    def _slide_id(self, i: int) -> str:
        return self.index.slides[int(self.index.slide[i])].slide_id


def read_finished(output_dir: Path) -> FinishedDataset:
    """Read what an export needs of the manifest of a data set.

    Raises
    ------
    InputError
        When the folder is no finished data set.
    IntegrityError
        When the manifest is damaged.
    """
    path = output_dir / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{output_dir} is no finished data set: it has no {MANIFEST}.",
            "Give the output folder of an extraction; run an interrupted extraction again to finish it.",
        ) from error
    try:
        document: dict[str, Any] = json.loads(data)
        return FinishedDataset(
            output_dir=output_dir,
            sha256=sha256_of(canonical_json({**document, "run": None, "sha256": None})),  # running again changes times
            store=Store(document["settings"].get("store", Store.PNG)),
            has_records=(output_dir / STATE).is_dir(),
            documents={
                Split(name): CocoDocument(sha256=entry["sha256"], n_images=entry["n_images"])
                for name, entry in document["splits"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}.", "Run the extraction again.") from error


def open_source(finished: FinishedDataset, split: Split) -> StoreSource:
    """Open one split of a finished data set.

    Raises
    ------
    IntegrityError
        When its index is missing, damaged, or not that of the manifest.
    """
    dataset = open_dataset(finished.output_dir, split)
    n_images = finished.documents[split].n_images
    if len(dataset) != n_images:
        raise IntegrityError(
            f"the index of {finished.output_dir} holds {len(dataset):,} patches of the split {split}, but its "
            f"{MANIFEST} says {n_images:,}.",
            "Run the extraction again.",
        )
    recorded = RecordedFiles(dataset.output_dir, index=dataset.index, store=dataset.store)
    return StoreSource(
        dataset=dataset,
        png_folder=dataset.output_dir / split_folder(split) if finished.store.has_png else None,
        recorded=recorded if finished.has_records else None,
    )


def _reading_fault(error: OSError, *, slide_id: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"slide {slide_id}: cannot read the data set: {error}.",
        "Check the disk or the network, then give the same command again.",
    )


def row_ranges(start: int, stop: int, *, size: int) -> Iterator[range]:
    """Cut ``[start, stop)`` into ranges of ``size`` rows; the last may be shorter.

    >>> list(row_ranges(2, 7, size=3))
    [range(2, 5), range(5, 7)]
    """
    for first in range(start, stop, size):
        yield range(first, min(first + size, stop))


def check_png(data: bytes, *, wh_px: tuple[int, int]) -> None:
    """Refuse what is not a whole 8-bit RGB PNG file of the given width and height.

    Checks the checksums that the format carries, at a twentieth of the cost of decoding: a copy of damaged bytes
    would pass for an export.

    Raises
    ------
    ValueError
        When the file is truncated or altered, or another kind of image.
    """
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError("not a PNG file")
    view, offset, kind = memoryview(data), len(PNG_SIGNATURE), b""
    while kind != END_TYPE:
        if offset + PNG_OVERHEAD_BYTES > len(data):
            raise ValueError("the file is truncated")
        n_bytes, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + PNG_OVERHEAD_BYTES + n_bytes
        if end > len(data) or zlib.crc32(view[offset + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("the file is truncated, or a checksum does not fit")
        if offset == len(PNG_SIGNATURE):
            _check_header(data, kind=kind, wh_px=wh_px)
        offset = end
    if offset != len(data):
        raise ValueError(f"{len(data) - offset} bytes follow the end of the image")


def _check_header(data: bytes, *, kind: bytes, wh_px: tuple[int, int]) -> None:
    header = struct.unpack_from(">IIBB", data, len(PNG_SIGNATURE) + 8) if kind == HEADER_TYPE else ()
    if header != (*wh_px, *EIGHT_BIT_RGB):
        raise ValueError(f"not an 8-bit RGB image of {wh_px[0]} x {wh_px[1]} px")
