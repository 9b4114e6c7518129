"""The scene of a slide, from which training draws patches, against the plan, the records and the settings.

What the scene says is derived again from what the run says elsewhere, so that a draw in training can neither leave its
split nor differ from the law that the settings name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.geometry import Rect, Scale, integral_image
from wsi_extract.index import SlideScene
from wsi_extract.model import OutputFrame, PatchTable, Split, TissueMask
from wsi_extract.sampling import CoverageScene, SamplingOptions, needed_chunks, stride_from_overlap
from wsi_extract.splits import half_domains
from wsi_extract.state.plans import digest_of_annotations
from wsi_extract.stores.pixel_array import CHUNK_PX
from wsi_extract.targets import LabelRules
from wsi_extract.verify.leakage import HALF_MODE
from wsi_extract.verify.manifest import ManifestSettings, ManifestSlide

GRID = "grid"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneEvidence:
    """What is known of a slide from elsewhere."""

    slide: ManifestSlide
    settings: ManifestSettings
    plan: PatchTable
    tissue: TissueMask
    coverage: BoolImage
    annotations_digest: object
    """What ``run.json`` says of the slide's annotations."""


def find_scene_problems(
    scene: SlideScene, evidence: SceneEvidence, *, size_wh_px: tuple[int, int] | None
) -> Iterator[str]:
    """Yield what in a scene contradicts the evidence.

    Parameters
    ----------
    size_wh_px
        Size of the stored image, ``None`` when it is unknown; then domains and coverage are not derived again.

    Raises
    ------
    ValueError
        When the settings or the plan cannot be.
    """
    slide, settings = evidence.slide, evidence.settings
    for what, found, due in (
        ("slide_id", scene.slide_id, slide.slide_id),
        ("group", scene.group, slide.group),
        ("frame", scene.frame, _frame_of(slide, settings)),
        ("scale of the tissue mask", scene.tissue.l0_per_mask_px, evidence.tissue.l0_per_mask_px),
        ("sampling", asdict(scene.sampling), asdict(sampling_options(settings))),
        ("rules", asdict(scene.rules), asdict(_label_rules(settings))),
        ("digest of the annotations", digest_of_annotations(scene.annotations), evidence.annotations_digest),
    ):
        if found != due:
            yield f"{what} is {found}, must be {due}"
    for what, image, wanted in (
        ("tissue mask", scene.tissue.mask, evidence.tissue.mask),
        ("coverage", scene.coverage, evidence.coverage),
    ):
        if not np.array_equal(image, wanted):
            yield f"the {what} is not that of the plan"
    if size_wh_px is not None:
        domains = domains_of(slide, settings, size_wh_px=size_wh_px)
        if scene.domains != domains:
            yield f"domains are {scene.domains}, must be {domains}"
        yield from _coverage_problems(scene, evidence, size_wh_px=size_wh_px)
    yield from _window_problems(evidence)


def _frame_of(slide: ManifestSlide, settings: ManifestSettings) -> OutputFrame:
    if slide.level is None or slide.l0_per_px_xy is None:
        raise ValueError("the manifest does not state its level and scale")
    x, y = slide.l0_per_px_xy
    return OutputFrame(
        patch_w_out_px=settings.patch_size,
        patch_h_out_px=settings.patch_size,
        scale=Scale(x=x, y=y),
        level=slide.level,
        level_downsample=x,  # pixels of a level are stored as they are
        um_per_px_out_xy=slide.um_per_px_out_xy,
    )


def sampling_options(settings: ManifestSettings) -> SamplingOptions:
    """Return the law that the settings name."""
    return SamplingOptions(
        mode="grid" if settings.sampling == GRID else "anchored",
        patches_per_slide=settings.patches_per_slide,
        shares=settings.mixture,
        stride_px=settings.stride_px or stride_from_overlap(settings.patch_size, overlap=settings.overlap),
        seed=settings.seed,
        jitter_fraction=settings.jitter,
        min_margin_px=settings.min_margin_px,
        max_repeats_per_anchor=settings.max_repeats_per_anchor,
        random_negatives_only=settings.random_negatives_only,
        min_tissue_fraction=settings.min_tissue_fraction,
    )


def _label_rules(settings: ManifestSettings) -> LabelRules:
    return LabelRules(
        label_hard_negatives=settings.label_hard_negatives,
        label_visible_fraction=settings.label_visible_fraction,
        crowd_visible_fraction=settings.crowd_visible_fraction,
    )


def domains_of(
    slide: ManifestSlide, settings: ManifestSettings, *, size_wh_px: tuple[int, int]
) -> tuple[tuple[Split, Rect], ...]:
    """Return where patches of each split may lie: the scanned part of the slide, or its halves, as far as stored."""
    if slide.width_l0_px is None or slide.height_l0_px is None or slide.l0_per_px_xy is None:
        raise ValueError("the manifest does not state its size and scale")
    whole = Rect(x0=0, y0=0, x1=slide.width_l0_px, y1=slide.height_l0_px)
    bounds = slide.bounds_l0
    domain = whole if bounds is None else Rect(x0=bounds.x0, y0=bounds.y0, x1=bounds.x1, y1=bounds.y1)
    domains: tuple[tuple[Split, Rect], ...] = tuple((split, domain) for split in slide.splits)
    if settings.split_mode == HALF_MODE and len(slide.splits) > 1:
        domains = half_domains(domain, guard_px=settings.guard_px)
    right, bottom = (int(side * step) for side, step in zip(size_wh_px, slide.l0_per_px_xy, strict=True))
    return tuple(
        (split, Rect(x0=rect.x0, y0=rect.y0, x1=min(rect.x1, right), y1=min(rect.y1, bottom)))
        for split, rect in domains
    )


def _coverage_problems(scene: SlideScene, evidence: SceneEvidence, *, size_wh_px: tuple[int, int]) -> Iterator[str]:
    """Yield when other chunks are stored than the settings ask for."""
    settings = evidence.settings
    if settings.coverage is None:
        return  # reported with the manifest
    width, height = size_wh_px
    needed = needed_chunks(
        evidence.plan.origins_out,
        coverage=settings.coverage,
        scene=CoverageScene(
            width_out_px=width,
            height_out_px=height,
            domains=domains_of(evidence.slide, settings, size_wh_px=size_wh_px),
            frame=_frame_of(evidence.slide, settings),
            annotations=scene.annotations,
            tissue=evidence.tissue,
            options=sampling_options(settings),
        ),
    )
    if needed.shape != evidence.coverage.shape:
        yield f"the coverage has {evidence.coverage.shape} chunks, the stored image {needed.shape}"
    elif n_missing := int(np.count_nonzero(needed & ~evidence.coverage)):
        yield f"coverage {settings.coverage} needs {n_missing} chunks more than are stored"
    elif n_more := int(np.count_nonzero(evidence.coverage & ~needed)):
        yield f"{n_more} chunks are stored that coverage {settings.coverage} does not ask for"


def _window_problems(evidence: SceneEvidence) -> Iterator[str]:
    """Yield the planned patches that are no window of whole stored pixels."""
    plan, slide = evidence.plan, evidence.slide
    steps = np.array(slide.l0_per_px_xy, dtype=np.float64)
    is_off = (plan.origins_out * steps != plan.origins_l0).any(axis=1)
    for row in np.flatnonzero(is_off).tolist():
        yield f"patch {row} at {plan.origins_l0[row].tolist()} begins between two stored pixels"
    for row in np.flatnonzero(_n_uncovered(plan.origins_out, evidence)).tolist():
        yield f"patch {row} at {plan.origins_l0[row].tolist()} leaves the coverage"


def _n_uncovered(origins_out: IntArray, evidence: SceneEvidence) -> IntArray:
    """Return how many chunks that each window touches are not stored; windows beyond the image touch some as well."""
    rows, columns = evidence.coverage.shape
    # One more row and column, which are never stored, stand for everything beyond the image.
    absent = np.ones((rows + 1, columns + 1), dtype=np.bool_)
    absent[:rows, :columns] = ~evidence.coverage
    table = integral_image(absent)
    last_xy = (columns + 1, rows + 1)
    start_x, start_y = np.clip(origins_out // CHUNK_PX, 0, last_xy).T
    stop_x, stop_y = np.clip(-(-(origins_out + evidence.settings.patch_size) // CHUNK_PX), 0, last_xy).T
    touched: IntArray = (
        table[stop_y, stop_x] - table[start_y, stop_x] - table[stop_y, start_x] + table[start_y, start_x]
    ).astype(np.int64)
    return touched
