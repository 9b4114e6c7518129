"""Documents of the Zarr stores, as other Zarr libraries understand them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr

from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.stores.zarr_json import (
    ArrayShape,
    JsonObject,
    array_document,
    check_node_name,
    group_document,
    ome_document,
    own_attributes,
    patch_array_document,
    patch_attributes,
    pixel_array_document,
    read_document,
    sealed,
    write_document,
)

ZSTD: list[dict[str, object]] = [
    {"name": "bytes"},
    {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
]
LITTLE: list[dict[str, object]] = [{"name": "bytes", "configuration": {"endian": "little"}}]


def open_zarr(folder: Path) -> Any:
    return zarr.open_array(folder, mode="r+")


def open_tensorstore(folder: Path) -> Any:
    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}, open=True).result()


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def plain_document() -> JsonObject:
    outline = ArrayShape(shape=(5, 2), data_type="int64", chunk_shape=(4, 2))
    return array_document(outline, codecs=LITTLE, attributes={"note": "é"})


# --- arrays --------------------------------------------------------------------------------------------------------


def patches_document(*, n_patches: int = 10) -> JsonObject:
    attributes = patch_attributes(
        slide_id="s1", split="train", level=0, l0_per_px_xy=(1.0, 2.0), um_per_px_xy=(0.25, 0.5)
    )
    return patch_array_document(
        n_patches=n_patches, patch_wh_px=(6, 4), patches_per_shard=8, codecs=ZSTD, attributes=attributes
    )


def pixels_document() -> JsonObject:
    return pixel_array_document(size_wh_px=(2500, 130), codecs=ZSTD, attributes={})


@pytest.mark.parametrize(
    ("document", "shape", "dtype", "chunks", "shards"),
    [
        pytest.param(plain_document(), (5, 2), "int64", (4, 2), None, id="plain"),
        pytest.param(patches_document(), (10, 4, 6, 3), "uint8", (1, 4, 6, 3), (8, 4, 6, 3), id="patches"),
        pytest.param(patches_document(n_patches=0), (0, 4, 6, 3), "uint8", (1, 4, 6, 3), (8, 4, 6, 3), id="no patch"),
        pytest.param(pixels_document(), (3, 130, 2500), "uint8", (3, 128, 128), (3, 2048, 2048), id="pixels"),
    ],
)
def test_arrays_open_with_their_outline(
    tmp_path: Path,
    document: JsonObject,
    shape: tuple[int, ...],
    dtype: str,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
) -> None:
    write_document(tmp_path, document)
    array = open_zarr(tmp_path)
    assert (array.shape, array.dtype, array.chunks, array.shards) == (shape, np.dtype(dtype), chunks, shards)
    assert array.fill_value == 0
    other = open_tensorstore(tmp_path)
    assert (tuple(other.shape), other.dtype.numpy_dtype) == (shape, np.dtype(dtype))
    assert tuple(other.chunk_layout.read_chunk.shape) == chunks
    assert tuple(other.chunk_layout.write_chunk.shape) == (shards or chunks)


def test_axes_and_attributes_arrive(tmp_path: Path) -> None:
    write_document(tmp_path / "p", patches_document())
    array = open_zarr(tmp_path / "p")
    assert array.metadata.dimension_names == ("patch", "y", "x", "channel")
    own = array.attrs["wsi_extract"]
    assert (own["slide_id"], own["split"], own["level"]) == ("s1", "train", 0)
    assert (own["l0_per_px_xy"], own["um_per_px_xy"]) == ([1.0, 2.0], [0.25, 0.5])
    write_document(tmp_path / "a", plain_document())
    assert open_zarr(tmp_path / "a").attrs.asdict() == {"wsi_extract": {"note": "é"}}
    write_document(tmp_path / "b", pixels_document())
    assert open_zarr(tmp_path / "b").attrs.asdict() == {}
    assert open_tensorstore(tmp_path / "b").domain.labels == ("c", "y", "x")


def test_an_unknown_resolution_is_null() -> None:
    attributes = patch_attributes(slide_id="s", split="val", level=1, l0_per_px_xy=(4.0, 4.0), um_per_px_xy=None)
    assert attributes["um_per_px_xy"] is None


def test_other_libraries_write_shards_where_ours_lie(tmp_path: Path) -> None:
    write_document(tmp_path / "p", patches_document())
    open_zarr(tmp_path / "p")[...] = 7
    assert files_below(tmp_path / "p" / "c") == ["0/0/0/0", "1/0/0/0"]
    write_document(tmp_path / "0", pixels_document())
    open_zarr(tmp_path / "0")[:, :5, 2100:] = 7
    assert files_below(tmp_path / "0" / "c") == ["0/0/1"]


def test_chunks_of_pixels_hold_interleaved_rgb(tmp_path: Path) -> None:
    """The first chunk of a raw shard, read back from the bytes, is an image of 128 x 128 RGB pixels."""
    write_document(tmp_path, pixel_array_document(size_wh_px=(300, 200), codecs=[{"name": "bytes"}], attributes={}))
    image = np.random.default_rng(0).integers(1, 256, (200, 300, 3), dtype=np.uint8)
    open_zarr(tmp_path)[...] = image.transpose(2, 0, 1)
    data = (tmp_path / "c" / "0" / "0" / "0").read_bytes()
    index = np.frombuffer(data[-4 - 256 * 16 : -4], dtype="<u8").reshape(16, 16, 2)
    offset, n_bytes = index[0, 1].tolist()  # second chunk of the first row
    chunk = np.frombuffer(data[offset : offset + n_bytes], dtype=np.uint8).reshape(128, 128, 3)
    assert np.array_equal(chunk, image[:128, 128:256])
    assert np.array_equal(open_tensorstore(tmp_path).read().result(), image.transpose(2, 0, 1))


def test_chunks_must_fit_the_array() -> None:
    with pytest.raises(ValueError, match=r"\(0,\) do not fit an array of shape \(5,\)"):
        ArrayShape(shape=(5,), data_type="uint8", chunk_shape=(0,))
    with pytest.raises(ValueError, match="do not fit"):
        ArrayShape(shape=(5,), data_type="uint8", chunk_shape=(1, 1))


# --- groups and OME ------------------------------------------------------------------------------------------------


def test_groups_open_with_their_attributes(tmp_path: Path) -> None:
    write_document(tmp_path, group_document({"schema": 1}))
    write_document(tmp_path / "a", plain_document())
    group = zarr.open_group(tmp_path, mode="r")
    assert group.attrs.asdict() == {"wsi_extract": {"schema": 1}}
    assert list(group.array_keys()) == ["a"]


def test_an_ome_image_has_axes_units_and_colours(tmp_path: Path) -> None:
    write_document(tmp_path, ome_document(name="s1", um_per_px_xy=(0.25, 0.5), attributes={"schema": 1}))
    write_document(tmp_path / "0", pixels_document())
    group = zarr.open_group(tmp_path, mode="r")
    ome: Any = group.attrs["ome"]
    assert (ome["version"], group.attrs["wsi_extract"]) == ("0.5", {"schema": 1})
    (multiscale,) = ome["multiscales"]
    assert multiscale["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    (dataset,) = multiscale["datasets"]
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.5, 0.25]}]
    array: Any = group[dataset["path"]]
    assert array.metadata.dimension_names == tuple(axis["name"] for axis in multiscale["axes"])
    channels = ome["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert all(channel["active"] for channel in channels)
    assert channels[0]["window"] == {"min": 0.0, "max": 255.0, "start": 0.0, "end": 255.0}


def test_an_ome_image_of_unknown_resolution_has_no_unit() -> None:
    document: Any = ome_document(name="s1", um_per_px_xy=None, attributes={})
    (multiscale,) = document["attributes"]["ome"]["multiscales"]
    assert all("unit" not in axis for axis in multiscale["axes"])
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 1.0]


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "...", "__a", "zarr.json", "Zarr.JSON", "a/b"])
def test_names_that_zarr_keeps_for_itself_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name") as caught:
        check_node_name(name)
    assert repr(name) in caught.value.message
    assert "Rename" in caught.value.remedy


@pytest.mark.parametrize("name", ["a", "_a", "a__", ".a", "c1", "cc", "0", "zarr", "TCGA-1.2", "sé 1"])
def test_names_that_zarr_allows_pass_and_open(tmp_path: Path, name: str) -> None:
    check_node_name(name)
    write_document(tmp_path, group_document({}))
    write_document(tmp_path / name, plain_document())
    assert list(zarr.open_group(tmp_path, mode="r").array_keys()) == [name]


# --- seals ---------------------------------------------------------------------------------------------------------


def test_a_sealed_document_comes_back(tmp_path: Path) -> None:
    for number, document in enumerate((plain_document(), group_document({}), group_document({"a": [1, None, "é"]}))):
        folder = tmp_path / str(number)
        write_document(folder, sealed(document))
        own = own_attributes(read_document(folder))
        assert {key: own[key] for key in own if key != "sha256"} == (
            own_attributes(document) if document["attributes"] else {}
        )


def test_what_others_add_breaks_no_seal(tmp_path: Path) -> None:
    write_document(tmp_path, sealed(group_document({"schema": 1})))
    write_document(tmp_path / "a", sealed(plain_document()))
    zarr.open_group(tmp_path, mode="r+").attrs["note"] = "mine"
    open_zarr(tmp_path / "a").attrs["note"] = "mine"
    with pytest.warns(UserWarning, match="[Cc]onsolidated"):
        zarr.consolidate_metadata(tmp_path)
    for folder in (tmp_path, tmp_path / "a"):
        attributes: Any = read_document(folder)["attributes"]
        assert attributes["note"] == "mine"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"\xff{}", id="no text"),
        pytest.param(b'{"attributes": []}', id="attributes are a list"),
        pytest.param(b'{"attributes": {"wsi_extract": []}}', id="own attributes are a list"),
        pytest.param(b'{"attributes": {"wsi_extract": {}}}', id="no seal"),
        pytest.param(b'{"attributes": {"wsi_extract": {"sha256": NaN}}, "x": NaN}', id="not a number"),
    ],
)
def test_documents_of_others_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"zarr\.json"):
        read_document(tmp_path)


def test_a_missing_document_is_an_unfinished_store(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"zarr\.json is missing: the store was not finished"):
        read_document(tmp_path)


def test_every_flipped_bit_of_a_document_is_noticed(tmp_path: Path) -> None:
    write_document(tmp_path, sealed(group_document({"schema": 1, "slide": "s1"})))
    path = tmp_path / "zarr.json"
    data = path.read_bytes()
    for position in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
            with pytest.raises(IntegrityError, match=r"zarr\.json"):
                read_document(tmp_path)
    path.write_bytes(data)
    assert json.loads(data) == read_document(tmp_path)
