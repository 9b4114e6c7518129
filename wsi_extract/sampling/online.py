"""The law of an epoch drawn anew: every patch is placed when it is needed, for training with fresh jitter.

The same law as the offline plan's, with two differences. Patches are independent of each other: each draw picks its
slide, kind, anchor and origin by chance, instead of filling quotas and going through all anchors in turn. And an
origin may come twice.

Draw i of epoch e depends on the seed, e and i alone, so that any rank or worker can make it. Pure; knows neither
files nor frameworks. Coordinates are pixels of the extraction grid.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from wsi_extract.errors import ConfigError, InputError
from wsi_extract.model import NO_ANCHOR, PatchKind
from wsi_extract.sampling.chances import limits_of, uniform_fraction, uniform_integer
from wsi_extract.sampling.online_slide import OnlineSlide, PreparedSlide, prepare_slide
from wsi_extract.sampling.randomness import keyed_generator

WEIGHT_ZERO = "weight_zero"


class Balance(StrEnum):
    """What is drawn alike often, before weights."""

    SLIDES = "slides"
    """Slides, as in the offline plan with its equal number of patches per slide."""
    GROUPS = "groups"
    """Groups, such as scanners, and the slides within each group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOptions:
    """How often what is drawn. Weights are relative; slides and groups that are not named have weight 1.

    Raises
    ------
    ConfigError
        When the seed or a weight is negative, or a weight is not finite.
    """

    seed: int
    shares: tuple[float, float, float] | None = None
    """Shares of random, hard negative and mitosis patches, sum 1; ``None``: those of each slide's extraction."""
    balance: Balance = Balance.SLIDES
    slide_weights: Mapping[str, float] = field(default_factory=dict)
    """By slide id."""
    group_weights: Mapping[str, float] = field(default_factory=dict)
    """By group."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")
        for name, weight in (*self.slide_weights.items(), *self.group_weights.items()):
            if not (np.isfinite(weight) and weight >= 0):
                raise ConfigError(f"the weight of {name!r} must be a finite number of at least 0, got {weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineDraw:
    """One patch of an epoch."""

    slide: int
    """Position of its slide in the slides given to the law."""
    kind: PatchKind
    requested_kind: PatchKind
    """What the shares asked for, where the slide has no anchor of that kind."""
    origin_out: tuple[int, int]
    """(x, y), extraction grid px."""
    anchor_row: int
    """Row of the slide's annotation table the patch is placed around, or `NO_ANCHOR`."""


class OnlineLaw:
    """The law by which the patches of an epoch are drawn.

    Holds no state between draws: any draw may be made first, again, or in another process. The order of the slides
    changes the numbers in the draws, not the patches.

    Parameters
    ----------
    slides
        Each slide id at most once per split.

    Raises
    ------
    ConfigError
        When a weight names no slide or no group, the shares are invalid, or a kind has a share although its windows
        were not extracted.
    InputError
        When no slide is left to draw from.
    ValueError
        When a slide is there twice.
    """

    def __init__(self, slides: Sequence[OnlineSlide], *, options: OnlineOptions) -> None:
        _check_names(slides, options=options)
        self.slides = tuple(slides)
        self.options = options
        by_name = sorted(range(len(slides)), key=lambda i: (slides[i].slide_id, slides[i].split))
        prepared = {i: _prepare(slides[i], options=options) for i in by_name}
        self.excluded: dict[int, str] = {i: found for i, found in prepared.items() if isinstance(found, str)}
        """Positions of the slides that are never drawn, and why."""
        drawn = {i: found for i, found in prepared.items() if not isinstance(found, str)}
        if not drawn:
            reasons = ", ".join(f"{slides[i].slide_id}: {reason}" for i, reason in self.excluded.items())
            raise InputError(
                f"there is no slide to draw patches from ({reasons or 'no slides'}).",
                "Check the shares and weights, and the coverage the slides were extracted with.",
            )
        missing = {i: found.random_missing for i, found in drawn.items()}
        self.without_random: dict[int, str] = {i: reason for i, reason in missing.items() if reason}
        """Positions of the slides whose random share goes to the other kinds, and why."""
        self._positions = tuple(drawn)
        self._prepared = tuple(drawn.values())
        self._limits = limits_of(_slide_chances([slides[i] for i in drawn], options=options))

    def draw(self, epoch: int, number: int) -> OnlineDraw:
        """Make one draw of an epoch.

        Parameters
        ----------
        number
            Of the draw within the epoch, from 0 on, over all ranks and workers.
        """
        generator = keyed_generator(self.options.seed, "online", epoch, number)
        slide_raw, kind_raw, anchor_raw, x_raw, y_raw = generator.random_raw(5).tolist()
        place = bisect_right(self._limits, uniform_fraction(slide_raw))
        prepared = self._prepared[place]
        requested, kind = prepared.outcome_of(uniform_fraction(kind_raw))
        row = NO_ANCHOR
        if kind is PatchKind.RANDOM:
            origin = prepared.random_origins.draw(generator)
        else:
            anchors = prepared.anchors[kind]
            anchor = uniform_integer(anchor_raw, n=len(anchors))
            (first_x, first_y), (last_x, last_y) = anchors.first_xy[anchor].tolist(), anchors.last_xy[anchor].tolist()
            origin = (
                first_x + uniform_integer(x_raw, n=last_x - first_x + 1),
                first_y + uniform_integer(y_raw, n=last_y - first_y + 1),
            )
            row = int(anchors.rows[anchor])
        return OnlineDraw(
            slide=self._positions[place], kind=kind, requested_kind=requested, origin_out=origin, anchor_row=row
        )


def _check_names(slides: Sequence[OnlineSlide], *, options: OnlineOptions) -> None:
    twice = [name for name, n in Counter((slide.slide_id, slide.split) for slide in slides).items() if n > 1]
    if twice:
        raise ValueError(f"slide {twice[0][0]} is there twice in split {twice[0][1]}")
    unknown_slides = sorted(set(options.slide_weights) - {slide.slide_id for slide in slides})
    unknown_groups = sorted(set(options.group_weights) - {slide.group for slide in slides})
    if unknown_slides or unknown_groups:
        what = f"slides {unknown_slides}" if unknown_slides else f"groups {unknown_groups}"
        raise ConfigError(f"weights are given for {what}, which are not there.", "Correct or remove these names.")


def _prepare(slide: OnlineSlide, *, options: OnlineOptions) -> PreparedSlide | str:
    if _weight(slide, options=options) == 0:
        return WEIGHT_ZERO
    shares = slide.options.shares
    if options.shares is not None:
        try:
            shares = replace(slide.options, shares=options.shares).shares
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return prepare_slide(slide, shares=shares, generator=keyed_generator("online", slide.slide_id, slide.split.value))


def _weight(slide: OnlineSlide, *, options: OnlineOptions) -> float:
    return options.slide_weights.get(slide.slide_id, 1.0) * options.group_weights.get(slide.group, 1.0)


def _slide_chances(slides: Sequence[OnlineSlide], *, options: OnlineOptions) -> list[float]:
    """Return how likely each slide is drawn, relative to the others."""
    weights = [_weight(slide, options=options) for slide in slides]
    if options.balance is Balance.SLIDES:
        return weights
    in_group: defaultdict[str, float] = defaultdict(float)
    for slide in slides:
        in_group[slide.group] += options.slide_weights.get(slide.slide_id, 1.0)
    return [weight / in_group[slide.group] for slide, weight in zip(slides, weights, strict=True)]
