"""Whether a program made the patches it was asked for, with the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.patch_list import PatchList
from wsi_extract.dataset import open_dataset
from wsi_extract.model import SlideFile
from wsi_extract.slides.open_slides import OpenedSlide

N_COMPARED = 64
"""Patches of each contender whose pixels are compared before anything is timed."""
MOST_DIFFERENT = 2
"""Grey levels by which a pixel may differ: decoders may round in another way, and a shifted patch differs by more."""


class OtherPatchesError(RuntimeError):
    """A contender did not make the patches that were wanted."""


def without_far_edges(patches: PatchList) -> PatchList:
    """Return the patches that end before the right and the bottom edge of their slide."""
    kept = []
    for each in patches.slides:
        with OpenedSlide(SlideFile(slide_id=each.path.stem, path=each.path)) as slide:
            size_wh_px = np.array((slide.levels[0].width_px, slide.levels[0].height_px))
        inside = (each.origins_l0 + patches.patch_px < size_wh_px).all(axis=1)
        kept.append(replace(each, origins_l0=each.origins_l0[inside]))
    return replace(patches, slides=tuple(kept))


def names_of(patches: PatchList) -> list[str]:
    """Return the file names of patches, relative to the folder of the slides' folders."""
    return [
        f"{slide.path.stem}/{slide.path.stem}_x{x}_y{y}.png"
        for slide in patches.slides
        for x, y in slide.origins_l0.tolist()
    ]


def most_different(reference: Path, png_folder: Path, *, names: Sequence[str], allowed: int) -> int:
    """Return by how many grey levels the pixels of some patches differ at most from those of an extraction.

    Parameters
    ----------
    reference
        A finished extraction that holds at least the patches ``names``.

    Raises
    ------
    OtherPatchesError
        When not exactly these files are there, or one has another size or differs by more than ``allowed``.
    """
    found = {path.relative_to(png_folder).as_posix() for path in png_folder.rglob("*.png")}
    if found != set(names):
        one = min(found.symmetric_difference(names))
        raise OtherPatchesError(f"{len(found)} patches were made where {len(names)} are wanted, e.g. {one}")
    dataset = open_dataset(reference, "train", "png")
    numbers = {dataset.index.file_name(number): number for number in range(len(dataset))}
    most = 0
    for name in np.random.default_rng(0).permutation(sorted(names))[:N_COMPARED].tolist():
        with Image.open(png_folder / name) as image:
            made = np.asarray(image.convert("RGB"), dtype=np.int16)
        wanted = dataset.read(numbers[name])
        if made.shape != wanted.shape:
            raise OtherPatchesError(f"{name} has the shape {made.shape} instead of {wanted.shape}")
        most = max(most, int(np.abs(made - wanted).max()))
        if most > allowed:
            raise OtherPatchesError(f"{name} differs by up to {most} grey levels")
    return most
