"""Write generated slides and annotations: the demo data set, and the pieces that tests and benchmarks need.

Slides are Aperio-style pyramids; annotations come as a SlideRunner database and as COCO-like JSON. The same arguments
give the same bytes. Coordinates are level-0 px. Knows nothing of patches, splits or run settings.
"""

from __future__ import annotations

import json
import math
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import imagecodecs
import numpy as np
import tifffile

from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError
from wsi_extract.files import atomic_writer, write_atomically
from wsi_extract.synthetic_slide import (
    BAND_TILES,
    CellKind,
    HeSlideSpec,
    PenMarks,
    PlacedCell,
    Scene,
    compose_scene,
    draw_band,
)

DOWNSAMPLES = (1, 4, 16)
"""Levels of a generated slide; a level has ``floor(size / downsample)`` pixels, as Aperio writes it."""
SPOT_RADIUS_PX = 25
"""Half side of the box that the published data sets put around a spot."""

BboxFormatName: TypeAlias = Literal["xyxy", "xywh"]

_LIBRARY = "Aperio Image Library v12.0.15"
_SUBSAMPLING_FACTORS = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


# --- slides


@dataclass(slots=True)
class _LowerLevels:
    """What is kept of the bands already drawn: the next level encoded, the one after it as pixels."""

    tiles_4: list[bytes]
    rows_16: list[RgbImage]


def _encode(rgb: RgbImage, *, spec: HeSlideSpec) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(rgb),
            level=spec.quality,
            colorspace="rgb",
            outcolorspace="ycbcr",
            subsampling=spec.chroma_subsampling,
        )
    )


def _encode_tile_row(rgb: RgbImage, *, n_tiles: int, spec: HeSlideSpec) -> Iterator[bytes]:
    t = spec.tile_px
    for column in range(n_tiles):
        yield _encode(rgb[:, column * t : (column + 1) * t], spec=spec)


def _shrink(rgb: RgbImage) -> RgbImage:
    """Return every 4 x 4 px averaged to one."""
    size = (rgb.shape[1] // BAND_TILES, rgb.shape[0] // BAND_TILES)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _draw_tiles(scene: Scene, *, lower: _LowerLevels) -> Iterator[bytes]:
    """Yield the encoded tiles of level 0 row by row, and collect the lower levels on the way."""
    spec, t = scene.spec, scene.spec.tile_px
    n_columns, n_rows = -(-spec.width_px // t), -(-spec.height_px // t)
    n_columns_4 = -(-(spec.width_px // 4) // t)
    for band in range(spec.n_bands):
        rgb = draw_band(scene, band)
        quarter = _shrink(rgb)
        # Before the tiles are handed out: nobody asks for more after the last one.
        lower.tiles_4.extend(_encode_tile_row(quarter, n_tiles=n_columns_4, spec=spec))
        lower.rows_16.append(_shrink(quarter))
        for row in range(min(BAND_TILES, n_rows - band * BAND_TILES)):
            yield from _encode_tile_row(rgb[row * t : (row + 1) * t], n_tiles=n_columns, spec=spec)
        del rgb  # one band at a time


def _tiles_of(rgb: RgbImage, *, spec: HeSlideSpec) -> Iterator[bytes]:
    t = spec.tile_px
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % t), (0, -width % t), (0, 0)), mode="edge")
    for y in range(0, height, t):
        yield from _encode_tile_row(padded[y : y + t], n_tiles=-(-width // t), spec=spec)


def _write_page(
    tiff: tifffile.TiffWriter,
    segments: Iterator[bytes],
    *,
    size_wh_px: tuple[int, int],
    note: str,
    tile_wh_px: tuple[int, int] | None,
    spec: HeSlideSpec,
) -> None:
    """Write one encoded image: in tiles, or as a single strip as Aperio writes thumbnails."""
    tiff.write(
        segments,
        shape=(size_wh_px[1], size_wh_px[0], 3),
        dtype=np.uint8,
        tile=tile_wh_px,
        rowsperstrip=None if tile_wh_px else size_wh_px[1],
        photometric="ycbcr",
        compression="jpeg",
        subsampling=_SUBSAMPLING_FACTORS[spec.chroma_subsampling],
        description=f"{_LIBRARY}\r\n{note}",
        metadata=None,
        software=False,
    )


def _write_pages(tiff: tifffile.TiffWriter, scene: Scene) -> None:
    spec, lower = scene.spec, _LowerLevels(tiles_4=[], rows_16=[])
    (w_0, h_0), (w_4, h_4), (w_16, h_16) = ((spec.width_px // d, spec.height_px // d) for d in DOWNSAMPLES)
    tile = (spec.tile_px, spec.tile_px)
    source = f"{w_0}x{h_0} [0,0 {w_0}x{h_0}] ({spec.tile_px}x{spec.tile_px})"
    properties = f"|AppMag = 40|MPP = {spec.um_per_px:.6g}"
    note = f"{source} JPEG/RGB Q={spec.quality}{properties}"
    tiles = _draw_tiles(scene, lower=lower)
    _write_page(tiff, tiles, size_wh_px=(w_0, h_0), note=note, tile_wh_px=tile, spec=spec)
    level_16 = np.concatenate(lower.rows_16)[:h_16, :w_16]
    note = f"{w_0}x{h_0} -> {w_16}x{h_16} - {properties}"
    thumbnail = iter([_encode(level_16, spec=spec)])
    _write_page(tiff, thumbnail, size_wh_px=(w_16, h_16), note=note, tile_wh_px=None, spec=spec)
    n_tiles_4 = -(-w_4 // spec.tile_px) * -(-h_4 // spec.tile_px)
    note = f"{source} -> {w_4}x{h_4} JPEG/RGB Q={spec.quality}"
    _write_page(tiff, iter(lower.tiles_4[:n_tiles_4]), size_wh_px=(w_4, h_4), note=note, tile_wh_px=tile, spec=spec)
    note = f"{source} -> {w_16}x{h_16} JPEG/RGB Q={spec.quality}"
    tiles = _tiles_of(level_16, spec=spec)
    _write_page(tiff, tiles, size_wh_px=(w_16, h_16), note=note, tile_wh_px=tile, spec=spec)


def write_he_slide(path: Path, spec: HeSlideSpec) -> tuple[PlacedCell, ...]:
    """Write a generated slide as an Aperio-style pyramid of JPEG tiles, and return where its cells are.

    Levels are 1, 4 and 16 times smaller, sizes rounded down, so that OpenSlide's downsamples are whole numbers only
    where the size divides. Memory holds one band of level 0 (four tile rows), the encoded second level and the third.

    Parameters
    ----------
    path
        The file to write, whole or not at all; a name ending in ``.svs`` is customary.
    spec
        What the slide looks like. The same spec gives the same bytes.

    Returns
    -------
    The placed cells in the order of ``spec.n_cells``, centres in level-0 px.

    Raises
    ------
    InputError
        When the cells do not fit into the tissue.
    """
    scene = compose_scene(spec)
    # A classic TIFF ends at 4 GiB; a JPEG of this quality is smaller than its pixels.
    is_big = 3 * spec.width_px * spec.height_px >= 2**32
    with atomic_writer(path) as stream, tifffile.TiffWriter(stream, bigtiff=is_big, byteorder="<") as tiff:
        _write_pages(tiff, scene)
    return scene.cells


# --- annotations


class AnnotationShape(IntEnum):
    """Types of SlideRunner; the number of points of each."""

    SPOT = 1
    """One point, the centre."""
    AREA = 2
    """Two opposite corners."""
    POLYGON = 3
    """Vertices, the last one equal to the first."""
    SPECIAL_SPOT = 4
    """One point: a navigation mark of unknown class, without label."""
    CIRCLE = 5
    """Two opposite corners of the bounding square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedSlide:
    """A slide as annotation files list it."""

    uid: int
    file_name: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationRow:
    """One annotation to write."""

    uid: int
    slide_uid: int
    class_id: int
    """The agreed class, 0 = unknown."""
    points_l0: tuple[tuple[float, float], ...]
    """(x, y), level-0 px, as many as the shape has."""
    shape: AnnotationShape = AnnotationShape.SPOT
    is_deleted: bool = False


_SLIDERUNNER_SCHEMA = """
CREATE TABLE Slides (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, filename TEXT, width INTEGER, height INTEGER,
    directory TEXT, uuid TEXT, exactImageID TEXT, EXACTUSER INTEGER DEFAULT 0);
CREATE TABLE Annotations (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, slide INTEGER, guid TEXT, lastModified REAL,
    deleted INTEGER DEFAULT 0, type INTEGER, agreedClass INTEGER, description TEXT, clickable INTEGER DEFAULT 1);
CREATE TABLE Annotations_coordinates (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, coordinateX INTEGER,
    coordinateY INTEGER, coordinateZ INTEGER DEFAULT 0, slide INTEGER, annoId INTEGER, orderIdx INTEGER);
CREATE TABLE Annotations_label (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, person INTEGER, class INTEGER,
    exact_id INTEGER, annoId INTEGER);
CREATE TABLE Classes (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, name TEXT, color TEXT);
CREATE TABLE Persons (uid INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE, name TEXT, isExactUser INTEGER DEFAULT 0);
CREATE TABLE Log (uid INTEGER PRIMARY KEY AUTOINCREMENT, dateTime FLOAT, labelId INTEGER);
PRAGMA user_version = 3;
"""
"""Generation E of the format, 2021, without the triggers, which call functions of the SlideRunner program."""


def _insert(database: sqlite3.Connection, into: str, rows: Iterable[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * (into.count(",") + 1))
    database.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)


def write_sliderunner(
    path: Path,
    *,
    slides: Sequence[AnnotatedSlide],
    classes: Mapping[int, str],
    annotations: Sequence[AnnotationRow],
) -> None:
    """Write a SlideRunner database (schema of 2021) with two raters, who agree on every class that is known."""
    namespace = uuid.UUID(int=0)
    labelled = [row for row in annotations if row.class_id != 0]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_SLIDERUNNER_SCHEMA)
        _insert(database, "Slides(uid, filename, width, height)", map(astuple, slides))
        _insert(database, "Classes(uid, name, color)", ((*entry, "#1f77b4") for entry in classes.items()))
        _insert(database, "Persons(uid, name)", ((1, "Rater 1"), (2, "Rater 2")))
        _insert(
            database,
            "Annotations(uid, slide, guid, lastModified, deleted, type, agreedClass)",
            (
                (a.uid, a.slide_uid, str(uuid.uuid5(namespace, str(a.uid))), 0.0, a.is_deleted, a.shape, a.class_id)
                for a in annotations
            ),
        )
        _insert(
            database,
            "Annotations_coordinates(coordinateX, coordinateY, slide, annoId, orderIdx)",
            (
                (x, y, a.slide_uid, a.uid, order)
                for a in annotations
                for order, (x, y) in enumerate(a.points_l0, start=1)
            ),
        )
        labels = ((person, a.class_id, a.uid) for a in labelled for person in (1, 2))
        _insert(database, "Annotations_label(person, class, annoId)", labels)
        database.commit()
        write_atomically(path, database.serialize())


def _bbox(row: AnnotationRow, *, bbox_format: BboxFormatName) -> list[float]:
    (x, y), r = row.points_l0[0], SPOT_RADIUS_PX
    return [x - r, y - r, x + r, y + r] if bbox_format == "xyxy" else [x - r, y - r, 2 * r, 2 * r]


def write_coco(
    path: Path,
    *,
    slides: Sequence[AnnotatedSlide],
    classes: Mapping[int, str],
    annotations: Sequence[AnnotationRow],
    bbox_format: BboxFormatName = "xyxy",
) -> None:
    """Write the spots that are not deleted as COCO-like JSON, boxes of 50 x 50 px around the centres.

    As in the published mitosis data sets, boxes are corners (``xyxy``) by default, and ``area`` and ``iscrowd`` absent.
    """
    spots = [row for row in annotations if row.shape is AnnotationShape.SPOT and not row.is_deleted]
    document = {
        "info": {"description": "Generated slides with generated cells", "version": "1.0"},
        "licenses": [],
        "images": [
            {"id": slide.uid, "file_name": slide.file_name, "width": slide.width_px, "height": slide.height_px}
            for slide in slides
        ],
        "categories": [{"id": class_id, "name": name} for class_id, name in classes.items()],
        "annotations": [
            {
                "id": row.uid,
                "image_id": row.slide_uid,
                "category_id": row.class_id,
                "bbox": _bbox(row, bbox_format=bbox_format),
            }
            for row in spots
        ],
    }
    write_atomically(path, (json.dumps(document, allow_nan=False) + "\n").encode())


# --- the demo data set

DEMO_CLASSES: Mapping[int, str] = {
    1: "Granulocyte",
    2: "Mitotic figure",
    3: "Tumor cell",
    4: "Other/ambiguous",
    7: "Mitotic figure lookalike",
}
"""Names by id, numbered as in the CCMCT data set, so that no id equals a category id of the output by accident."""
_CLASS_IDS = {CellKind.GRANULOCYTE: 1, CellKind.MITOSIS: 2, CellKind.TUMOR_CELL: 3, CellKind.LOOK_ALIKE: 7}
_NOMINAL_DEMO_PX = (7_201, 5_603)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    n_mitoses: int
    n_look_alikes: int
    tissue_share: float = 0.5
    pen_marks: PenMarks = PenMarks.NONE
    stain_strength: tuple[float, float] = (1.0, 1.0)


_PROFILES = (
    _Profile(n_mitoses=40, n_look_alikes=30),
    _Profile(n_mitoses=0, n_look_alikes=25, stain_strength=(0.85, 1.1)),  # a negative slide
    _Profile(n_mitoses=150, n_look_alikes=60, tissue_share=0.6, stain_strength=(1.15, 0.95)),
    _Profile(n_mitoses=30, n_look_alikes=25, pen_marks=PenMarks.STROKES),
    _Profile(n_mitoses=3, n_look_alikes=4, tissue_share=0.3, stain_strength=(0.9, 0.85)),
    _Profile(n_mitoses=25, n_look_alikes=40, tissue_share=0.4, stain_strength=(1.05, 1.2)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """Where the demo data set lies and what it holds."""

    slides_folder: Path
    sqlite_path: Path
    coco_path: Path
    slides: tuple[AnnotatedSlide, ...]
    annotations: tuple[AnnotationRow, ...]

    def count(self, class_id: int) -> int:
        """Return how many spots of a class are not deleted."""
        spots = (row for row in self.annotations if row.shape is AnnotationShape.SPOT and not row.is_deleted)
        return sum(row.class_id == class_id for row in spots)


def _demo_spec(index: int, *, width_px: int, height_px: int, seed: int) -> HeSlideSpec:
    """Return the spec of one slide; slides smaller than the default hold fewer cells."""
    profile = _PROFILES[index % len(_PROFILES)]
    share = min(1.0, width_px * height_px / (_NOMINAL_DEMO_PX[0] * _NOMINAL_DEMO_PX[1]))
    counts = (
        (CellKind.MITOSIS, profile.n_mitoses),
        (CellKind.LOOK_ALIKE, profile.n_look_alikes),
        (CellKind.TUMOR_CELL, 40),
        (CellKind.GRANULOCYTE, 15),
    )
    return HeSlideSpec(
        width_px=width_px + 97 * index,  # sizes differ, as those of scanned tissue do
        height_px=height_px + 61 * index,
        seed=seed * 1_000 + index,
        n_cells=tuple((kind, math.ceil(n * share)) for kind, n in counts),
        tissue_share=profile.tissue_share,
        pen_marks=profile.pen_marks,
        stain_strength=profile.stain_strength,
    )


def _demo_rows(cells: Sequence[PlacedCell], *, slide: AnnotatedSlide, first_uid: int) -> list[AnnotationRow]:
    """Return one spot per cell and, on the first slide, an area and a navigation mark, which name no cell.

    On every slide two tumour cells were once taken for mitoses: their rows are deleted.
    """
    rows: list[AnnotationRow] = []
    n_deleted = 0
    for cell in cells:
        is_deleted = cell.kind is CellKind.TUMOR_CELL and n_deleted < 2
        n_deleted += is_deleted
        rows.append(
            AnnotationRow(
                uid=first_uid + len(rows),
                slide_uid=slide.uid,
                class_id=_CLASS_IDS[CellKind.MITOSIS if is_deleted else cell.kind],
                points_l0=((cell.x_l0, cell.y_l0),),
                is_deleted=is_deleted,
            )
        )
    if slide.uid == 1:
        middle = (slide.width_px // 2, slide.height_px // 2)
        corner = (middle[0] - slide.width_px // 5, middle[1] - slide.height_px // 5)  # drawn from right to left
        for shape, class_id, points in (
            (AnnotationShape.AREA, 4, (middle, corner)),
            (AnnotationShape.SPECIAL_SPOT, 0, (middle,)),
        ):
            uid = first_uid + len(rows)
            rows.append(AnnotationRow(uid=uid, slide_uid=1, class_id=class_id, points_l0=points, shape=shape))
    return rows


def write_demo(
    folder: Path, *, n_slides: int = 6, width_px: int = 7_201, height_px: int = 5_603, seed: int = 7
) -> DemoSummary:
    """Write the demo data set: slides, a SlideRunner database and COCO-like JSON with the same spots.

    Six slides that differ as real ones do, then the same six kinds again: ordinary, negative (no mitotic figure), rich,
    pen-marked, with few objects, pale tissue with many look-alikes. The same arguments give the same bytes.

    Parameters
    ----------
    folder
        Gets ``WSI/demo_01.svs`` ..., ``annotations.sqlite`` and ``annotations.json``; made when missing.
    n_slides, seed
        How many slides, and what decides everything random.
    width_px, height_px
        Size of the first slide; the others are a little larger. Smaller slides hold fewer cells.

    Raises
    ------
    InputError
        When no slide is asked for, or a slide is too small for its cells.
    """
    if n_slides < 1:
        raise InputError(f"a demo data set has at least one slide, got {n_slides}.")
    slides: list[AnnotatedSlide] = []
    rows: list[AnnotationRow] = []
    for index in range(n_slides):
        spec = _demo_spec(index, width_px=width_px, height_px=height_px, seed=seed)
        name = f"demo_{index + 1:02d}.svs"
        cells = write_he_slide(folder / "WSI" / name, spec)
        slides.append(AnnotatedSlide(uid=index + 1, file_name=name, width_px=spec.width_px, height_px=spec.height_px))
        rows.extend(_demo_rows(cells, slide=slides[-1], first_uid=len(rows) + 1))
    summary = DemoSummary(
        slides_folder=folder / "WSI",
        sqlite_path=folder / "annotations.sqlite",
        coco_path=folder / "annotations.json",
        slides=tuple(slides),
        annotations=tuple(rows),
    )
    write_sliderunner(summary.sqlite_path, slides=slides, classes=DEMO_CLASSES, annotations=rows)
    write_coco(summary.coco_path, slides=slides, classes=DEMO_CLASSES, annotations=rows)
    return summary
