"""One slide as the online law sees it: all that a draw needs, worked out once.

Pure. Coordinates are pixels of the extraction grid unless their name says otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.errors import ConfigError
from wsi_extract.geometry import Rect, out_from_l0_domain
from wsi_extract.model import ANCHOR_ROLE, AnnotationTable, OutputFrame, PatchKind, Role, Split, TissueMask
from wsi_extract.sampling.anchored import Anchors, find_anchors
from wsi_extract.sampling.chances import limits_of, outcome_chances, uniform_integer
from wsi_extract.sampling.draft import QUOTA_KINDS
from wsi_extract.sampling.options import SamplingOptions
from wsi_extract.sampling.plan import SLIDE_SMALLER_THAN_PATCH
from wsi_extract.sampling.random_draw import (
    NO_TISSUE,
    NO_TISSUE_WITHOUT_TARGET,
    TRY_ROUNDS,
    count_admissible,
    origins_in,
    origins_of,
    tiles_with_tissue,
)
from wsi_extract.sampling.randomness import uniform_integers
from wsi_extract.sampling.tissue_rule import TissueRule, is_admissible

EMPTY_POOL = "empty_pool"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnlineSlide:
    """A slide, or the part of it that belongs to one split, from which patches are drawn during training.

    Raises
    ------
    ValueError
        When the pool is not (N, 2), or a patch of it leaves the domain.
    """

    slide_id: str
    split: Split
    domain_l0: Rect
    """Where patches may lie, level-0 px. Annotations with their centre in it are anchors."""
    frame: OutputFrame
    annotations: AnnotationTable
    tissue: TissueMask
    options: SamplingOptions
    """As the slide was extracted: shares, jitter, margin, tissue rule. The rest does not matter here."""
    group: str = ""
    """The domain it comes from in the statistical sense, such as the scanner; for balancing."""
    pool_out: IntArray | None = None
    """(N, 2) int64, columns (x, y): the only origins of random patches. ``None``: all tissue.

    For stores that do not hold all tissue, the planned random patches. They are the same in every epoch, so a network
    can learn them by heart: the bias of a finite pool.
    """

    def __post_init__(self) -> None:
        if self.pool_out is None:
            return
        origins = self.origins
        if self.pool_out.ndim != 2 or self.pool_out.shape[1] != 2:
            raise ValueError(f"slide {self.slide_id}: a pool must be (N, 2), got {self.pool_out.shape}")
        outside = (self.pool_out < (origins.x0, origins.y0)) | (self.pool_out >= (origins.x1, origins.y1))
        if outside.any():
            x, y = self.pool_out[np.flatnonzero(outside.any(axis=1))[0]].tolist()
            raise ValueError(f"slide {self.slide_id}: the pool's patch at x {x}, y {y} leaves the domain")

    @property
    def origins(self) -> Rect:
        """The half-open rectangle of origins whose patch lies in the domain, extraction grid px."""
        domain_out = out_from_l0_domain(self.domain_l0, scale=self.frame.scale)
        return origins_in(domain_out, w_px=self.frame.patch_w_out_px, h_px=self.frame.patch_h_out_px)


class RandomOrigins:
    """The origins of random patches of one slide: a pool, or every origin with enough tissue."""

    def __init__(self, slide: OnlineSlide) -> None:
        no_centres = np.empty((0, 2), dtype=np.float64)
        targets = slide.annotations.centres_l0[slide.annotations.role == Role.TARGET]
        self._pool = slide.pool_out
        self._origins = slide.origins
        self._rule = TissueRule(
            frame=slide.frame,
            tissue=slide.tissue,
            min_tissue_fraction=slide.options.min_tissue_fraction,
            unwanted_l0=targets if slide.options.random_negatives_only else no_centres,
        )

    def missing_reason(self, generator: np.random.Philox) -> str:
        """Return why there is no origin at all, or an empty text.

        Parameters
        ----------
        generator
            For guesses; the answer does not depend on it.
        """
        if self._pool is not None:
            return "" if len(self._pool) else EMPTY_POOL
        if not (self._origins.width and self._origins.height):
            return SLIDE_SMALLER_THAN_PATCH
        if self._guess(generator) is not None or self._tile_counts[:, 1].any():
            return ""
        return NO_TISSUE_WITHOUT_TARGET if self._tile_counts[:, 0].any() else NO_TISSUE

    def draw(self, generator: np.random.Philox) -> tuple[int, int]:
        """Return one origin, uniform over all of them. There must be one, see `missing_reason`."""
        if self._pool is not None:
            x, y = self._pool[uniform_integer(int(generator.random_raw(1)[0]), n=len(self._pool))].tolist()
            return x, y
        guessed = self._guess(generator)
        return self._draw_counted(generator) if guessed is None else guessed

    def _guess(self, generator: np.random.Philox) -> tuple[int, int] | None:
        """Return the first admissible of a thousand guesses."""
        lowest, n_xy = (
            np.array([self._origins.x0, self._origins.y0]),
            np.array([self._origins.width, self._origins.height]),
        )
        for start, stop in TRY_ROUNDS:
            raw = generator.random_raw(2 * (stop - start)).reshape(-1, 2)
            tries = lowest + uniform_integers(raw, n=n_xy)
            fits = is_admissible(tries, rule=self._rule)
            if fits.any():
                x, y = tries[int(fits.argmax())].tolist()
                return x, y
        return None

    @cached_property
    def _tiles(self) -> list[Rect]:
        return tiles_with_tissue(self._origins, rule=self._rule)

    @cached_property
    def _tile_counts(self) -> IntArray:
        """(N, 2) int64: origins with enough tissue in each tile, and admissible ones. Takes long; rarely needed."""
        return np.array([count_admissible(tile, rule=self._rule) for tile in self._tiles], dtype=np.int64).reshape(
            -1, 2
        )

    def _draw_counted(self, generator: np.random.Philox) -> tuple[int, int]:
        counts = self._tile_counts[:, 1]
        number = uniform_integers(generator.random_raw(1), n=int(counts.sum()))
        x, y = origins_of(number, tiles=self._tiles, counts=counts, rule=self._rule)[0].tolist()
        return x, y


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedSlide:
    """What can be drawn from one slide, and how likely each of it is."""

    outcomes: tuple[tuple[PatchKind, PatchKind], ...]
    """Pairs of the kind asked for and the kind drawn."""
    limits: tuple[float, ...]
    """Upper limit of each outcome's interval of [0, 1), see `limits_of`."""
    anchors: Mapping[PatchKind, Anchors]
    random_origins: RandomOrigins
    random_missing: str
    """Why there can be no random patch although some were asked for, else empty."""

    def outcome_of(self, fraction: float) -> tuple[PatchKind, PatchKind]:
        """Return the kind asked for and the kind drawn for a number of [0, 1)."""
        return self.outcomes[bisect_right(self.limits, fraction)]


def prepare_slide(
    slide: OnlineSlide, *, shares: tuple[float, float, float], generator: np.random.Philox
) -> PreparedSlide | str:
    """Find the slide's anchors and work out its chances; return the reason as text when no patch can be drawn.

    A kind without anchors gives its share to random. When there can be no random patch, its share goes to the kinds
    with anchors, in proportion to theirs.

    Raises
    ------
    ConfigError
        When a share is above 0 for a kind whose windows were not extracted, because its share was 0 then.
    ValueError
        When the margin leaves no room in a patch.
    """
    _check_extracted(slide, shares=shares)
    share_of = dict(zip(QUOTA_KINDS, shares, strict=True))
    anchors = {kind: _anchors_of(slide, role=role) for kind, role in ANCHOR_ROLE.items() if share_of[kind] > 0}
    available = [kind for kind in QUOTA_KINDS if kind in anchors and len(anchors[kind])]
    random_origins = RandomOrigins(slide)
    reason = ""
    if any(share > 0 and kind not in available for kind, share in share_of.items()):
        reason = random_origins.missing_reason(generator)
        available = available if reason else [PatchKind.RANDOM, *available]
    chances = outcome_chances(share_of, available=available)
    if not chances:
        return reason
    return PreparedSlide(
        outcomes=tuple(chances),
        limits=limits_of(list(chances.values())),
        anchors=anchors,
        random_origins=random_origins,
        random_missing=reason,
    )


def _check_extracted(slide: OnlineSlide, *, shares: Sequence[float]) -> None:
    for kind, share, extracted in zip(QUOTA_KINDS, shares, slide.options.shares, strict=True):
        if kind in ANCHOR_ROLE and share > 0 and extracted == 0:
            raise ConfigError(
                f"slide {slide.slide_id}: {kind.label} patches cannot be drawn with a share of {share}, because their"
                " share was 0 in the extraction.",
                "Extract again with a share above 0, or give the kind the share 0.",
            )


def _anchors_of(slide: OnlineSlide, *, role: Role) -> Anchors:
    return find_anchors(
        slide.annotations, role=role, domain_l0=slide.domain_l0, frame=slide.frame, options=slide.options
    )
