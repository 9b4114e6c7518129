"""The audit of Zarr stores and of the index names every kind of damage, finds nothing else, and never raises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers_run import Inputs, extract
from tests.verify.helpers import Json, edit_json
from tests.verify.helpers_damage import Damage, flip_byte, manifest, truncate
from tests.verify.helpers_stores import (
    SLIDE,
    add_chunk,
    add_to_first,
    array_folder,
    become_a_folder,
    block,
    clear_all,
    column,
    document,
    fill_all,
    fitted,
    flip_first,
    image_folder,
    in_pixels,
    in_shard,
    leave_gap,
    lose_chunk,
    own,
    patch_chunks,
    pixel_array_folder,
    pixel_chunks,
    pixel_path,
    pixel_record,
    put,
    put_back,
    recover,
    scene,
    shard_path,
    split_index,
    spoil_chunk,
    swap,
    swap_chunks,
    switch_store,
    write_wide_inputs,
)
from wsi_extract.state.layout import INDEX, PATCHES, PIXELS, STATE
from wsi_extract.verify import Check, audit

OPTIONS: dict[str, Json] = {
    "zarr": {"store": "zarr", "patch_size": 64, "patches_per_slide": 40},
    "both": {"store": "both", "patch_size": 64, "patches_per_slide": 40},
    "pixels": {"store": "pixels", "patch_size": 64, "patches_per_slide": 20},
}
RECORD = f"{STATE}/pixels/{SLIDE}/0_0.json"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_wide_inputs(tmp_path_factory.mktemp("input"), n_slides=2)


@pytest.fixture(scope="module")
def finished(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("finished")
    for name, options in OPTIONS.items():
        extract(inputs, folder / name, **options)
    return {name: folder / name for name in OPTIONS}


@pytest.mark.parametrize("store", OPTIONS)
def test_an_untouched_data_set_is_sound(finished: dict[str, Path], store: str) -> None:
    report = audit(finished[store])
    assert report.problems == ()
    assert report.notes == ()
    own_checks = {"zarr": {"arrays"}, "both": {"arrays", "patches"}, "pixels": {"pixels", "scenes"}}
    others = {"arrays", "patches", "pixels", "scenes", "comparison"} - own_checks[store]
    assert set(report.checks) == {check.value for check in Check} - others


ARRAYS = [
    ("flipped bit", in_shard(lambda path: flip_byte(path, position=0.3)), Check.ARRAYS,
     ("digest is not the recorded", ".png cannot be decoded")),
    ("flipped bit in the index", in_shard(lambda path: flip_byte(path, position=0.999)), Check.ARRAYS, "its index is"),
    ("truncated", in_shard(truncate), Check.ARRAYS, "bytes, recorded are"),
    ("absent", in_shard(Path.unlink), Check.ARRAYS, "missing, although a record"),
    ("a folder instead", in_shard(become_a_folder), Check.ARRAYS, "cannot be read"),
    ("two swapped", lambda out: swap(shard_path(out, 0), shard_path(out, 1)), Check.ARRAYS, "recorded are"),
    ("chunk spoilt", patch_chunks(spoil_chunk), Check.ARRAYS, ".png cannot be decoded"),
    ("gap between chunks", leave_gap, Check.ARRAYS, "leave gaps between them"),
    ("chunk lost", patch_chunks(lose_chunk), Check.ARRAYS, f"does not hold {SLIDE}/{SLIDE}_x"),
    ("record of another shard", block(lambda b: b["shard"].update(sha256="0" * 64)), Check.RECORDS, "pixels_sha256"),
    ("record without its shard", block(lambda b: b.pop("shard")), Check.RECORDS, "shards for store zarr"),
    ("record, number off", block(lambda b: b["shard"].update(number=7)), Check.RECORDS, "must count from 0"),
    ("record, room off", block(lambda b: b["shard"].update(n_rows=32)), Check.RECORDS, "must be equal"),
    ("record, room is text", block(lambda b: b["shard"].update(n_rows="x")), Check.RECORDS, "cannot be"),
    ("record with a PNG file", block(lambda b: b["patches"][0].update(bytes=3, sha256="00")), Check.RECORDS, "PNG"),
    ("document absent", lambda out: (array_folder(out) / "zarr.json").unlink(), Check.ARRAYS, "not finished"),
    ("document truncated", lambda out: truncate(array_folder(out) / "zarr.json"), Check.ARRAYS, "cannot be read"),
    ("shape edited", document(array_folder, lambda d: d["shape"].insert(0, 9), is_sealed=False),
     Check.ARRAYS, "own digest"),
    ("shape edited, sealed", document(array_folder, lambda d: d.update(shape=[39, 64, 64, 3])), Check.ARRAYS, "shape"),
    ("codec edited", document(array_folder, lambda d: d["codecs"][0]["configuration"]["codecs"].pop()),
     Check.ARRAYS, "codecs is"),
    ("axes edited", document(array_folder, lambda d: d.update(dimension_names=list("abcd"))), Check.ARRAYS, "names is"),
    ("note edited", document(array_folder, lambda d: own(d).update(level=3)), Check.ARRAYS, "attribute wsi_extract"),
    ("group absent", lambda out: (out / PATCHES / "train" / "zarr.json").unlink(), Check.ARRAYS, "missing"),
    ("group is an array", lambda out: edit_json(out / PATCHES / "zarr.json", lambda d: d.update(node_type="array")),
     Check.ARRAYS, "node_type"),
    ("foreign shard", put(f"{PATCHES}/train/{SLIDE}/c/9/0/0/0"), Check.ARRAYS, "belongs to no recorded patch"),
    ("foreign slide", put(f"{PATCHES}/train/nobody/c/0/0/0/0"), Check.FOLDER, "belongs to no slide"),
    ("slide in a foreign split", put(f"{PATCHES}/test/{SLIDE}/c/0/0/0/0"), Check.FOLDER, "belongs to no slide"),
    ("foreign file", put(f"{PATCHES}/notes"), Check.FOLDER, "belongs to no slide"),
    ("a PNG file", put(f"train2017/{SLIDE}/x.png"), Check.FOLDER, "no part of a data set of store zarr"),
    ("an image", put(f"{PIXELS}/{SLIDE}/zarr.json"), Check.FOLDER, "no part of a data set of store zarr"),
    ("a record of pixels", put(RECORD), Check.FOLDER, "no part of a data set of store zarr"),
    ("half-written shard", put(f"{PATCHES}/train/{SLIDE}/c/0/0/0/0.1.partial"), Check.FOLDER, "interrupted write"),
    ("settings, no level", manifest(lambda m: m["settings"].update(codec_level=99)), Check.MANIFEST, "without a codec"),
    ("settings, coverage", manifest(lambda m: m["settings"].update(coverage="tissue")), Check.MANIFEST, "coverage"),
    ("settings, no store", manifest(lambda m: m["settings"].update(store="tape")), Check.MANIFEST, "settings.store"),
    ("claims PNG files", lambda out: switch_store(out, "png"), Check.FOLDER, "no part of a data set of store png"),
    ("claims pixels", lambda out: switch_store(out, "pixels"), Check.PLANS, "coverage"),
    ("another codec", manifest(lambda m: m["settings"].update(codec="none", codec_level=0)), Check.ARRAYS, "codecs is"),
]  # fmt: skip

BOTH = [
    ("patches swapped", patch_chunks(swap_chunks), Check.ARRAYS, "differs from its PNG file"),
    ("record, PNG size off", block(lambda b: b["patches"][0].update(bytes=3)), Check.PATCHES, "recorded are 3"),
    ("record, no PNG digest", block(lambda b: b["patches"][0].pop("sha256")), Check.RECORDS, "digests of PNG files"),
]

IMAGES = [
    ("flipped bit", in_pixels(lambda path: flip_byte(path, position=0.3)), Check.PIXELS,
     ("digest is not the recorded", "cannot be decoded")),
    ("truncated", in_pixels(truncate), Check.PIXELS, "bytes, recorded are"),
    ("absent", in_pixels(Path.unlink), Check.PIXELS, "missing, although a record"),
    ("two swapped", lambda out: swap(pixel_path(out, 0), pixel_path(out, 1)), Check.PIXELS, "recorded are"),
    ("chunk spoilt", pixel_chunks(spoil_chunk), Check.PIXELS, "column"),
    ("chunk lost", pixel_chunks(lose_chunk), Check.PIXELS, "does not hold the chunk in row"),
    ("foreign chunk", pixel_chunks(add_chunk), Check.PIXELS, "which belongs to nothing"),
    ("record absent", lambda out: (out / RECORD).unlink(), Check.PIXELS, "missing"),
    ("record truncated", lambda out: truncate(out / RECORD), Check.PIXELS, "damaged"),
    ("record edited", pixel_record(lambda s: s.update(sha256="0" * 64)), Check.PIXELS, "digest is not the recorded"),
    ("record of another plan", pixel_record(lambda s: s.update(plan_digest="0")), Check.PIXELS, "plan_digest"),
    ("record of another shard", pixel_record(lambda s: s.update(shard=[4, 4])), Check.PIXELS, "shard: states"),
    ("record of other chunks", pixel_record(lambda s: s.update(chunks="ff" * 32)), Check.PIXELS, "that differ"),
    ("record of half the chunks", pixel_record(lambda s: s.update(chunks="ff")), Check.PIXELS, "cannot be read"),
    ("foreign record", put(f"{STATE}/pixels/{SLIDE}/9_9.json"), Check.PIXELS, "belongs to no part of the slide"),
    ("record of nobody", put(f"{STATE}/pixels/nobody/0_0.json"), Check.FOLDER, "belongs to no slide"),
    ("foreign shard", put(f"{PIXELS}/{SLIDE}/0/c/0/9/9"), Check.PIXELS, "belongs to no part of the slide"),
    ("foreign slide", put(f"{PIXELS}/nobody/0/c/0/0/0"), Check.FOLDER, "belongs to no slide"),
    ("array of patches", put(f"{PATCHES}/train/{SLIDE}/zarr.json"), Check.FOLDER, "no part of a data set of store pix"),
    ("array document absent", lambda out: (pixel_array_folder(out) / "zarr.json").unlink(), Check.PIXELS, "missing"),
    ("array shape", document(pixel_array_folder, lambda d: d.update(shape=[3, 512, 2175])), Check.PIXELS, "2176 level"),
    ("array codec", document(pixel_array_folder, lambda d: d.update(codecs=[])), Check.PIXELS, "cannot be read"),
    ("image document absent", lambda out: (image_folder(out) / "zarr.json").unlink(), Check.PIXELS, "missing"),
    ("resolution", document(image_folder, lambda d: d["attributes"]["ome"].update(version="0.4")), Check.PIXELS, "ome"),
    ("image note", document(image_folder, lambda d: own(d).update(level=1)), Check.PIXELS, "attribute wsi_extract"),
    ("group absent", lambda out: (out / PIXELS / "zarr.json").unlink(), Check.PIXELS, "missing"),
    ("coverage of the scene", lambda out: recover(out, clear_all, also_scene=False), Check.SCENES, "not that of"),
    ("patches uncovered", lambda out: recover(out, clear_all, also_scene=True), Check.SCENES,
     ("leaves the coverage", "chunks more than are stored")),
    ("coverage too large", lambda out: recover(out, fill_all, also_scene=True), Check.SCENES, "does not ask for"),
    ("more coverage asked for", manifest(lambda m: m["settings"].update(coverage="tissue")), Check.SCENES, "needs"),
    ("less coverage asked for", manifest(lambda m: m["settings"].update(coverage="planned")), Check.SCENES, "ask for"),
    ("scene absent", fitted(lambda out: shutil.rmtree(scene(out))), Check.SCENES, "missing"),
    ("domain", fitted(document(scene, lambda d: own(d)["domains"][0][1].reverse())), Check.SCENES, "domains are"),
    ("domain of another split", fitted(document(scene, lambda d: own(d)["domains"].append(["val", [0, 0, 9, 9]]))),
     Check.SCENES, "domains are"),
    ("group of the scene", fitted(document(scene, lambda d: own(d).update(group="x"))), Check.SCENES, "group is"),
    ("seed", fitted(document(scene, lambda d: own(d)["sampling"].update(seed=1))), Check.SCENES, "sampling is"),
    ("rules", fitted(document(scene, lambda d: own(d)["rules"].update(label_hard_negatives=True))),
     Check.SCENES, "rules is"),
    ("scale", fitted(document(scene, lambda d: own(d).update(scale_xy=[2.0, 2.0]))), Check.SCENES, "frame is"),
    ("mask", column("tissue_mask", flip_first, of=scene), Check.SCENES, "tissue mask is not"),
    ("annotation moved", column("annotation_boxes_l0", add_to_first(9), of=scene), Check.SCENES, "level-0 px off"),
    ("annotation, any change", column("annotation_class_id", add_to_first(1), of=scene), Check.SCENES, "digest of the"),
    ("annotation renamed", column("annotation_source_id", add_to_first(900), of=scene), Check.SCENES, "no annotations"),
    ("scene of nobody", put(f"{INDEX}/slides/nobody/zarr.json"), Check.FOLDER, "belongs to no slide"),
]  # fmt: skip

INDICES = [
    ("flipped bit", lambda out: flip_byte(split_index(out) / "kind" / "c" / "0", position=0.5), Check.INDEX, "sha256"),
    ("column absent", lambda out: shutil.rmtree(split_index(out) / "kind"), Check.INDEX, "missing"),
    ("split absent", fitted(lambda out: shutil.rmtree(split_index(out))), Check.INDEX, "missing"),
    ("all absent", lambda out: shutil.rmtree(out / INDEX), Check.INDEX, "missing"),
    ("digest off", manifest(lambda m: m.update(index_sha256="0")), Check.INDEX, "index_sha256"),
    ("no digest", manifest(lambda m: m.pop("index_sha256")), Check.MANIFEST, "index_sha256"),
    ("foreign column", put(f"{INDEX}/train/more/c/0"), Check.FOLDER, "belongs to no slide"),
    ("foreign split", put(f"{INDEX}/test/kind/c/0"), Check.FOLDER, "belongs to no slide"),
    ("foreign file", put(f"{INDEX}/notes"), Check.INDEX, "index_sha256"),
    ("scenes without pixels", put(f"{INDEX}/slides/{SLIDE}/zarr.json"), Check.FOLDER, "belongs to no slide"),
    ("patches moved", column("origins_l0", add_to_first(1), of=split_index), Check.INDEX, "patch 0: file_name"),
    ("kind", column("kind", lambda rows: rows.__setitem__(0, 3), of=split_index), Check.INDEX, "kind is 'grid'"),
    ("tissue", column("tissue_fraction", add_to_first(0.5), of=split_index), Check.INDEX, "tissue_fraction is"),
    ("boxes", column("boxes_xywh", add_to_first(0.25), of=split_index), Check.INDEX, "box 0: bbox is"),
    ("crowd", column("is_crowd", flip_first, of=split_index), Check.INDEX, "iscrowd is"),
    ("part", column("source_part", add_to_first(1), of=split_index), Check.INDEX, "source_id is"),
    ("category", column("category_id", add_to_first(1), of=split_index), Check.INDEX, "inconsistent"),
    ("categories", fitted(document(split_index, lambda d: own(d)["categories"].update({"1": "cell"}))),
     Check.INDEX, "categories are"),
    ("slide", fitted(document(split_index, lambda d: own(d)["slides"][0].update(level=3))), Check.INDEX, "level is 3"),
    ("patch size", fitted(document(split_index, lambda d: own(d).update(patch_wh_px=[9, 9]))), Check.INDEX, "patch_wh"),
    ("group", lambda out: edit_json(out / INDEX / "zarr.json", lambda d: d.update(node_type=1)), Check.INDEX, "node_t"),
]  # fmt: skip

CASES = [
    pytest.param(store, *case[1:], id=f"{store}: {case[0]}")
    for store, cases in (("zarr", ARRAYS), ("both", BOTH), ("pixels", IMAGES), ("zarr", INDICES))
    for case in cases
]


@pytest.mark.parametrize(("store", "damage", "check", "fragments"), CASES)
def test_damage_is_named(
    finished: dict[str, Path], store: str, damage: Damage, check: Check, fragments: str | tuple[str, ...]
) -> None:
    with put_back(finished[store]) as out:
        damage(out)
        report = audit(out)
    found = [problem.message for problem in report.problems if problem.check is check]
    for fragment in (fragments,) if isinstance(fragments, str) else fragments:
        assert any(fragment in message for message in found), report.problems
    assert not report.is_sound


def digested_files(out: Path) -> list[Path]:
    """Return the files in which no byte can change without a trace."""
    names = ("*.zarr/**/c/**/*", f"{INDEX}/**/*", f"{STATE}/pixels/**/*")
    return sorted({path for name in names for path in out.glob(name) if path.is_file()})


@settings(max_examples=15)
@given(data=st.data())
def test_no_changed_byte_stays_unseen(finished: dict[str, Path], data: st.DataObject) -> None:
    out = finished[data.draw(st.sampled_from(["zarr", "pixels"]), label="store")]
    path = data.draw(st.sampled_from(digested_files(out)), label="file")
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before) - 1), label="position")
    flip = data.draw(st.integers(1, 255), label="flip")
    try:
        path.write_bytes(before[:position] + bytes([before[position] ^ flip]) + before[position + 1 :])
        assert not audit(out).is_sound
    finally:
        path.write_bytes(before)


def refuse_abort(folder: Path) -> None:
    """Audit a folder; neither may an error come out, nor may one cut the audit short."""
    assert not [p for p in audit(folder).problems if p.check is Check.FOLDER and "cannot be read" in p.message]


@settings(max_examples=15)
@given(data=st.data())
def test_no_damage_raises(finished: dict[str, Path], data: st.DataObject) -> None:
    out = finished[data.draw(st.sampled_from(["zarr", "pixels"]), label="store")]
    files = sorted(path for name in ("*.zarr", f"{STATE}/pixels") for path in out.glob(f"{name}/**/*"))
    path = data.draw(st.sampled_from([path for path in files if path.is_file()]), label="file")
    before = path.read_bytes()
    start = data.draw(st.integers(0, len(before) - 1), label="start")
    stop = data.draw(st.integers(start, min(len(before), start + 40)), label="stop")
    value = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"null", b"-1", b"[]", b'"x"', b"1e999"])))
    try:
        path.write_bytes(before[:start] + value + before[stop:])
        refuse_abort(out)
    finally:
        path.write_bytes(before)


@settings(max_examples=15)
@given(data=st.data())
def test_no_malformed_json_raises(finished: dict[str, Path], data: st.DataObject) -> None:
    """Replace one value, anywhere in a document, by one of another type; digests are made to fit."""
    junk: st.SearchStrategy[Any] = st.sampled_from([None, True, -1, 10**30, 0.5, "x", "", [], {}, [[]], {"a": None}])
    value = data.draw(junk, label="value")

    def replace_somewhere(content: Any) -> None:
        while isinstance(content, dict | list) and content:
            keys = sorted(content) if isinstance(content, dict) else range(len(content))
            key = data.draw(st.sampled_from(list(keys)), label="key")
            inner = content[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans(), label="stop"):
                content[key] = value
                return
            content = inner

    store, damage = data.draw(
        st.sampled_from(
            [
                ("zarr", block(lambda b: replace_somewhere(b["shard"]))),
                ("pixels", pixel_record(replace_somewhere)),
                ("pixels", manifest(lambda m: replace_somewhere(m["settings"]))),
                *(("zarr", document(folder, replace_somewhere)) for folder in (array_folder, split_index)),
                *(("pixels", document(f, replace_somewhere)) for f in (pixel_array_folder, image_folder, scene)),
            ]
        ),
        label="document",
    )
    with put_back(finished[store]) as out:
        try:
            damage(out)
        except (KeyError, TypeError, AssertionError):  # without its attributes a document cannot be sealed
            return
        refuse_abort(out)


def test_a_failed_slide_may_leave_shards_but_nothing_that_opens(inputs: Inputs, tmp_path: Path) -> None:
    (inputs.wsi_dir / "broken.svs").write_bytes(b"II*\0 and nothing else")
    try:
        for store, name in (("zarr", f"{PATCHES}/train/broken"), ("pixels", f"{PIXELS}/broken/0")):
            out = tmp_path / store
            extract(inputs, out, store=store, patch_size=64, patches_per_slide=4)
            put(f"{name}/c/0/0/0")(out)
            if store == "pixels":
                put(f"{STATE}/pixels/broken/0_0.json")(out)
            assert audit(out).problems == ()
            put(f"{name}/zarr.json")(out)
            (problem,) = audit(out).problems
            assert "makes the pixels of a slide open" in problem.message
    finally:
        (inputs.wsi_dir / "broken.svs").unlink()
