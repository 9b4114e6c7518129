"""The documents of the Zarr stores: what must stand in them, and what a foreign reader makes of it.

The foreign reader, zarr-python, is handed nothing but documents that are as they must be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zarr
from zarr.core.metadata.v3 import ArrayV3Metadata

from wsi_extract.state.layout import INDEX, PATCHES, PIXELS
from wsi_extract.storage import CodecName, Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.stores.zarr_json import DOCUMENT_NAME, JsonObject, group_document, read_document, sealed
from wsi_extract.verify.findings import Check, Findings, read_json_object
from wsi_extract.verify.manifest import Manifest

READ_BY_ZARR = frozenset({CodecName.ZSTD, CodecName.NONE})
"""Codecs that zarr-python knows without further packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayLayout:
    """What a foreign reader must find an array to be."""

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    dimension_names: tuple[str, ...]


def check_store_groups(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check the groups above the arrays, of all stores that the data set has."""
    for check, folder in _groups(output_dir, manifest):
        path = folder / DOCUMENT_NAME
        with findings.reading(check, path):
            document = read_json_object(path)
            findings.n_files += 1
            for key, value in group_document({}).items():
                if key != "attributes":
                    findings.expect(check, path, what=key, stated=document.get(key), found=value)


def _groups(output_dir: Path, manifest: Manifest) -> Iterator[tuple[Check, Path]]:
    store = manifest.settings.store
    yield Check.INDEX, output_dir / INDEX
    if store.has_patch_arrays:
        yield Check.ARRAYS, output_dir / PATCHES
        for split in sorted({split for slide in manifest.complete_slides for split in slide.splits}):
            yield Check.ARRAYS, output_dir / PATCHES / split.value
    if store is Store.PIXELS:
        yield Check.PIXELS, output_dir / PIXELS
        if manifest.complete_slides:
            yield Check.PIXELS, output_dir / INDEX / "slides"


def find_document_problems(folder: Path, expected: JsonObject) -> Iterator[str]:
    """Yield how the document at ``folder`` differs from what it must be; attributes of others are left alone.

    Raises
    ------
    IntegrityError
        When it is missing, damaged, or does not match its own digest.
    """
    found, due = read_document(folder), sealed(expected)
    for key in sorted(found.keys() | due.keys()):
        if key == "attributes":
            yield from _attribute_problems(found[key], due[key])
        elif found.get(key) != due.get(key):
            yield f"{key} is {found.get(key)!r}, must be {due.get(key)!r}"


def _attribute_problems(found: object, due: object) -> Iterator[str]:
    assert isinstance(found, Mapping)  # read_document and sealed see to it
    assert isinstance(due, Mapping)
    for name, value in due.items():
        if found.get(name) != value:
            yield f"the attribute {name} is {found.get(name)!r}, must be {value!r}"


def find_zarr_problems(array: zarr.Array[ArrayV3Metadata], *, layout: ArrayLayout) -> Iterator[str]:
    """Yield where zarr-python understands an array of pixels otherwise than this program."""
    names = getattr(array.metadata, "dimension_names", None)
    for what, found, due in (
        ("shape", array.shape, layout.shape),
        ("type", str(array.dtype), "uint8"),
        ("chunks", array.chunks, layout.chunk_shape),
        ("shards", array.shards, layout.shard_shape),
        ("axes", names, layout.dimension_names),
    ):
        if found != due:
            yield f"zarr-python finds {what} {found}, must be {due}"


def note_foreign_reader(codec: PixelCodec, *, findings: Findings) -> bool:
    """Tell whether zarr-python can read the codec; a report without its opinion says so."""
    if codec.name in READ_BY_ZARR:
        return True
    findings.note(f"chunks in {codec.name} were read by this program alone: zarr-python needs a package for that codec")
    return False
