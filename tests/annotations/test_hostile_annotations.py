"""Annotation files made to harm, or damaged: refused with a reason, within bounds of time and memory, or read right."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.annotations.test_builders import box, coco_document, load, make_slide, write_json
from tests.fuzz import annotations_json as fuzzed
from wsi_extract.annotations import AnnotationOptions, Reason, SourceSlide, read_source
from wsi_extract.annotations.json_file import parsed_bytes, read_json
from wsi_extract.annotations.names import match_slides
from wsi_extract.annotations.source import refuse_too_large
from wsi_extract.errors import AnnotationError

BOX = [100, 100, 50, 50]


def refusal(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_source(path)
    assert len(str(caught.value)) < 600 + 2 * len(str(path)), "a message shows what the file holds, but not all of it"
    return str(caught.value)


def refusal_of(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return refusal(path)


# --- what is no file -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_pipes_devices_folders_and_empty_files_are_refused_at_once(tmp_path: Path) -> None:
    pipe, link, empty = tmp_path / "pipe.json", tmp_path / "link.sqlite", tmp_path / "empty.json"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    empty.touch()
    assert "a named pipe, not a regular file" in refusal(pipe)
    assert "a device, not a regular file" in refusal(link)
    assert "a device, not a regular file" in refusal(Path("/dev/full"))
    assert "Is a directory" in refusal(tmp_path)
    assert "is empty" in refusal(empty)
    assert "no file can have that name" in refusal(Path("a\0b.json"))


def test_a_file_below_proc_is_refused() -> None:
    assert "cannot read the annotation file" in refusal(Path("/proc/self/mem"))


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{i + 1} '{f'&a{i};' * 10}'>" for i in range(30))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(f'<?xml version="1.0"?>{LAUGHS}]><a>&a30;</a>'.encode(), id="billion laughs"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///dev/zero">]><a>&x;</a>', id="external entity"),
        pytest.param(b"\xef\xbb\xbf  <ASAP_Annotations/>", id="byte-order mark"),
        pytest.param("<a/>".encode("utf-16"), id="UTF-16"),
    ],
)
def test_xml_is_refused_without_being_parsed(tmp_path: Path, data: bytes) -> None:
    assert "is XML, neither SQLite nor JSON" in refusal_of(tmp_path / "a.xml", data)


# --- JSON ----------------------------------------------------------------------------------------------------------

VALID = json.dumps(coco_document([box(1, BOX)]))
DOCUMENTS = {
    "UTF-16": (VALID.encode("utf-16"), "neither SQLite nor JSON"),
    "UTF-16 without mark": (VALID.encode("utf-16-le"), "not valid JSON"),
    "Latin-1": (VALID.replace("001", "\xe4").encode("latin-1"), "not valid JSON"),
    "NUL at the end": (VALID + "\0", "not valid JSON"),
    "two documents": (VALID + VALID, "not valid JSON"),
    "deep": ('{"images":' + "[" * 100_000, "not valid JSON"),
    "deep objects": ('{"images":' * 100_000, "not valid JSON"),
    "NaN": (VALID.replace("50]", "NaN]"), "NaN is not JSON"),
    "Infinity": (VALID.replace("50]", "-Infinity]"), "-Infinity is not JSON"),
    "more digits than Python reads": (VALID.replace("50]", "9" * 5000 + "]"), "not valid JSON"),
    "thousands of digits": (VALID.replace("50]", "9" * 4000 + "]"), "four numbers"),
    "1e400": (VALID.replace("50]", "1e400]"), "four numbers"),
    "a box as deep as can be": (VALID.replace("[100, 100, 50, 50]", "[" * 900 + "]" * 900), "four numbers"),
    "a long box": (VALID.replace("50]", "50" + ", 1" * 100_000 + "]"), "four numbers"),
    "a text box": (VALID.replace("[100, 100, 50, 50]", '"' + "x" * 100_000 + '"'), "four numbers"),
    "a key twice": (VALID[:-1] + ', "annotations": []}', "the key 'annotations' twice"),
    "a key twice in an annotation": (VALID.replace('"bbox"', '"bbox": [], "bbox"'), "the key 'bbox' twice"),
    "an id twice": (VALID.replace('"images": [', '"images": [{"id": 1, "file_name": "b"}, '), "more than once"),
    "an id of text": (VALID.replace('"id": 1', '"id": "1"'), "a whole number"),
    "an id that is true": (VALID.replace('"id": 1', '"id": true'), "a whole number"),
    "an id of 2**63": (VALID.replace('"id": 1', f'"id": {2**63}'), "a whole number"),
    "no id": (VALID.replace('"id": 1', '"ID": 1'), "id is missing"),
    "half a character": (VALID.replace("001.tiff", "\\ud800"), "surrogates not allowed"),
    "a name with NUL": (VALID.replace("001.tiff", "001\\u0000.tiff"), "no NUL"),
    "a name of 10 MB": (VALID.replace("001.tiff", "x" * 10_000_000), "4096 bytes"),
    "a class of 5 kB": (VALID.replace("not mitotic", "x" * 5000), "4096 bytes"),
    "a name that is a list": (VALID.replace('"001.tiff"', "[[]]"), "a text is needed"),
    "iscrowd 2": (VALID.replace('"bbox"', '"iscrowd": 2, "bbox"'), "0 or 1"),
    "iscrowd deep": (VALID.replace('"bbox"', f'"iscrowd": {"[" * 900}{"]" * 900}, "bbox"'), "0 or 1"),
    "annotations is an object": (VALID.replace('"annotations": [', '"annotations": {"a": [') + "}", "a list is needed"),
    "annotations are lists": (VALID.replace('"annotations": [', '"annotations": [[], '), "an object is needed"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("data", "message"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_that_are_refused(tmp_path: Path, data: bytes | str, message: str) -> None:
    assert message in refusal_of(tmp_path / "a.json", data)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for n_bytes in range(len(VALID)):
        refusal_of(tmp_path / "a.json", VALID[:n_bytes])


def test_values_that_only_hint_may_be_anything(tmp_path: Path) -> None:
    odd: list[Any] = [10**4000, -1, 0, 1e-320, True, None, "x", [[[]]], {}]
    for value in odd:
        document = coco_document(
            [box(1, BOX, area=value, segmentation=value)],
            images=[{"id": 1, "file_name": "001.tiff", "width": value, "height": value}],
            info=value,
        )
        loaded = load(write_json(tmp_path / "a.json", document), options=AnnotationOptions(bbox_format="xywh"))
        assert loaded.tables["001"].boxes_l0.tolist() == [[100, 100, 150, 150]]


def test_boxes_that_cannot_be_are_counted(tmp_path: Path) -> None:
    boxes = [BOX, [100, 100, -5, 5], [0, 0, 0, 0], [1e9, 1e9, 1e9, 1e9], [-1e9, 0, 5, 5], [-20, -20, 50, 50], None, []]
    document = coco_document([box(i, value) for i, value in enumerate(boxes)])
    loaded = load(write_json(tmp_path / "a.json", document), options=AnnotationOptions(bbox_format="xywh"))
    account = loaded.reconciliation
    assert [account.count(reason) for reason in (Reason.KEPT_TARGET, Reason.DEGENERATE, Reason.OUT_OF_SLIDE)] == [
        2,
        2,
        2,
    ]
    assert (account.count(Reason.NO_COORDINATES), account.n_read) == (2, 8)


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = {
    "absolute": ("/etc/passwd", None),
    "upwards": ("../../../../etc/001.svs.exe", None),
    "a device": ("/dev/zero", None),
    "a device of Windows": ("CON", None),
    "nothing but dots": ("../..", None),
    "blank": (" ", None),
    "line ends": ("001.tiff\n002.tiff", None),
    "an escape code": ("\x1b[2J001.tiff", None),
    "markup": ("[red]001.tiff[/red]", None),
    "quotes": ("\"001'.tiff", None),
    "backslashes": ("C:\\scans\\..\\001.TIFF", 0),
    "decomposed": ("u\u0308.tiff", 1),
    "upwards to a name": ("../../001.tiff", 0),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.values(), ids=NAMES)
def test_names_are_compared_and_never_opened(tmp_path: Path, name: str, expected: int | None) -> None:
    document = coco_document([box(1, BOX)], images=[{"id": 1, "file_name": name}])
    (slide,) = read_source(write_json(tmp_path / "a.json", document)).slides
    found = [[PurePath("/data/001.tiff")], [PurePath("/data/\u00fc.tiff")]]
    assert match_slides([slide], found=found, aliases=None, path="a.json") == (expected,)


def test_refusals_show_names_without_their_control_characters(tmp_path: Path) -> None:
    """The name of the file itself is the user's; what it holds is not."""
    document = coco_document(
        [box(1, BOX)],
        images=[{"id": 1, "file_name": "\x1b[2J\n.svs"}],
        classes=[(1, "\x1b]0;pwned\x07"), (2, "x\r\x9b")],
    )
    path = write_json(tmp_path / "a.json", document)
    for options in (
        None,
        AnnotationOptions(category_map={"1": "target"}),
        AnnotationOptions(category_map={"9": "target"}),
    ):
        with pytest.raises(AnnotationError) as caught:
            load(path, options=options)
        assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.timeout(60)
def test_thousands_of_slides_of_one_name_are_matched_by_their_folders() -> None:
    """In quadratic time this took minutes."""
    n = 3_000
    found = [[PurePath(f"/data/case{i}/slide.svs")] for i in range(n)]
    for folder in ("case", "D:\\scans\\CASE"):
        slides = [SourceSlide(uid=i, file_name="slide.svs", directory=f"{folder}{i}") for i in range(n)]
        assert match_slides(slides, found=found, aliases=None, path="a") == tuple(range(n))


def test_slides_without_annotations_and_annotations_without_slides(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": name} for i, name in enumerate(["001.tiff", "002.tiff", "001.TIF"], 1)]
    orphans: list[dict[str, object]] = [box(2, BOX, image_id=99), box(3, BOX, image_id=None), {"id": 4}]
    path = write_json(tmp_path / "a.json", coco_document([box(1, BOX), *orphans], images=images[:2]))
    options = AnnotationOptions(bbox_format="xywh")
    loaded = load(path, slides=[make_slide("001.tiff"), make_slide("002.tiff")], options=options)
    assert {slide_id: len(table) for slide_id, table in loaded.tables.items()} == {"001": 1, "002": 0}
    assert loaded.annotated == {"001"}
    assert (loaded.reconciliation.count(Reason.ORPHAN), loaded.reconciliation.n_read) == (3, 4)


# --- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(100)
def test_as_many_classes_as_are_allowed_take_no_time(tmp_path: Path) -> None:
    n = 10_000
    classes = [(i, f"class {i}") for i in range(1, n)]
    boxes = [box(i, BOX, category_id=i) for i in range(3 * n)]
    document = coco_document(boxes, classes=[*classes, (0, "mitotic figure")])
    loaded = load(write_json(tmp_path / "a.json", document), options=AnnotationOptions(bbox_format="xywh"))
    account = loaded.reconciliation
    assert (account.n_read, account.count(Reason.KEPT_TARGET), account.count(Reason.UNKNOWN_CLASS)) == (3 * n, 1, 2 * n)
    assert len(account.classes) == n + 100 + 1
    assert account.classes[-1].name == "19900 further classes not listed in the file"


def test_too_large_for_the_machine() -> None:
    refuse_too_large(Path("a.json"), needed_bytes=8e9, memory_bytes=10_000_000_000)
    with pytest.raises(
        AnnotationError, match=r"a\.json is too large: .* about 9\.0 GB of memory, this machine has 10\.0 GB"
    ):
        refuse_too_large(Path("a.json"), needed_bytes=9e9, memory_bytes=10_000_000_000)


SHAPES = {
    "annotations": json.dumps([box(i, [i, i, 50, 50], area=1.5, iscrowd=0) for i in range(2000)]),
    "empty lists": "[" + ",".join(["[]"] * 20_000) + "]",
    "lists of one": "[" + ",".join(["[1000]"] * 20_000) + "]",
    "empty objects": "[" + ",".join(["{}"] * 20_000) + "]",
    "objects of one": "[" + ",".join(['{"a":1e9}'] * 20_000) + "]",
    "numbers": "[" + ",".join(["1.5"] * 20_000) + "]",
    "large numbers": "[" + ",".join(["123456789123456789"] * 20_000) + "]",
    "short texts": json.dumps([f"a{i}" for i in range(20_000)]),
    "wide texts": json.dumps(["\U0001f600ab" * 3] * 20_000, ensure_ascii=False),
    "keys": json.dumps({f"key {i}": i for i in range(20_000)}),
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_the_estimate_of_memory_is_an_upper_bound(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    data = path.read_bytes()
    bound = parsed_bytes(data, text_bytes=text.__sizeof__())
    tracemalloc.start()
    try:
        read_json(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * bound + 100_000


# --- anything ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert fuzzed.check(data) is None


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def boxes_xywh() -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-100, 5000) | st.integers(-100, 5000), min_size=4, max_size=4)


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of objects with these values, each with an id of its own below 10."""
    one = st.fixed_dictionaries({"id": st.integers(-3, 9), **values})
    return st.lists(one, min_size=1, max_size=4, unique_by=lambda item: item["id"])


RIGHT = st.fixed_dictionaries(
    {
        "images": objects(file_name=st.sampled_from(["x", "y"]), width=st.just(4000), height=st.just(3000)),
        "categories": objects(name=st.sampled_from(["mitosis", "non-mitosis", "x"])),
        "annotations": objects(
            image_id=st.integers(-1, 10),
            category_id=st.integers(-1, 10),
            bbox=boxes_xywh(),
            area=NUMBERS,
            iscrowd=st.sampled_from([0, 1]),
            segmentation=st.lists(boxes_xywh(), max_size=2),
        ),
    }
)
KEYS = ["id", "file_name", "width", "name", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"]
CHANGES = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(KEYS), VALUES | st.just("absent")), max_size=2)


@given(RIGHT, CHANGES)
def test_any_document_of_roughly_the_right_shape_is_refused_or_read(
    document: dict[str, list[dict[str, Any]]], changes: list[tuple[int, str, Any]]
) -> None:
    used = coco_document(
        [box(10, BOX, image_id=10, category_id=10)],
        images=[{"id": 10, "file_name": "001.tiff"}],
        classes=[(10, "mitosis")],
    )
    document = {key: [*items, *used[key]] for key, items in document.items()}  # type: ignore[misc]
    for number, key, value in changes:
        having = [item for items in document.values() for item in items if key in item]
        if having and value == "absent":
            del having[number % len(having)][key]
        elif having:
            having[number % len(having)][key] = value
    loaded = fuzzed.check(json.dumps(document).encode())
    assert loaded is not None or changes
