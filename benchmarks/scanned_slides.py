"""Slide files for whole-job benchmarks: Aperio-style pyramids of JPEG tiles whose bytes and grain are those of scans.

A generated slide decodes and compresses faster than a scanned one, because it is smoother. Here noise is added where
there is tissue, so that a JPEG tile of dense tissue comes to about 19 KB (240 px, quality 80, 4:2:2) and Pillow's PNG
of a 256 px patch to about 136 KB, as in scanned H&E. Files are kept and used again; the same arguments give the same
bytes, whatever the number of processes that draw.

    python -m benchmarks.scanned_slides --out bench_slides --width-px 40000 --height-px 30000
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scanned_pixels import write_scanned_slide
from benchmarks.texture import JPEG_QUALITY
from wsi_extract.disk.files import atomic_writer
from wsi_extract.synthetic import (
    DEMO_CLASSES,
    AnnotatedSlide,
    AnnotationRow,
    CellKind,
    HeSlideSpec,
    PlacedCell,
    compose_scene,
    write_coco,
)

DEFAULT_WIDTH_PX, DEFAULT_HEIGHT_PX = 16_000, 12_000
TISSUE_SHARE = 0.6
COPIES_ANNOTATIONS = "annotations.json"
_VERSION = 1
"""Part of every file's name: raised when the pixels change, so that an old file is not taken for a new one."""
_CELLS_PER_MPX = ((CellKind.MITOSIS, 0.8), (CellKind.LOOK_ALIKE, 1.0))
_CLASS_IDS = {CellKind.MITOSIS: 2, CellKind.LOOK_ALIKE: 7}


def default_folder() -> Path:
    """Return where slides are kept unless the user says otherwise: below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsi_extract" / "slides"


def annotations_of(slide: Path) -> Path:
    """Return the COCO file beside a slide of `scanned_slide`."""
    return slide.with_suffix(".json")


def scanned_slide(
    folder: Path,
    *,
    width_px: int = DEFAULT_WIDTH_PX,
    height_px: int = DEFAULT_HEIGHT_PX,
    tile_px: int = 240,
    seed: int = 1,
) -> Path:
    """Return a slide with its annotations beside it, alone in a folder of its own; draw both unless they are there.

    Parameters
    ----------
    folder
        Where slides are kept from one benchmark to the next.
    width_px, height_px, tile_px
        Level 0, pyramid of 1, 4 and 16; the tiles of all levels are square.

    Raises
    ------
    InputError
        When the slide is too small for its cells.
    """
    spec = _spec_of(width_px=width_px, height_px=height_px, tile_px=tile_px, seed=seed)
    name = f"scan{_VERSION}-{width_px}x{height_px}-t{tile_px}-s{seed}"
    path = folder / name / f"{name}.svs"
    if not path.is_file():
        cells = compose_scene(spec).cells
        _write_annotations(annotations_of(path), file_names=[path.name], spec=spec, cells=cells)
        write_scanned_slide(path, spec=spec)  # last: where the slide is, all is there
    return path


def scanned_copies(
    folder: Path,
    *,
    n_slides: int,
    width_px: int = DEFAULT_WIDTH_PX,
    height_px: int = DEFAULT_HEIGHT_PX,
    tile_px: int = 240,
    seed: int = 1,
) -> Path:
    """Return a folder with copies of a `scanned_slide` and one annotation file, ``annotations.json``, for all of them.

    Identical slides are refused by the program, so each copy has a few bytes of its own behind the TIFF's data.
    """
    slide = scanned_slide(folder, width_px=width_px, height_px=height_px, tile_px=tile_px, seed=seed)
    copies = slide.parent.with_name(f"{slide.stem}-x{n_slides}")
    annotations = copies / COPIES_ANNOTATIONS
    if annotations.is_file():
        return copies
    names = [f"slide_{number:03d}.svs" for number in range(n_slides)]
    for name in names:
        with atomic_writer(copies / name) as target, slide.open("rb") as source:
            shutil.copyfileobj(source, target, 2**24)
            target.write(name.encode())
    spec = _spec_of(width_px=width_px, height_px=height_px, tile_px=tile_px, seed=seed)
    _write_annotations(annotations, file_names=names, spec=spec, cells=compose_scene(spec).cells)
    return copies


def _spec_of(*, width_px: int, height_px: int, tile_px: int, seed: int) -> HeSlideSpec:
    mpx = width_px * height_px / 1e6
    return HeSlideSpec(
        width_px=width_px,
        height_px=height_px,
        seed=seed,
        n_cells=tuple((kind, math.ceil(share * mpx)) for kind, share in _CELLS_PER_MPX),
        tissue_share=TISSUE_SHARE,
        tile_px=tile_px,
        quality=JPEG_QUALITY,
        chroma_subsampling="422",
    )


def _write_annotations(
    path: Path, *, file_names: Sequence[str], spec: HeSlideSpec, cells: Sequence[PlacedCell]
) -> None:
    slides = [
        AnnotatedSlide(uid=uid, file_name=name, width_px=spec.width_px, height_px=spec.height_px)
        for uid, name in enumerate(file_names, start=1)
    ]
    rows = [
        AnnotationRow(
            uid=(slide.uid - 1) * len(cells) + number,
            slide_uid=slide.uid,
            class_id=_CLASS_IDS[cell.kind],
            points_l0=((cell.x_l0, cell.y_l0),),
        )
        for slide in slides
        for number, cell in enumerate(cells, start=1)
    ]
    write_coco(path, slides=slides, classes=DEMO_CLASSES, annotations=rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw one slide and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scanned_slides", description="Draw a slide file.")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps slides")
    parser.add_argument("--width-px", type=int, default=DEFAULT_WIDTH_PX)
    parser.add_argument("--height-px", type=int, default=DEFAULT_HEIGHT_PX)
    parser.add_argument("--tile-px", type=int, default=240)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    path = scanned_slide(
        options.out,
        width_px=options.width_px,
        height_px=options.height_px,
        tile_px=options.tile_px,
        seed=options.seed,
    )
    sys.stdout.write(f"{path}, {path.stat().st_size / 1e6:.0f} MB, annotations in {annotations_of(path).name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
