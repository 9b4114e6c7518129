"""The documents (``zarr.json``) of the Zarr v3 stores: groups, plain arrays, patch arrays, pixel arrays, OME-Zarr 0.5.

Pure but for `write_document` and `read_document`. Knows shapes and axes; codec chains are handed in as JSON values.
Axis order is that of the array: ``(patch, y, x, channel)`` for patches, ``(c, y, x)`` for whole slides, as OME asks.
Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wsi_extract.disk.files import canonical_json, pretty_json, sha256_of, write_atomically
from wsi_extract.errors import InputError, IntegrityError

JsonObject: TypeAlias = dict[str, object]

DOCUMENT_NAME = "zarr.json"
OWN_ATTRIBUTES = "wsi_extract"
"""The key under which everything this package notes of a node stands."""
PIXEL_ARRAY = "0"
"""Name of the one array of an OME-Zarr image: its full resolution."""
PIXEL_CHUNK_PX = 128
PIXEL_SHARD_PX = 2048
"""Sides of the chunks and shards of a pixel array; 16 x 16 chunks lie in a shard."""

_SEAL = "sha256"
_UNSEALED = ("attributes", "consolidated_metadata", "storage_transformers")
"""What other programs may add to a document without changing what it describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayShape:
    """The outline of an array."""

    shape: tuple[int, ...]
    data_type: str
    """NumPy's name of the type, which is Zarr's: ``uint8``, ``float64``."""
    chunk_shape: tuple[int, ...]
    """Of the unit of storage: the chunk, or the shard where there are any."""
    dimension_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.chunk_shape) or any(side < 1 for side in self.chunk_shape):
            raise ValueError(f"chunks of shape {self.chunk_shape} do not fit an array of shape {self.shape}")


def check_node_name(slide_id: str) -> None:
    """Refuse a slide id that cannot be the name of a node in a Zarr hierarchy.

    Raises
    ------
    InputError
        When it is empty, holds a slash, consists of periods only, begins with ``__``, or is ``zarr.json``.
    """
    folded = slide_id.casefold()
    is_reserved = folded.startswith("__") or folded == DOCUMENT_NAME
    if "/" in slide_id or not slide_id.strip(".") or is_reserved:
        raise InputError(
            f"the slide id {slide_id!r} cannot be the name of an array in a Zarr store.",
            "Rename the slide file, or write PNG files with --store png.",
        )


def group_document(attributes: Mapping[str, object]) -> JsonObject:
    """Return the document of a group; ``attributes`` are what this package notes of it."""
    return {"zarr_format": 3, "node_type": "group", "attributes": _own(attributes)}


def array_document(
    outline: ArrayShape, *, codecs: Sequence[Mapping[str, object]], attributes: Mapping[str, object]
) -> JsonObject:
    """Return the document of an array with fill value 0.

    Parameters
    ----------
    outline
        Shape, type, chunks, names of the axes.
    codecs
        Codec documents, from the array to the bytes.
    attributes
        What this package notes of the array; may be empty.
    """
    document: JsonObject = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(outline.shape),
        "data_type": outline.data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(outline.chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if outline.data_type.startswith("float") else 0,
        "codecs": [dict(codec) for codec in codecs],
        "attributes": _own(attributes),
    }
    if outline.dimension_names is not None:
        document["dimension_names"] = list(outline.dimension_names)
    return document


def patch_array_document(
    *,
    n_patches: int,
    patch_wh_px: tuple[int, int],
    patches_per_shard: int,
    codecs: Sequence[Mapping[str, object]],
    attributes: Mapping[str, object],
) -> JsonObject:
    """Return the document of the patches of one slide and split: ``(n, H, W, 3)`` uint8, one patch per chunk.

    Shard ``k`` is the file ``c/<k>/0/0/0`` and holds the rows from ``k * patches_per_shard``.

    Parameters
    ----------
    n_patches, patch_wh_px, patches_per_shard
        Outline of the array.
    codecs
        The chain from one patch ``(1, H, W, 3)`` to the bytes of its chunk.
    attributes
        What this package notes of the array, see `patch_attributes`.
    """
    width, height = patch_wh_px
    outline = ArrayShape(
        shape=(n_patches, height, width, 3),
        data_type="uint8",
        chunk_shape=(patches_per_shard, height, width, 3),
        dimension_names=("patch", "y", "x", "channel"),
    )
    sharding = _sharding_codec((1, height, width, 3), codecs=codecs)
    return array_document(outline, codecs=[sharding], attributes=attributes)


def patch_attributes(
    *,
    slide_id: str,
    split: str,
    level: int,
    l0_per_px_xy: tuple[float, float],
    um_per_px_xy: tuple[float, float] | None,
) -> JsonObject:
    """Return what a patch array says of itself to those who open it with any Zarr library."""
    return {
        "schema": 1,
        "slide_id": slide_id,
        "split": split,
        "axes": "patch number within slide and split, y down, x right, RGB",
        "level": level,
        "l0_per_px_xy": list(l0_per_px_xy),
        "um_per_px_xy": None if um_per_px_xy is None else list(um_per_px_xy),
    }


def pixel_array_document(
    *, size_wh_px: tuple[int, int], codecs: Sequence[Mapping[str, object]], attributes: Mapping[str, object]
) -> JsonObject:
    """Return the document of a slide's pixels: ``(3, H, W)`` uint8, of which chunks hold interleaved RGB.

    OME-Zarr wants the channels first; a transpose turns each chunk into ``(y, x, c)``, so that its bytes are an RGB
    image. Chunk number within a shard: row * 16 + column.

    Parameters
    ----------
    size_wh_px
        Size of the level that was read.
    codecs
        The chain from an RGB image ``(128, 128, 3)`` to the bytes of its chunk.
    attributes
        What this package notes of the array; may be empty.
    """
    width, height = size_wh_px
    outline = ArrayShape(
        shape=(3, height, width),
        data_type="uint8",
        chunk_shape=(3, PIXEL_SHARD_PX, PIXEL_SHARD_PX),
        dimension_names=("c", "y", "x"),
    )
    transpose: JsonObject = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
    sharding = _sharding_codec((3, PIXEL_CHUNK_PX, PIXEL_CHUNK_PX), codecs=[transpose, *codecs])
    return array_document(outline, codecs=[sharding], attributes=attributes)


def ome_document(
    *, name: str, um_per_px_xy: tuple[float, float] | None, attributes: Mapping[str, object]
) -> JsonObject:
    """Return the document of an OME-Zarr 0.5 image: a group with one array of axes c, y, x that viewers show as RGB.

    Parameters
    ----------
    name
        Name that viewers show.
    um_per_px_xy
        Physical size of a pixel; without it axes have no unit and pixels the size 1.
    attributes
        What this package notes of the image.
    """
    um_per_px_x, um_per_px_y = um_per_px_xy or (1.0, 1.0)
    unit = {"unit": "micrometer"} if um_per_px_xy is not None else {}
    scale: JsonObject = {"type": "scale", "scale": [1.0, um_per_px_y, um_per_px_x]}
    multiscale: JsonObject = {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", **unit} for axis in "yx")],
        "datasets": [{"path": PIXEL_ARRAY, "coordinateTransformations": [scale]}],
    }
    channels = [_channel(label, color=color) for label, color in (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))]
    omero: JsonObject = {"channels": channels, "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"}}
    document = group_document({})
    document["attributes"] = {
        "ome": {"version": "0.5", "multiscales": [multiscale], "omero": omero},
        **_own(attributes),
    }
    return document


def write_document(folder: Path, document: Mapping[str, object]) -> None:
    """Write the document of the node at ``folder``, whole or not at all. Written last, it makes the node exist."""
    write_atomically(folder / DOCUMENT_NAME, pretty_json(document))


def sealed(document: JsonObject) -> JsonObject:
    """Return the document with a digest of what it describes among its attributes, for `read_document`."""
    attributes = document["attributes"]
    assert isinstance(attributes, dict)
    own = {**attributes.get(OWN_ATTRIBUTES, {}), _SEAL: _digest(document)}
    return {**document, "attributes": {**attributes, OWN_ATTRIBUTES: own}}


def read_document(folder: Path) -> JsonObject:
    """Return the sealed document of the node at ``folder``.

    Attributes that others added are accepted; a changed shape, codec or own attribute is not.

    Raises
    ------
    IntegrityError
        When it is missing, damaged or was not written by `sealed`.
    """
    path = folder / DOCUMENT_NAME
    try:
        document: JsonObject = json.loads(path.read_bytes())
        is_whole = own_attributes(document)[_SEAL] == _digest(document)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing: the store was not finished.", "Run the extraction again.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}.", "Run the extraction again.") from error
    if not is_whole:
        raise IntegrityError(f"{path} does not match its own digest.", "Run the extraction again.")
    return document


def own_attributes(document: Mapping[str, object]) -> JsonObject:
    """Return what this package noted of a node; raises KeyError or TypeError when the document holds nothing of it."""
    attributes = document["attributes"]
    if not isinstance(attributes, dict) or not isinstance(attributes[OWN_ATTRIBUTES], dict):
        raise TypeError("attributes must be a JSON object")
    own: JsonObject = attributes[OWN_ATTRIBUTES]
    return own


def _own(attributes: Mapping[str, object]) -> JsonObject:
    return {OWN_ATTRIBUTES: dict(attributes)} if attributes else {}


def _digest(document: Mapping[str, object]) -> str:
    attributes = document["attributes"]
    own = attributes.get(OWN_ATTRIBUTES, {}) if isinstance(attributes, dict) else {}
    described = {key: value for key, value in document.items() if key not in _UNSEALED}
    return sha256_of(canonical_json([described, {key: value for key, value in own.items() if key != _SEAL}]))


def _sharding_codec(chunk_shape: tuple[int, ...], *, codecs: Sequence[Mapping[str, object]]) -> JsonObject:
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunk_shape),
            "codecs": [dict(codec) for codec in codecs],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        },
    }


def _channel(label: str, *, color: str) -> JsonObject:
    return {
        "label": label,
        "color": color,
        "active": True,
        "coefficient": 1.0,
        "family": "linear",
        "inverted": False,
        "window": {"min": 0.0, "max": 255.0, "start": 0.0, "end": 255.0},
    }
