"""Slides wide enough for several shards, data sets of every store made from them, and damage to those stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from tests.helpers_run import CLASSES, Inputs
from tests.helpers_slides import write_ramp_slide
from tests.verify.helpers import Json, edit_json, edit_survey, rewrite_columns
from tests.verify.helpers_damage import Damage
from wsi_extract.disk.files import sha256_of_file, sha256_of_tree
from wsi_extract.geometry import Rect
from wsi_extract.model import Split
from wsi_extract.pixels import encode_pixel_document, read_pixel_document
from wsi_extract.state.layout import (
    INDEX,
    MANIFEST,
    index_folder,
    patch_array_folder,
    pixel_image_folder,
    pixel_record_path,
    pixel_shard_path,
    record_path,
    scene_folder,
)
from wsi_extract.state.plans import digest_of_coverage
from wsi_extract.state.records import encode_document, read_document
from wsi_extract.stores.arrays import read_array, write_array
from wsi_extract.stores.codecs import checksum_of
from wsi_extract.stores.shards import ShardReader, write_shard
from wsi_extract.stores.zarr_json import sealed, write_document
from wsi_extract.synthetic import AnnotatedSlide, AnnotationRow, write_coco, write_sliderunner

SIZES_WH = ((2304, 640), (2176, 512), (1600, 576))
"""Level 1 is a quarter of it, without a remainder; the first two are wider than a shard of pixels."""
SLIDE = "wide_2"
"""Its patches are for training."""

Chunks = dict[int, bytes]


def write_wide_inputs(folder: Path, *, n_slides: int = 3) -> Inputs:
    """Write ramp slides ``wide_1.svs`` ... with six mitoses and four look-alikes each."""
    slides: list[AnnotatedSlide] = []
    rows: list[AnnotationRow] = []
    for uid, (width, height) in enumerate(SIZES_WH[:n_slides], start=1):
        name = f"wide_{uid}.svs"
        write_ramp_slide(
            folder / "WSI" / name,
            width_px=width,
            height_px=height,
            tissue_l0=(Rect(x0=100, y0=100, x1=width, y1=height),),
            vendor="aperio",
        )
        slides.append(AnnotatedSlide(uid=uid, file_name=name, width_px=width, height_px=height))
        rng = np.random.default_rng(uid)
        for class_id, n in ((2, 6), (7, 4)):
            for number in range(n):
                # One of them shows only in patches that reach into the second shard of pixels.
                x = int(rng.integers(40, width - 40)) if number else width - 50
                y = int(rng.integers(40, height - 40))
                rows.append(AnnotationRow(uid=len(rows) + 1, slide_uid=uid, class_id=class_id, points_l0=((x, y),)))
    inputs = Inputs(folder=folder, slides=tuple(slides), annotations=tuple(rows))
    write_sliderunner(inputs.sqlite, slides=slides, classes=CLASSES, annotations=rows)
    write_coco(inputs.coco, slides=slides, classes=CLASSES, annotations=rows)
    return inputs


@contextmanager
def put_back(out: Path) -> Iterator[Path]:
    """Lend a data set to be damaged, and mend it afterwards; much faster than a copy of so many small files."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    try:
        yield out
    finally:
        for path in sorted(out.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path not in before:
                path.unlink()
        for path, content in before.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


def shard_path(out: Path, number: int = 0, *, slide_id: str = SLIDE) -> Path:
    """Return a shard of the patches for training."""
    return patch_array_folder(out, slide_id=slide_id, split=Split.TRAIN) / "c" / str(number) / "0" / "0" / "0"


def pixel_path(out: Path, column: int = 0) -> Path:
    """Return a shard of the pixels of `SLIDE`."""
    return pixel_shard_path(out, slide_id=SLIDE, row=0, column=column)


# --- damage to files


def in_shard(damage: Callable[[Path], object]) -> Damage:
    return lambda out: damage(shard_path(out))


def in_pixels(damage: Callable[[Path], object]) -> Damage:
    return lambda out: damage(pixel_path(out))


def swap(first: Path, second: Path) -> None:
    """Let two files change places."""
    ours, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs)
    second.write_bytes(ours)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put(name: str) -> Damage:
    """Add a file that nobody knows."""

    def damage(out: Path) -> None:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"{}")

    return damage


# --- damage that the records know of, so that only what is wrong with the content can be found


def rewrite_chunks(path: Path, change: Callable[[Chunks], object], *, n_chunks: int) -> Json:
    """Change the chunks of a shard, and return what its record must say of it now."""
    with ShardReader() as reader:
        chunks = {n: data for n in range(n_chunks) if (data := reader.read(str(path), n, n_chunks=n_chunks))}
    change(chunks)
    stored = write_shard(path, chunks.items(), n_chunks=n_chunks)
    return {"bytes": stored.n_bytes, "sha256": stored.sha256}


def patch_chunks(change: Callable[[Chunks], object]) -> Damage:
    """Change the chunks of the first shard of patches, and its record with them."""

    def damage(out: Path) -> None:
        facts = rewrite_chunks(shard_path(out), change, n_chunks=16)
        edit_block(out, lambda block: block["shard"].update(facts))

    return damage


def pixel_chunks(change: Callable[[Chunks], object]) -> Damage:
    """Change the chunks of the first shard of pixels, and its record with them."""

    def damage(out: Path) -> None:
        facts = rewrite_chunks(pixel_path(out), change, n_chunks=256)
        edit_pixel_record(out, lambda shard: shard.update(facts))

    return damage


def spoil_chunk(chunks: Chunks) -> None:
    number = min(chunks)
    data = bytearray(chunks[number])
    data[len(data) // 2] ^= 4
    chunks[number] = bytes(data)


def lose_chunk(chunks: Chunks) -> None:
    del chunks[min(chunks)]


def add_chunk(chunks: Chunks) -> None:
    free = next(number for number in range(len(chunks) + 1) if number not in chunks)
    chunks[free] = chunks[min(chunks)]


def swap_chunks(chunks: Chunks) -> None:
    first, second = min(chunks), max(chunks)
    chunks[first], chunks[second] = chunks[second], chunks[first]


def leave_gap(out: Path) -> None:
    """Put a byte behind the chunk that lies first in a shard; index and record know of it."""
    path, index_bytes = shard_path(out), 16 * 16 + 4
    data = path.read_bytes()
    offsets = np.frombuffer(data[-index_bytes:-4], dtype="<u8").reshape(16, 2).copy()
    offsets[offsets[:, 0] > 0, 0] += 1
    end = int(offsets[offsets[:, 0] == 0, 1][0])
    body = offsets.tobytes()
    path.write_bytes(data[:end] + b"\0" + data[end:-index_bytes] + body + checksum_of(body))
    facts = {"bytes": len(data) + 1, "sha256": sha256_of_file(path)}
    edit_block(out, lambda block: block["shard"].update(facts))


def edit_block(out: Path, change: Callable[[Json], object]) -> None:
    """Change the first record of `SLIDE` and give it a digest that fits."""
    path = record_path(out, slide_id=SLIDE, index=0)
    document = read_document(path)
    assert document is not None
    change(cast("Json", document))
    path.write_bytes(encode_document(document))


def edit_pixel_record(out: Path, change: Callable[[Json], object]) -> None:
    """Change the record of the first shard of pixels and give it a digest that fits."""
    path = pixel_record_path(out, slide_id=SLIDE, row=0, column=0)
    document = read_pixel_document(path)
    assert document is not None
    change(cast("Json", document))
    path.write_bytes(encode_pixel_document(document))


def block(change: Callable[[Json], object]) -> Damage:
    return lambda out: edit_block(out, change)


def pixel_record(change: Callable[[Json], object]) -> Damage:
    return lambda out: edit_pixel_record(out, change)


def array_folder(out: Path) -> Path:
    return patch_array_folder(out, slide_id=SLIDE, split=Split.TRAIN)


def image_folder(out: Path) -> Path:
    return pixel_image_folder(out, slide_id=SLIDE)


def pixel_array_folder(out: Path) -> Path:
    return image_folder(out) / "0"


def document(folder: Callable[[Path], Path], change: Callable[[Json], object], *, is_sealed: bool = True) -> Damage:
    """Change a ``zarr.json``; ``is_sealed`` says whether its own digest is made to fit."""

    def damage(out: Path) -> None:
        path = folder(out) / "zarr.json"
        content: Json = json.loads(path.read_bytes())
        change(content)
        write_document(path.parent, sealed(content) if is_sealed else content)

    return damage


def own(content: Json) -> Json:
    """Return what this program noted in a ``zarr.json``."""
    noted: Json = content["attributes"]["wsi_extract"]
    return noted


# --- the index and the scenes; the manifest knows of the change


def fit_index(out: Path) -> None:
    """State the digest that the index has now."""
    edit_json(out / MANIFEST, lambda manifest: manifest.update(index_sha256=sha256_of_tree(out / INDEX)))


def fitted(damage: Damage) -> Damage:
    def both(out: Path) -> None:
        damage(out)
        fit_index(out)

    return both


def split_index(out: Path) -> Path:
    return index_folder(out, split=Split.TRAIN)


def scene(out: Path) -> Path:
    return scene_folder(out, slide_id=SLIDE)


def column(name: str, change: Callable[[npt.NDArray[Any]], object], *, of: Callable[[Path], Path]) -> Damage:
    """Change an array of the index in place."""

    def damage(out: Path) -> None:
        rows = read_array(of(out) / name).copy()
        change(rows)
        write_array(of(out) / name, rows)

    return fitted(damage)


def add_to_first(value: float) -> Callable[[npt.NDArray[Any]], object]:
    def change(rows: npt.NDArray[Any]) -> None:
        rows[0] += value

    return change


def flip_first(rows: npt.NDArray[Any]) -> None:
    rows.flat[0] ^= 1


def recover(out: Path, change: Callable[[npt.NDArray[np.bool_]], object], *, also_scene: bool) -> None:
    """Change which chunks the plan of `SLIDE` wants, and the survey with it; on request the scene too."""
    facts: Json = {}

    def change_bits(columns: Json) -> None:
        height, width = columns["coverage_shape_hw"].tolist()
        bits = np.unpackbits(columns["coverage_bits"], count=height * width)
        coverage = bits.reshape(height, width).astype(np.bool_)
        change(coverage)
        columns["coverage_bits"] = np.packbits(coverage)
        facts.update(n_chunks=int(coverage.sum()), coverage_digest=digest_of_coverage(coverage))
        if also_scene:
            write_array(scene(out) / "coverage", coverage.astype(np.uint8))
            fit_index(out)

    rewrite_columns(out, change_bits, slide_id=SLIDE)
    edit_survey(out, lambda survey: survey.update(facts), slide_id=SLIDE)


def clear_all(coverage: npt.NDArray[np.bool_]) -> None:
    coverage[...] = False


def fill_all(coverage: npt.NDArray[np.bool_]) -> None:
    coverage[...] = True


def switch_store(out: Path, store: str) -> None:
    """Claim everywhere that the data set has another store."""
    for path in (out / MANIFEST, out / ".wsi_extract" / "run.json"):
        edit_json(path, lambda content: content["settings"].update(store=store))
