"""A slide of the pixel store: its pixels, and the scene that training draws new patches from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_extract.arrays import BoolImage
from wsi_extract.index import read_scene
from wsi_extract.model import PatchTable
from wsi_extract.state.layout import pixel_image_folder, plan_path, scene_folder, survey_path
from wsi_extract.state.plans import SurveyRecord, read_coverage, read_mask
from wsi_extract.stores.pixel_array import open_pixel_array
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.labels import find_annotation_problems
from wsi_extract.verify.manifest import ManifestSettings, ManifestSlide
from wsi_extract.verify.pixel_store import StoredImage, check_image
from wsi_extract.verify.recorded import RecordedSlide
from wsi_extract.verify.scenes import SceneEvidence, find_scene_problems


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelSlide:
    """What was read of a slide so far."""

    slide: ManifestSlide
    settings: ManifestSettings
    survey: SurveyRecord | None
    plan: PatchTable | None
    """``None``, each of them, when it cannot be used; that is reported where it was read."""
    recorded: RecordedSlide | None
    """``None`` when there are no records, or they cannot be used."""
    annotations_digest: object


def check_pixel_slide(output_dir: Path, known: PixelSlide, *, findings: Findings) -> tuple[str, ...] | None:
    """Check image and scene of one slide.

    Returns
    -------
    The digests of all its files of pixels, ``None`` when some are unknown.
    """
    slide_id, codec = known.slide.slide_id, known.settings.pixel_codec
    if codec is None or known.survey is None:
        return None  # reported with the manifest, or with the plan
    coverage = _read_coverage(output_dir, known.survey, findings=findings)
    if coverage is None:
        return None
    digests: list[str] | None = None
    with findings.reading(Check.PIXELS, pixel_image_folder(output_dir, slide_id=slide_id)):
        image = StoredImage(output_dir=output_dir, slide=known.slide, coverage=coverage, codec=codec)
        digests = check_image(image, findings=findings)
    with findings.reading(Check.SCENES, scene_folder(output_dir, slide_id=slide_id)):
        if known.plan is not None:
            _check_scene(output_dir, known, plan=known.plan, coverage=coverage, findings=findings)
    if digests is None:
        return None
    return (*(() if known.recorded is None else known.recorded.file_digests), *digests)


def _read_coverage(output_dir: Path, survey: SurveyRecord, *, findings: Findings) -> BoolImage | None:
    """Return which chunks the plan wants, when that is what the survey recorded."""
    slide_id = survey.slide_id
    path = plan_path(output_dir, slide_id=slide_id)
    with findings.reading(Check.PLANS, path):
        coverage = read_coverage(path, record=survey)
        n_chunks = int(np.count_nonzero(coverage))
        path = survey_path(output_dir, slide_id=slide_id)
        findings.expect(Check.PLANS, path, what="n_chunks", stated=survey.n_chunks, found=n_chunks)
        return coverage
    return None


def _check_scene(
    output_dir: Path, known: PixelSlide, *, plan: PatchTable, coverage: BoolImage, findings: Findings
) -> None:
    slide_id, settings = known.slide.slide_id, known.settings
    folder = scene_folder(output_dir, slide_id=slide_id)
    scene = read_scene(folder)
    findings.n_files += 1
    evidence = SceneEvidence(
        slide=known.slide,
        settings=settings,
        plan=plan,
        tissue=read_mask(plan_path(output_dir, slide_id=slide_id)),
        coverage=coverage,
        annotations_digest=known.annotations_digest,
    )
    size_wh_px: tuple[int, int] | None = None
    with Findings().reading(Check.PIXELS, folder):  # reported with the image
        array = open_pixel_array(output_dir, slide_id=slide_id, coverage=coverage)
        size_wh_px = array.size_wh_px
    for message in find_scene_problems(scene, evidence, size_wh_px=size_wh_px):
        findings.add(Check.SCENES, folder, message)
    if known.recorded is not None:
        is_centre_rule = settings.label_visible_fraction is None
        for check, message in find_annotation_problems(
            known.recorded, scene.annotations, is_centre_rule=is_centre_rule
        ):
            findings.add(check, folder, message)
