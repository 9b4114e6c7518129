"""Worker function 1: one slide -> its plan.

Everything that needs the whole slide happens here: who reads it, the tissue mask, the estimate of its stain, the
sampling of coordinates. Runs in any process, knows nothing of Dask, and returns a small record; the plan itself goes
to disk.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wsi_extract.arrays import BoolImage
from wsi_extract.blocks import MAX_MASK_PX
from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Rect
from wsi_extract.model import AnnotationTable, OutputFrame, SlideInfo, SlidePlan, Split, TissueMask
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.resolution import choose_overview
from wsi_extract.sampling import CoverageScene, SamplingOptions, needed_chunks, plan_slide
from wsi_extract.slides.open_slides import OpenedSlide, SlideCache, choose_reader, read_overview
from wsi_extract.stain import StainEstimate, StainTarget, estimate_stain, sample_places
from wsi_extract.state.layout import plan_path, survey_path
from wsi_extract.state.plans import (
    SurveyRecord,
    digest_of_annotations,
    digest_of_coverage,
    digest_of_plan,
    encode_survey,
    job_key,
    read_coverage,
    read_mask,
    read_patches,
    read_survey_record,
    write_plan,
)
from wsi_extract.state.run_claims import check_claim
from wsi_extract.storage import Coverage
from wsi_extract.tissue import TissueMethod, segment_tissue

STAIN_WINDOW_PX = 64
N_STAIN_WINDOWS = 64
"""262,144 pixels: twice as many as the estimate needs, because windows on tissue hold glass too."""
UM_PER_PX_AT_1X = 10.0
"""Convention of the field: 40x is 0.25 um per px."""
FALLBACK_MASK_DOWNSAMPLE = 16.0
"""For slides of unknown resolution: 2.5x if they were scanned at 40x. Affects the mask's coarseness only."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurveyJob:
    """One slide to survey, with all that decides its plan."""

    slide: SlideInfo
    frame: OutputFrame
    domains: tuple[tuple[Split, Rect], ...]
    """Where patches of each split may lie, level-0 px."""
    annotations: AnnotationTable
    sampling: SamplingOptions
    tissue_method: TissueMethod
    mask_magnification: float
    coverage: Coverage | None
    """What the pixel store holds; ``None`` for other stores."""
    reader_mode: ReaderMode
    """Never changes the plan or the pixels."""
    stain_target: StainTarget | None
    """What the slide's stain is brought to; ``None`` leaves it as it was scanned."""
    run_key: str
    """Digest of the settings and inputs of the run."""
    output_dir: Path | None
    """Where the plan is kept; ``None`` keeps nothing, for a dry run."""
    run_digest: str | None = None
    """Of the run that claimed the folder, see `state.run_claims`; ``None`` for a folder that nobody claims."""


def survey_slide(job: SurveyJob, slides: SlideCache) -> SurveyRecord:
    """Make the plan of one slide, or return the record of the one already made.

    Raises
    ------
    SlideError
        When the slide cannot be read.
    EnvironmentFaultError
        When the folder does not belong to the job's run any more.
    """
    key = _key_of(job)
    slide_id = job.slide.slide_id
    if job.output_dir is not None:
        known = _read_finished(job.output_dir, slide_id=slide_id, key=key)
        if known is not None:
            return _with_reader(known, job, slides)
    reader = _choose_reader(job, slides)
    slide = slides.get(job.slide, reader=reader)
    tissue = mask_tissue(slide, job.slide, method=job.tissue_method, mask_magnification=job.mask_magnification)
    stain = _estimate_stain(job, slide, tissue)
    plan = plan_slide(
        slide_id,
        domains=readable_domains(job),
        frame=job.frame,
        annotations=job.annotations,
        tissue=tissue,
        options=job.sampling,
    )
    coverage = _cover(job, plan, tissue)
    plan_sha256 = ""
    if job.output_dir is not None:
        path = plan_path(job.output_dir, slide_id=slide_id)
        check_claim(job.output_dir, job.run_digest)
        plan_sha256 = write_plan(path, plan, tissue=tissue, coverage=coverage)
    record = SurveyRecord(
        slide_id=slide_id,
        job_key=key,
        plan_digest=digest_of_plan(plan, job_key=key),
        plan_sha256=plan_sha256,
        n_patches=len(plan.patches),
        accounts=plan.accounts,
        tissue_share=round(tissue.tissue_share, 6),
        mask_l0_per_px_xy=(tissue.l0_per_mask_px.x, tissue.l0_per_mask_px.y),
        n_chunks=0 if coverage is None else int(np.count_nonzero(coverage)),
        coverage_digest="" if coverage is None else digest_of_coverage(coverage),
        reader_mode=job.reader_mode,
        reader=reader,
        stain=stain.transform,
        stain_reason=stain.reason,
    )
    _write_survey(job, record)
    return record


def _choose_reader(job: SurveyJob, slides: SlideCache) -> ReaderChoice:
    """Return who reads the levels that the survey and the extraction use."""
    target = mask_downsample(job.slide, mask_magnification=job.mask_magnification)
    overview, _ = choose_overview(job.slide.levels, target_downsample=target, max_px=MAX_MASK_PX)
    return choose_reader(
        job.slide,
        slides,
        mode=job.reader_mode,
        levels=sorted({job.frame.level, overview}),
        patch_level=job.frame.level,
        seed=job.sampling.seed,
    )


def _with_reader(known: SurveyRecord, job: SurveyJob, slides: SlideCache) -> SurveyRecord:
    """Return the record of an earlier run with the reader that this one asks for."""
    if known.reader_mode is job.reader_mode:
        return known
    record = replace(known, reader_mode=job.reader_mode, reader=_choose_reader(job, slides))
    _write_survey(job, record)
    return record


def _write_survey(job: SurveyJob, record: SurveyRecord) -> None:
    if job.output_dir is not None:
        check_claim(job.output_dir, job.run_digest)
        write_atomically(survey_path(job.output_dir, slide_id=record.slide_id), encode_survey(record))


def _estimate_stain(job: SurveyJob, slide: OpenedSlide, tissue: TissueMask) -> StainEstimate:
    """Return what normalises the slide, from small windows of the level that patches are cut from."""
    if job.stain_target is None:
        return StainEstimate(transform=None, reason="", n_pixels=0)
    side_l0_px = math.ceil(STAIN_WINDOW_PX * job.frame.level_downsample)
    places_l0 = sample_places(
        tissue,
        domains=[rect for _, rect in readable_domains(job)],
        n_places=N_STAIN_WINDOWS,
        side_l0_px=side_l0_px,
        seed=job.sampling.seed,
        slide_id=job.slide.slide_id,
    )
    windows = [
        slide.read_region(job.frame.level, x_l0=x, y_l0=y, w_lv_px=STAIN_WINDOW_PX, h_lv_px=STAIN_WINDOW_PX)
        for x, y in places_l0.tolist()
    ]
    pixels = np.concatenate([np.empty((0, 3), dtype=np.uint8), *(window.reshape(-1, 3) for window in windows)])
    return estimate_stain(pixels, method=job.stain_target.method, target=job.stain_target)


def _cover(job: SurveyJob, plan: SlidePlan, tissue: TissueMask) -> BoolImage | None:
    """Return which chunks the pixel store will hold of this slide."""
    if job.coverage is None:
        return None
    level = job.slide.levels[job.frame.level]
    scene = CoverageScene(
        width_out_px=level.width_px,
        height_out_px=level.height_px,
        domains=readable_domains(job),
        frame=job.frame,
        annotations=job.annotations,
        tissue=tissue,
        options=job.sampling,
    )
    return needed_chunks(plan.patches.origins_out, coverage=job.coverage, scene=scene)


def _read_finished(output_dir: Path, *, slide_id: str, key: str) -> SurveyRecord | None:
    """Return the record of the same job done earlier, if its plan is there and whole."""
    known = read_survey(output_dir, slide_id=slide_id)
    if known is None or known.job_key != key:
        return None
    try:
        read_patches(plan_path(output_dir, slide_id=slide_id), record=known)
        read_mask(plan_path(output_dir, slide_id=slide_id))
        if known.coverage_digest:
            read_coverage(plan_path(output_dir, slide_id=slide_id), record=known)
    except IntegrityError:
        return None
    return known


def read_survey(output_dir: Path, *, slide_id: str) -> SurveyRecord | None:
    """Return the record of a finished survey, ``None`` when there is none or it is damaged and must be made again."""
    try:
        return read_survey_record(survey_path(output_dir, slide_id=slide_id))
    except IntegrityError:
        return None


def mask_tissue(slide: OpenedSlide, info: SlideInfo, *, method: TissueMethod, mask_magnification: float) -> TissueMask:
    """Return where the slide holds tissue, seen at about ``mask_magnification``."""
    target = mask_downsample(info, mask_magnification=mask_magnification)
    overview, l0_per_px = read_overview(slide, info, target_downsample=target, max_px=MAX_MASK_PX)
    um_per_px = None if info.um_per_px_xy is None else info.um_per_px_xy[0] * l0_per_px.x
    return TissueMask(mask=segment_tissue(overview, method=method, um_per_px=um_per_px), l0_per_mask_px=l0_per_px)


def mask_downsample(info: SlideInfo, *, mask_magnification: float) -> float:
    """Return the downsample that shows the slide at ``mask_magnification``."""
    if info.um_per_px_xy is not None:
        return UM_PER_PX_AT_1X / mask_magnification / max(info.um_per_px_xy)
    if info.objective_power is not None:
        return info.objective_power / mask_magnification
    return FALLBACK_MASK_DOWNSAMPLE


def readable_domains(job: SurveyJob) -> tuple[tuple[Split, Rect], ...]:
    """Return the domains without the sliver at the right and bottom that the level to be read does not cover.

    Levels have whole pixels: a level of 555 px with downsample 4.003 ends at level-0 column 2221 of 2223.
    """
    level = job.slide.levels[job.frame.level]
    right, bottom = int(level.width_px * level.downsample), int(level.height_px * level.downsample)
    return tuple(
        (split, Rect(x0=rect.x0, y0=rect.y0, x1=min(rect.x1, right), y1=min(rect.y1, bottom)))
        for split, rect in job.domains
    )


def _key_of(job: SurveyJob) -> str:
    return job_key(
        {
            "run": job.run_key,
            "slide": job.slide.slide_id,
            "fingerprint": job.slide.fingerprint,
            "frame": asdict(job.frame),
            "domains": [[split.value, asdict(rect)] for split, rect in job.domains],
            "annotations": digest_of_annotations(job.annotations),
            "coverage": job.coverage,
            "stain": None if job.stain_target is None else job.stain_target.identity(),
        }
    )
