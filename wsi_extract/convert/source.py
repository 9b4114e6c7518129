"""The data set that is converted: its manifest, which of its stores is read, and what its pixels went through.

Only finished data sets are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_extract.convert.options import ConvertRequest
from wsi_extract.dataset import SOURCES, PatchDataset, readable_stores
from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import RESTORE, InputError, IntegrityError
from wsi_extract.index import SplitIndex, read_index
from wsi_extract.model import Split
from wsi_extract.state.claim import CONVERSION
from wsi_extract.state.layout import COMPLETE, MANIFEST, record_path, run_path
from wsi_extract.state.records import BlockDocument, read_document
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.codecs import PixelCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSlide:
    """A complete slide."""

    slide_id: str
    fingerprint: str
    n_blocks: int
    n_patches: int
    splits: tuple[Split, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceDataset:
    """A finished data set to convert."""

    output_dir: Path
    manifest: Mapping[str, Any]
    run: Mapping[str, Any]
    """The content of its run.json."""
    sha256: str
    """Digest of the manifest but for its times: which data set this is."""
    store: Store
    """Its setting; see `read_store` for what is read."""
    codec: PixelCodec | None
    """``None`` where it holds PNG files only."""
    slides: tuple[SourceSlide, ...]
    """In plan order."""
    indexes: Mapping[Split, SplitIndex]
    """Of every split that the manifest names."""

    @property
    def read_store(self) -> Store:
        """The store that pixels are read from: the fastest, unless another one alone kept them unchanged."""
        return readable_stores(self.store, is_lossy=self.codec is not None and not self.codec.is_lossless)[0]

    @property
    def lossy_codecs(self) -> tuple[str, ...]:
        """The codecs that changed the pixels that are read, first to last; none where they equal the slides'."""
        earlier = self.manifest["run"].get(CONVERSION, {}).get("lossy_codecs", [])
        own = self.codec
        if own is None or own.is_lossless or self.read_store is Store.PNG:
            return tuple(earlier)
        return (*earlier, f"{own.name} {own.level}")

    @property
    def n_patches(self) -> int:
        """Patches in all splits."""
        return sum(slide.n_patches for slide in self.slides)

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return int(self.manifest["settings"]["patch_size"])

    def open_split(self, split: Split) -> PatchDataset:
        """Open a split for one thread; the index is shared."""
        index = self.indexes[split]
        source = SOURCES[self.read_store](self.output_dir, index=index)
        return PatchDataset(output_dir=self.output_dir, store=self.read_store, index=index, source=source)


def read_source(output_dir: Path) -> SourceDataset:
    """Read what a conversion needs to know of a data set.

    Raises
    ------
    InputError
        When the folder is no finished data set, or was written before there was an index.
    IntegrityError
        When it is damaged.
    """
    folder = output_dir.absolute()
    path = folder / MANIFEST
    manifest = _read_object(path)
    if manifest is None:
        raise InputError(
            f"{output_dir} is no finished data set: it has no {MANIFEST}.",
            "Give the output folder of an extraction; run an interrupted extraction again to finish it.",
        )
    if "index_sha256" not in manifest:
        raise InputError(f"{output_dir} was written by an older version: it has no index.", "Extract it again.")
    run = _read_object(run_path(folder))
    if run is None or not isinstance(run.get("settings"), dict):
        raise IntegrityError(f"{run_path(folder)} is missing or damaged.", "Run the extraction again.")
    try:
        settings = manifest["settings"]
        store = Store(settings["store"])
        return SourceDataset(
            output_dir=folder,
            manifest=manifest,
            run=run,
            sha256=sha256_of(canonical_json({**manifest, "run": None, "sha256": None})),
            store=store,
            codec=None
            if store is Store.PNG
            else PixelCodec(name=CodecName(settings["codec"]), level=settings["codec_level"]),
            slides=_complete_slides(manifest),
            indexes={Split(name): read_index(folder, Split(name)) for name in manifest["splits"]},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}.", "Run the extraction again.") from error


def _complete_slides(manifest: Mapping[str, Any]) -> tuple[SourceSlide, ...]:
    slides = [
        SourceSlide(
            slide_id=row["slide_id"],
            fingerprint=row["fingerprint"],
            n_blocks=row["n_blocks"],
            n_patches=row["n_written"],
            splits=tuple(Split(split) for split in row["splits"]),
        )
        for row in manifest["slides"]
        if row["status"] == COMPLETE
    ]
    return tuple(sorted(slides, key=lambda slide: slide.slide_id))


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, ``None`` when there is no such file."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}.", "Run the extraction again.") from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{path} is damaged: not an object.", "Run the extraction again.")
    return document


def documents_of_slide(source: SourceDataset, slide: SourceSlide) -> Iterator[BlockDocument]:
    """Yield the block records of a slide in plan order.

    Raises
    ------
    IntegrityError
        When one is missing, damaged, or that of another block, or when they hold another number of patches than the
        manifest says.
    """
    n_patches = 0
    for index in range(slide.n_blocks):
        path = record_path(source.output_dir, slide_id=slide.slide_id, index=index)
        document = read_document(path)
        if document is None or (document["slide_id"], document["index"]) != (slide.slide_id, index):
            raise IntegrityError(f"slide {slide.slide_id}: {path} is missing, or the record of another block.", RESTORE)
        n_patches += len(document["patches"])
        yield document
    if n_patches != slide.n_patches:
        raise IntegrityError(
            f"slide {slide.slide_id}: the records hold {n_patches:,} patches, but {MANIFEST} says {slide.n_patches:,}.",
            RESTORE,
        )


def refuse_same(source: SourceDataset, request: ConvertRequest) -> None:
    """Refuse a conversion that would change nothing.

    Raises
    ------
    InputError
        When the data set has the store asked for already, with the same codec and level.
    """
    settings = source.manifest["settings"]
    if all(settings.get(name) == value for name, value in request.settings.items()):
        codec = "" if source.codec is None else f", codec {source.codec.name} {source.codec.level}"
        raise InputError(f"{request.source_dir} has the store {source.store}{codec} already.", "Copy the folder.")
