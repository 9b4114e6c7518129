"""Which patches a contender has to make: those of a finished extraction, as a file that any script can read.

    {"patch_px": 256, "slides": [{"path": "/slides/a.svs", "origins_l0": [[512, 256], ...]}]}

Origins stand row by row from the top, as a double loop over x within y visits them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsi_extract.arrays import IntArray
from wsi_extract.dataset import open_dataset
from wsi_extract.disk.files import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlidePatches:
    """The patches of one slide."""

    path: Path
    origins_l0: IntArray
    """(N, 2) int64, columns (x, y), sorted by y, then x."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchList:
    """Square patches read at level 0 and at its resolution."""

    patch_px: int
    slides: tuple[SlidePatches, ...]

    def __len__(self) -> int:
        return sum(len(slide.origins_l0) for slide in self.slides)


def patches_of(output_dir: Path, *, slides_folder: Path) -> PatchList:
    """Return the patches that a finished extraction holds in ``train``.

    Parameters
    ----------
    slides_folder
        The folder the slides were read from; they lie in it directly, named ``<slide id>.svs``.

    Raises
    ------
    ValueError
        When the patches are not square, or not read from level 0 as it is: no script could read the same pixels.
    """
    index = open_dataset(output_dir, "train").index
    width, height = index.patch_wh_px
    for slide in index.slides:
        if width != height or slide.level != 0:
            raise ValueError(f"slide {slide.slide_id}: patches of {width} x {height} px from level {slide.level}")
    slides = []
    for number, slide in enumerate(index.slides):
        x_l0, y_l0 = index.origins_l0[index.slide == number].T
        order = np.lexsort((x_l0, y_l0))
        origins = np.stack([x_l0[order], y_l0[order]], axis=1)
        slides.append(SlidePatches(path=slides_folder / f"{slide.slide_id}.svs", origins_l0=origins))
    return PatchList(patch_px=width, slides=tuple(slides))


def write_patch_list(path: Path, patches: PatchList) -> None:
    """Write the list as JSON."""
    slides = [{"path": str(slide.path), "origins_l0": slide.origins_l0.tolist()} for slide in patches.slides]
    write_atomically(path, json.dumps({"patch_px": patches.patch_px, "slides": slides}).encode())


def read_patch_list(path: Path) -> PatchList:
    """Return what `write_patch_list` wrote."""
    document = json.loads(path.read_bytes())
    slides = tuple(
        SlidePatches(path=Path(slide["path"]), origins_l0=np.array(slide["origins_l0"], dtype=np.int64).reshape(-1, 2))
        for slide in document["slides"]
    )
    return PatchList(patch_px=document["patch_px"], slides=slides)


def check_same_patches(output_dir: Path, png_folder: Path, *, n_compared: int, seed: int, store: str) -> int:
    """Compare a finished extraction with the files of `benchmarks.naive`, and return how many patches both hold.

    Parameters
    ----------
    png_folder
        What the script wrote: ``<slide>/<slide>_x<X>_y<Y>.png``.
    n_compared
        How many patches, drawn at random, must have equal pixels; every patch must be on both sides.

    Raises
    ------
    RuntimeError
        When a patch is on one side only, or its pixels differ.
    """
    dataset = open_dataset(output_dir, "train", store)
    names = {dataset.index.file_name(i): i for i in range(len(dataset))}
    found = {path.relative_to(png_folder).as_posix() for path in png_folder.rglob("*.png")}
    if found != set(names):
        one = min(found.symmetric_difference(names))
        raise RuntimeError(f"{len(found)} patches of the script, {len(names)} in {output_dir}; {one} is in one only")
    rng = np.random.default_rng(seed)
    for name in rng.permutation(sorted(names))[:n_compared].tolist():
        with Image.open(png_folder / name) as image:
            if not np.array_equal(np.asarray(image), dataset.read(names[name])):
                raise RuntimeError(f"{name} has other pixels in {output_dir} ({store}) than the script gives it")
    return len(names)
