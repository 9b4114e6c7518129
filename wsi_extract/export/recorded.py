"""Whether the files of pixels are still those that were recorded: a valid file of another data set has sound checksums.

Records are read slide by slide, when the first patch of a slide is asked for. A PNG file is compared when it is read,
a shard once, before its first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_extract.disk.files import sha256_of, sha256_of_file
from wsi_extract.errors import RESTORE, IntegrityError
from wsi_extract.index import SplitIndex
from wsi_extract.model import Split
from wsi_extract.pixels import read_pixel_document
from wsi_extract.state.layout import patch_shard_path, pixel_record_path, pixel_shard_path, record_path
from wsi_extract.state.records import BlockDocument, read_document
from wsi_extract.storage import Store
from wsi_extract.stores.zarr_json import PIXEL_SHARD_PX

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSlide:
    """What the records say of the files of one slide in one split."""

    png_digests: bytes
    """SHA-256 of the PNG files one after the other, by row; zeros where none was written."""
    n_rows: int
    """Patches a shard has room for; 0 where there are no arrays."""
    shards: Mapping[int, str]
    """SHA-256 of the shards by number."""


class RecordedFiles:
    """The recorded digests of the files of one split. Memory: 32 bytes per patch."""

    def __init__(self, output_dir: Path, *, index: SplitIndex, store: Store) -> None:
        self._output_dir = output_dir
        self._index = index
        self._split = Split(index.split)
        self._store = store
        self._slides: dict[int, RecordedSlide] = {}
        self._checked: set[Path] = set()

    def check_png(self, i: int, data: bytes, *, path: Path) -> None:
        """Refuse the content of a patch's PNG file when it is not the recorded one.

        Raises
        ------
        IntegrityError
            When it is another file, or there is no record of it.
        """
        start = int(self._index.row[i]) * DIGEST_BYTES
        recorded = self._slide(int(self._index.slide[i])).png_digests[start : start + DIGEST_BYTES]
        self._compare(i, path, found=sha256_of(data), recorded=recorded.hex())

    def check_shards(self, i: int) -> None:
        """Refuse the shards that hold a patch when they are not the recorded ones; reads each shard once.

        Raises
        ------
        IntegrityError
            When one is missing or another file, or there is no record of it.
        OSError
            When one cannot be read.
        """
        shards = self._pixel_shards(i) if self._store is Store.PIXELS else self._patch_shards(i)
        for path, recorded in shards:
            try:
                self._compare(i, path, found=sha256_of_file(path), recorded=recorded)
            except FileNotFoundError as error:
                raise IntegrityError(f"slide {self._slide_id(i)}: the shard {path} is missing.", RESTORE) from error
            self._checked.add(path)

    def _compare(self, i: int, path: Path, *, found: str, recorded: str | None) -> None:
        if found != recorded:
            raise IntegrityError(
                f"slide {self._slide_id(i)} ({self._split}): {path} is not the file that was recorded: its SHA-256 "
                "is another one.",
                RESTORE,
            )

    def _patch_shards(self, i: int) -> Iterator[tuple[Path, str | None]]:
        """Yield the shard of a patch and its digest, unless it was compared before."""
        slide = self._slide(int(self._index.slide[i]))
        number = int(self._index.row[i]) // slide.n_rows if slide.n_rows else 0
        path = patch_shard_path(self._output_dir, slide_id=self._slide_id(i), split=self._split, shard=number)
        if path not in self._checked:
            yield path, slide.shards.get(number)

    def _pixel_shards(self, i: int) -> Iterator[tuple[Path, str | None]]:
        """Yield the shards of the slide's pixels that a patch touches, and their digests; not those compared before."""
        slide_id = self._slide_id(i)
        scales = self._index.slides[int(self._index.slide[i])].l0_per_px_xy
        columns, rows = (
            range(start // PIXEL_SHARD_PX, (start + n_px - 1) // PIXEL_SHARD_PX + 1)
            for start, n_px in zip(
                (int(origin) // int(scale) for origin, scale in zip(self._index.origins_l0[i], scales, strict=True)),
                self._index.patch_wh_px,
                strict=True,
            )
        )
        for row in rows:
            for column in columns:
                path = pixel_shard_path(self._output_dir, slide_id=slide_id, row=row, column=column)
                if path in self._checked:
                    continue
                record = pixel_record_path(self._output_dir, slide_id=slide_id, row=row, column=column)
                document = read_pixel_document(record)
                if document is None or (document["slide_id"], document["shard"]) != (slide_id, [row, column]):
                    raise _no_record(record, slide_id=slide_id)
                yield path, document["sha256"]

    def _slide_id(self, i: int) -> str:
        return self._index.slides[int(self._index.slide[i])].slide_id

    def _slide(self, slide: int) -> RecordedSlide:
        if slide not in self._slides:
            self._slides[slide] = self._read_slide(slide)
        return self._slides[slide]

    def _read_slide(self, slide: int) -> RecordedSlide:
        """Read the block records of a slide, and refuse them when they name other patches than the index does."""
        slide_id = self._index.slides[slide].slide_id
        documents = list(_documents(self._output_dir, slide_id=slide_id, split=self._split))
        patches = [patch for document in documents for patch in document["patches"]]
        places = np.array([(patch["x_l0"], patch["y_l0"]) for patch in patches], dtype=np.int64).reshape(-1, 2)
        if not np.array_equal(self._index.origins_l0[self._index.slide == slide], places):
            folder = record_path(self._output_dir, slide_id=slide_id, index=0).parent
            raise IntegrityError(
                f"slide {slide_id}: the index and the records in {folder} name different patches of the split "
                f"{self._split}.",
                RESTORE,
            )
        shards = [document["shard"] for document in documents if "shard" in document]
        return RecordedSlide(
            png_digests=b"".join(bytes.fromhex(patch.get("sha256", "00" * DIGEST_BYTES)) for patch in patches),
            n_rows=shards[0]["n_rows"] if shards else 0,
            shards={shard["number"]: shard["sha256"] for shard in shards},
        )


def _documents(output_dir: Path, *, slide_id: str, split: Split) -> Iterator[BlockDocument]:
    """Yield the block records of a slide in one split in plan order."""
    number = 0
    while (document := read_document(record_path(output_dir, slide_id=slide_id, index=number))) is not None:
        if (document["slide_id"], document["index"]) != (slide_id, number):
            raise _no_record(record_path(output_dir, slide_id=slide_id, index=number), slide_id=slide_id)
        if document["split"] == split:
            yield document
        number += 1
    if not number:
        raise _no_record(record_path(output_dir, slide_id=slide_id, index=0), slide_id=slide_id)


def _no_record(path: Path, *, slide_id: str) -> IntegrityError:
    return IntegrityError(f"slide {slide_id}: {path} is missing, or the record of something else.", RESTORE)
