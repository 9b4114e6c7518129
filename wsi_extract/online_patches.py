"""Patches that are drawn while training, from the pixels of whole slides: new places in every epoch.

The law is `wsi_extract.sampling.OnlineLaw`; pixels come from the pixel store and boxes from the slide's annotations,
by the rules of the extraction. Needs no training library.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsi_extract.arrays import IntArray, RgbImage
from wsi_extract.blocks import touching_rows
from wsi_extract.dataset import DatasetFacts, read_facts
from wsi_extract.errors import InputError, IntegrityError
from wsi_extract.geometry import l0_from_out_origins
from wsi_extract.index import SlideScene, SplitIndex, read_index, read_scene
from wsi_extract.model import PatchKind, Split
from wsi_extract.sampling import OnlineLaw, OnlineOptions, OnlineSlide
from wsi_extract.state.layout import patch_file_name, scene_folder
from wsi_extract.storage import Coverage, Store
from wsi_extract.stores.pixel_array import OutsideCoverageError, PixelArray, open_pixel_array
from wsi_extract.stores.shards import ShardReader
from wsi_extract.targets import PatchLabel, label_patch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnlinePatch:
    """One drawn patch."""

    slide_id: str
    group: str
    """The slide's domain, else its group in the extraction, such as its patient."""
    kind: PatchKind
    origin_l0_xy: tuple[int, int]
    pixels: RgbImage
    """(H, W, 3) uint8."""
    labels: tuple[PatchLabel, ...]
    """Boxes in patch px, as an extracted patch at this place would have them."""


class OnlinePatches:
    """Draws the patches of one split, each known by its epoch and its number within the epoch.

    Slides that cannot be drawn, or yield no random patch, are named in a warning of this module's logger.

    Equal keys give equal patches, in any process and in any order. Use it from one thread; processes made by fork
    and spawn open the slides' pixels themselves.

    Parameters
    ----------
    output_dir
        The output folder of an extraction with ``--store pixels``.
    split
        ``train``, ``val`` or ``test``; patches never leave the part of a slide that belongs to it.
    options
        How often which slide, group and kind is drawn.
    domains
        Group of each slide, by slide id, such as its scanner; by default the patients of the extraction.

    Raises
    ------
    InputError
        When the data set has no pixel store, or one that holds the planned patches only, or a slide has no domain.
    IntegrityError
        When the extraction is not finished, or its files are damaged.
    """

    def __init__(
        self, output_dir: Path | str, split: str, *, options: OnlineOptions, domains: Mapping[str, str] | None = None
    ) -> None:
        self.output_dir = Path(output_dir).absolute()
        self._domains = None if domains is None else dict(domains)
        facts = read_facts(self.output_dir)
        _check_pixels(facts)
        self.split = facts.split_of(split)
        index = read_index(self.output_dir, self.split)
        self._scenes = _scenes_of(facts, split=self.split)
        pools = None if facts.coverage is Coverage.TISSUE else index
        self.law = OnlineLaw(
            [
                replace(_slide_of(scene, split=self.split, pools=pools), group=_domain_of(scene, domains=domains))
                for scene in self._scenes
            ],
            options=options,
        )
        _say_what_is_missing(self.law)
        self.patch_wh_px = index.patch_wh_px
        self._shards = ShardReader()
        self._arrays: list[PixelArray | None] = [None] * len(self._scenes)

    def __reduce__(self) -> tuple[object, tuple[Path, str, OnlineOptions, dict[str, str] | None]]:
        return _reopen, (self.output_dir, self.split.value, self.law.options, self._domains)

    def read(self, epoch: int, number: int) -> OnlinePatch:
        """Draw one patch of an epoch, with pixels and boxes.

        Parameters
        ----------
        number
            Of the draw within the epoch, from 0 on, over all ranks and workers.

        Raises
        ------
        IntegrityError
            When its pixels are missing or damaged; the message names slide and place.
        """
        draw = self.law.draw(epoch, number)
        scene = self._scenes[draw.slide]
        frame = scene.frame
        origins_l0 = l0_from_out_origins(np.array([draw.origin_out], dtype=np.int64), scale=frame.scale)
        x_l0, y_l0 = origins_l0[0].tolist()
        pixels = np.empty((frame.patch_h_out_px, frame.patch_w_out_px, 3), dtype=np.uint8)
        try:
            self._array(draw.slide).read_window(*draw.origin_out, pixels)
        except (IntegrityError, OutsideCoverageError) as error:
            name = patch_file_name(scene.slide_id, x_l0=x_l0, y_l0=y_l0)
            raise IntegrityError(
                f"patch {name} of slide {scene.slide_id} ({self.split}): {error.message}", error.remedy
            ) from error
        near = touching_rows(
            scene.annotations,
            origins_l0=origins_l0,
            w_l0=frame.patch_w_out_px * frame.scale.x,
            h_l0=frame.patch_h_out_px * frame.scale.y,
        )
        labels = label_patch(
            scene.annotations.take(near),
            origin_l0_xy=(x_l0, y_l0),
            scale=frame.scale,
            patch_wh_out=(frame.patch_w_out_px, frame.patch_h_out_px),
            rules=scene.rules,
        )
        return OnlinePatch(
            slide_id=scene.slide_id,
            group=_domain_of(scene, domains=self._domains),
            kind=draw.kind,
            origin_l0_xy=(x_l0, y_l0),
            pixels=pixels,
            labels=labels.labels,
        )

    def _array(self, slide: int) -> PixelArray:
        array = self._arrays[slide]
        if array is None:
            scene = self._scenes[slide]
            array = open_pixel_array(
                self.output_dir, slide_id=scene.slide_id, coverage=scene.coverage, shards=self._shards
            )
            self._arrays[slide] = array
        return array


def _reopen(output_dir: Path, split: str, options: OnlineOptions, domains: dict[str, str] | None) -> OnlinePatches:
    return OnlinePatches(output_dir, split, options=options, domains=domains)


def _check_pixels(facts: DatasetFacts) -> None:
    if facts.store is not Store.PIXELS:
        raise InputError(
            f"patches cannot be drawn from {facts.output_dir}: it has no pixel store.", "Extract with --store pixels."
        )
    if facts.coverage is Coverage.PLANNED:
        raise InputError(
            f"patches cannot be drawn from {facts.output_dir}: it holds the pixels of the planned patches only.",
            "Extract with --store pixels --coverage anchors, or tissue.",
        )


def _scenes_of(facts: DatasetFacts, *, split: Split) -> list[SlideScene]:
    """Return the scenes of the slides that take part in a split, in the order of their ids.

    Raises
    ------
    IntegrityError
        When one is missing or damaged: a slide must not drop out of the training without a word.
    """
    slide_ids = sorted(slide_id for slide_id, splits in facts.slides.items() if split in splits)
    return [read_scene(scene_folder(facts.output_dir, slide_id=slide_id)) for slide_id in slide_ids]


def _slide_of(scene: SlideScene, *, split: Split, pools: SplitIndex | None) -> OnlineSlide:
    return OnlineSlide(
        slide_id=scene.slide_id,
        split=split,
        domain_l0=dict(scene.domains)[split],
        frame=scene.frame,
        annotations=scene.annotations,
        tissue=scene.tissue,
        options=scene.sampling,
        pool_out=None if pools is None else _pool_of(scene, index=pools),
    )


def _say_what_is_missing(law: OnlineLaw) -> None:
    for what, found in (("never drawn", law.excluded), ("without random patches", law.without_random)):
        if found:
            names = ", ".join(f"{law.slides[i].slide_id} ({reason})" for i, reason in sorted(found.items())[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            logger.warning("%d of %d slides are %s: %s%s", len(found), len(law.slides), what, names, more)


def _domain_of(scene: SlideScene, *, domains: Mapping[str, str] | None) -> str:
    if domains is None:
        return scene.group
    if scene.slide_id not in domains:
        raise InputError(f"domains names no domain for slide {scene.slide_id}.")
    return domains[scene.slide_id]


def _pool_of(scene: SlideScene, *, index: SplitIndex) -> IntArray:
    """Return the origins of a slide's planned patches without anchor: random places whose pixels are there."""
    numbers = [number for number, slide in enumerate(index.slides) if slide.slide_id == scene.slide_id]
    rows = np.isin(index.slide, numbers) & np.isin(index.kind, (PatchKind.RANDOM, PatchKind.GRID))
    # Scales of pixel stores are whole numbers, and planned origins whole multiples of them.
    factors = np.array([int(scene.frame.scale.x), int(scene.frame.scale.y)], dtype=np.int64)
    origins_out: IntArray = index.origins_l0[rows] // factors
    return origins_out
