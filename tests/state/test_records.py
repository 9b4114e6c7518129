"""The record of a block: what was written is what is read, and damage is found."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import IntegrityError
from wsi_extract.state.record_files import digest_in
from wsi_extract.state.records import (
    SCHEMA,
    BlockDocument,
    ShardEntry,
    check_repeated,
    encode_document,
    read_document,
    read_document_with_digest,
    without_files,
)

numbers = st.floats(0, 256, allow_nan=False)
labels = st.fixed_dictionaries(
    {
        "bbox": st.lists(numbers, min_size=4, max_size=4),
        "category_id": st.sampled_from([1, 2]),
        "iscrowd": st.sampled_from([0, 1]),
        "source_id": st.text(max_size=8),
    }
)
patches = st.fixed_dictionaries(
    {
        "row": st.integers(0, 10**6),
        "file_name": st.text(max_size=20),
        "bytes": st.integers(1, 10**7),
        "sha256": st.just("ab" * 32),
        "x_l0": st.integers(0, 10**6),
        "y_l0": st.integers(0, 10**6),
        "kind": st.just("mitosis"),
        "requested_kind": st.just("mitosis"),
        "anchor": st.none() | st.just("7.1"),
        "tissue_fraction": st.floats(0, 1),
        "labels": st.lists(labels, max_size=3),
    },
    optional={"look_alikes": st.lists(labels, max_size=2)},
)
documents: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {
        "schema": st.just(SCHEMA),
        "slide_id": st.text(max_size=10),
        "index": st.integers(0, 10**6),
        "split": st.sampled_from(["train", "val", "test"]),
        "plan_digest": st.just("cd" * 32),
        "patch_wh_px": st.just([256, 256]),
        "level": st.integers(0, 3),
        "l0_per_px_xy": st.lists(numbers, min_size=2, max_size=2),
        "um_per_px_xy": st.none() | st.just([0.25, 0.25]),
        "patches": st.lists(patches, max_size=3),
        "label_counts": st.dictionaries(st.sampled_from(["target_label", "target_crowd"]), st.integers(0, 9)),
    }
)


def example_document() -> BlockDocument:
    return {
        "schema": SCHEMA,
        "slide_id": "sé",
        "index": 3,
        "split": "train",
        "plan_digest": "cd" * 32,
        "patch_wh_px": [256, 256],
        "level": 0,
        "l0_per_px_xy": [1.0, 1.0],
        "um_per_px_xy": None,
        "patches": [
            {
                "row": 0,
                "file_name": "s/s_x0_y0.png",
                "bytes": 10,
                "sha256": "ab" * 32,
                "x_l0": 0,
                "y_l0": 0,
                "kind": "random",
                "requested_kind": "random",
                "anchor": None,
                "tissue_fraction": 0.1,
                "labels": [{"bbox": [1.5, 2.0, 30.0, 40.0], "category_id": 1, "iscrowd": 0, "source_id": '"7"'}],
            }
        ],
        "label_counts": {},
    }


@given(document=documents)
def test_documents_round_trip(tmp_path_factory: pytest.TempPathFactory, document: BlockDocument) -> None:
    path = tmp_path_factory.mktemp("records") / "000000.json"
    path.write_bytes(encode_document(document))
    assert read_document(path) == document


@given(document=documents)
def test_the_same_document_has_the_same_bytes(document: BlockDocument) -> None:
    data = encode_document(document)
    assert encode_document(json.loads(data)["block"]) == data


def test_a_missing_record_is_none(tmp_path: Path) -> None:
    assert read_document(tmp_path / "000000.json") is None


@settings(max_examples=400)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, position: float, bit: int) -> None:
    data = bytearray(encode_document(example_document()))
    data[int(position * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("records") / "000000.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=str(path)) as caught:
        read_document(path)
    assert caught.value.remedy


def test_every_truncation_is_found(tmp_path: Path) -> None:
    data = encode_document(example_document())
    path = tmp_path / "000000.json"
    for length in range(len(data) - 1):  # without its last byte, a line feed, nothing is lost
        path.write_bytes(data[:length])
        with pytest.raises(IntegrityError, match="damaged"):
            read_document(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"null", id="no object"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no block"),
        pytest.param(b'{"sha256":"0","block":{}}', id="another digest"),
        pytest.param(b'{"sha256":"0","block":{"schema":NaN}}', id="a number JSON cannot hold"),
        pytest.param(b'{"sha256":"0","block":{"slide_id":"\\ud800"}}', id="half a character"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b'{"sha256":"0","block":' + b"[" * 200_000, id="nested too deep"),
    ],
)
def test_what_is_no_record_is_an_integrity_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "000000.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=str(path)):
        read_document(path)


@pytest.mark.parametrize("block", [{"schema": SCHEMA + 1}, {}, [], "text"])
def test_a_record_of_another_program_is_refused_even_with_a_right_digest(tmp_path: Path, block: object) -> None:
    path = tmp_path / "000000.json"
    path.write_bytes(canonical_json({"sha256": sha256_of(canonical_json(block)), "block": block}))
    with pytest.raises(IntegrityError, match=str(path)):
        read_document(path)


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_a_record_that_was_formatted_anew_is_refused(tmp_path: Path, blank: str) -> None:
    # Its digest is over bytes: what says the same in other bytes was not written by this program.
    data = encode_document(example_document()).decode()
    path = tmp_path / "000000.json"
    path.write_text(data.replace(",", "," + blank), encoding="utf-8")
    with pytest.raises(IntegrityError, match="own digest"):
        read_document(path)


@given(document=documents)
def test_the_digest_is_that_of_the_canonical_document(document: BlockDocument) -> None:
    data = encode_document(document)
    body = canonical_json(document)
    assert data == canonical_json({"sha256": sha256_of(body)})[:-1] + b',"block":' + body + b"}\n"


@given(document=documents)
def test_the_digest_comes_with_the_document_and_stands_in_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, document: BlockDocument
) -> None:
    path = tmp_path_factory.mktemp("records") / "000000.json"
    path.write_bytes(encode_document(document))
    digest = sha256_of(canonical_json(document))
    assert read_document_with_digest(path) == (document, digest)
    assert digest_in(path.read_bytes()) == digest


# --- blocks that are written once more -----------------------------------------------------------------------------


def without_repeated_names(document: BlockDocument) -> BlockDocument:
    names = {patch["file_name"]: patch for patch in document["patches"]}
    return {**document, "patches": list(names.values())}


@given(document=documents)
def test_the_same_block_is_accepted_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, document: BlockDocument
) -> None:
    document = without_repeated_names(document)
    path = tmp_path_factory.mktemp("records") / "000000.json"
    check_repeated(document, path=path)  # there is no record yet
    path.write_bytes(encode_document(document))
    check_repeated(document, path=path)


@given(document=documents, other=documents)
def test_another_block_is_refused_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, document: BlockDocument, other: BlockDocument
) -> None:
    document, other = without_repeated_names(document), without_repeated_names(other)
    assume(canonical_json(document) != canonical_json(other))
    path = tmp_path_factory.mktemp("records") / "000000.json"
    path.write_bytes(encode_document(document))
    with pytest.raises(IntegrityError, match="determinism alarm") as caught:
        check_repeated(other, path=path)
    assert str(path) in caught.value.message
    assert str(path) in caught.value.remedy
    check_repeated({**other, "plan_digest": "ef" * 32}, path=path)  # of another plan


@pytest.mark.parametrize("record", [b"", b"{}", encode_document({**example_document(), "schema": SCHEMA + 1})])
def test_a_record_that_cannot_be_used_counts_as_none(tmp_path: Path, record: bytes) -> None:
    path = tmp_path / "000000.json"
    path.write_bytes(record)
    check_repeated(example_document(), path=path)


def test_files_that_only_one_of_two_records_tells_of_are_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "000000.json"
    shard: ShardEntry = {"number": 0, "n_rows": 4, "bytes": 7, "sha256": "ef" * 32}
    whole, bare = example_document(), without_files(example_document())
    of_arrays: BlockDocument = {**bare, "shard": shard}
    for known, now in ((bare, whole), (whole, bare), (whole, of_arrays), (of_arrays, whole)):
        path.write_bytes(encode_document(known))
        check_repeated(now, path=path)
