"""Plans, tissue masks, block records and the Zarr stores of pixels, one slide at a time."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsi_extract.model import NO_ANCHOR, PatchKind, PatchTable
from wsi_extract.state.layout import plan_path, record_path, run_path, survey_path
from wsi_extract.state.plans import SurveyRecord, read_mask, read_patches, read_survey_record
from wsi_extract.state.records import BlockDocument
from wsi_extract.storage import Store
from wsi_extract.verify.findings import DAMAGE, Check, Findings, read_json_object
from wsi_extract.verify.labels import find_label_problems
from wsi_extract.verify.leakage import count_shared_pixels
from wsi_extract.verify.manifest import Manifest, ManifestSettings, ManifestSlide
from wsi_extract.verify.online import PixelSlide, check_pixel_slide
from wsi_extract.verify.patch_arrays import check_patch_arrays
from wsi_extract.verify.recorded import SPLITS, RecordedSlide, digest_over, documents_of, gather_slide

TISSUE_TOLERANCE = 1e-6
"""Fractions are stored to six decimals."""
EDGE_TOLERANCE_L0_PX = 1e-3


def check_slides(output_dir: Path, manifest: Manifest, *, findings: Findings) -> None:
    """Check the plan, the mask, the records and the Zarr stores of every complete slide."""
    settings = manifest.settings
    findings.done |= {Check.PLANS, Check.RECORDS, Check.TISSUE, Check.LABELS, Check.ANCHORS, Check.LEAKAGE}
    if settings.store.has_patch_arrays:
        findings.done.add(Check.ARRAYS)
    if settings.store is Store.PIXELS:
        findings.done |= {Check.PIXELS, Check.SCENES}
    annotations = _annotation_digests(output_dir) if settings.store is Store.PIXELS else {}
    for slide in manifest.complete_slides:
        survey, plan = _read_plan(output_dir, slide, findings=findings)
        recorded = _read_records(output_dir, slide, settings=settings, findings=findings)
        if recorded is not None:
            _check_recorded(output_dir, recorded, slide, plan=plan, settings=settings, findings=findings)
        digests: tuple[str, ...] | None = () if recorded is None else recorded.file_digests
        has_usable_records = recorded is not None or slide.n_blocks == 0
        if settings.store.has_patch_arrays and has_usable_records:
            check_patch_arrays(output_dir, slide, recorded=recorded, settings=settings, findings=findings)
        elif settings.store is Store.PIXELS:
            known = PixelSlide(
                slide=slide,
                settings=settings,
                survey=survey,
                plan=plan,
                recorded=recorded,
                annotations_digest=annotations.get(slide.slide_id),
            )
            digests = check_pixel_slide(output_dir, known, findings=findings)
        if digests is not None and has_usable_records:
            _check_digests(output_dir, slide, digests=digests, findings=findings)


def _check_digests(output_dir: Path, slide: ManifestSlide, *, digests: Iterable[str], findings: Findings) -> None:
    path = record_path(output_dir, slide_id=slide.slide_id, index=0).parent
    with findings.reading(Check.RECORDS, path):
        found = digest_over(digests)
        findings.expect(
            Check.RECORDS, path, what="the manifest's pixels_sha256", stated=slide.pixels_sha256, found=found
        )


def _annotation_digests(output_dir: Path) -> dict[str, object]:
    """Return what ``run.json`` says of each slide's annotations; what is wrong with the file is reported elsewhere."""
    try:
        slides = read_json_object(run_path(output_dir))["slides"]
        return {name: slide["annotations"] for name, slide in slides.items()} if isinstance(slides, dict) else {}
    except DAMAGE:
        return {}


def _check_recorded(
    output_dir: Path,
    recorded: RecordedSlide,
    slide: ManifestSlide,
    *,
    plan: PatchTable | None,
    settings: ManifestSettings,
    findings: Findings,
) -> None:
    records_path = record_path(output_dir, slide_id=slide.slide_id, index=0).parent
    path = plan_path(output_dir, slide_id=slide.slide_id)
    with findings.reading(Check.RECORDS, records_path):
        _check_against_manifest(recorded, slide, path=records_path, findings=findings)
        _check_places(recorded, slide, path=records_path, findings=findings)
        is_centre_rule = settings.label_visible_fraction is None
        for check, message in find_label_problems(recorded, is_centre_rule=is_centre_rule):
            findings.add(check, records_path, message)
    if plan is not None:
        with findings.reading(Check.TISSUE, path):
            _check_against_plan(recorded, plan, path=records_path, findings=findings)
            _check_tissue(recorded, slide, plan=plan, path=path, settings=settings, findings=findings)


def _read_plan(
    output_dir: Path, slide: ManifestSlide, *, findings: Findings
) -> tuple[SurveyRecord | None, PatchTable | None]:
    """Return the record of the survey, and the planned patches when the plan is the one that the manifest names."""
    survey: SurveyRecord | None = None
    path = survey_path(output_dir, slide_id=slide.slide_id)
    with findings.reading(Check.PLANS, path):
        survey = _read_survey(path)
        for what, stated, found in (
            ("slide_id", survey.slide_id, slide.slide_id),
            ("plan_digest", survey.plan_digest, slide.plan_digest),
            ("tissue_share", survey.tissue_share, slide.tissue_share),
            ("n_patches", survey.n_patches, slide.n_planned),
        ):
            findings.expect(Check.PLANS, path, what=what, stated=stated, found=found)
        findings.n_files += 1
        path = plan_path(output_dir, slide_id=slide.slide_id)
        with findings.reading(Check.PLANS, path):
            patches = read_patches(path, record=survey)
            findings.n_files += 1
            findings.expect(Check.PLANS, path, what="n_patches", stated=survey.n_patches, found=len(patches))
            return survey, patches
    return survey, None


def _read_survey(path: Path) -> SurveyRecord:
    survey = read_survey_record(path)
    if survey is None:
        raise FileNotFoundError(errno.ENOENT, "no such record", str(path))
    for key in ("slide_id", "job_key", "plan_digest", "plan_sha256", "coverage_digest"):
        if not isinstance(getattr(survey, key), str):
            raise TypeError(f"{key} is not a text")
    return survey


def _read_records(
    output_dir: Path, slide: ManifestSlide, *, settings: ManifestSettings, findings: Findings
) -> RecordedSlide | None:
    """Return what the records of a slide say, ``None`` when one of them cannot be used or there are none."""
    folder = record_path(output_dir, slide_id=slide.slide_id, index=0).parent
    with findings.reading(Check.RECORDS, folder):
        documents = []
        for path, document in documents_of(output_dir, slide_id=slide.slide_id, n_blocks=slide.n_blocks):
            findings.n_files += 1
            findings.expect(
                Check.RECORDS, path, what="plan_digest", stated=document["plan_digest"], found=slide.plan_digest
            )
            _check_label_counts(document, settings=settings, path=path, findings=findings)
            _check_kept(document, store=settings.store, path=path, findings=findings)
            documents.append(document)
        if documents:
            return gather_slide(documents, slide_id=slide.slide_id)
        findings.expect(Check.RECORDS, folder, what="patches without a record", stated=slide.n_written, found=0)
    return None


def _check_label_counts(document: BlockDocument, *, settings: ManifestSettings, path: Path, findings: Findings) -> None:
    """Count labels, look-alikes and crowd of one block again."""
    stated = Counter(document["label_counts"])
    labels = [label for entry in document["patches"] for label in entry["labels"]]
    n_aside = sum(len(entry.get("look_alikes", [])) for entry in document["patches"])
    n_of = Counter(label["category_id"] for label in labels if not label["iscrowd"])
    crowd_roles = ("target", "ignore", "hard_negative") if settings.label_hard_negatives else ("target", "ignore")
    for what, counted, found in (
        ("target_label", stated["target_label"], n_of[1]),
        ("hard_negative_label", stated["hard_negative_label"], n_of[2] + n_aside),
        ("crowd", sum(stated[f"{role}_crowd"] for role in crowd_roles), sum(label["iscrowd"] for label in labels)),
    ):
        findings.expect(Check.RECORDS, path, what=f"label_counts, {what}", stated=counted, found=found)
    if (n_aside if settings.label_hard_negatives else n_of[2]) > 0:
        findings.add(Check.RECORDS, path, "look-alikes are labelled although the settings say otherwise, or not")


def _check_kept(document: BlockDocument, *, store: Store, path: Path, findings: Findings) -> None:
    """Check that a block tells of the files that the store has, and of no others."""
    patches = document["patches"]
    n_files = len(patches) if store.has_png else 0
    for what, stated, found in (
        ("sizes of PNG files", sum("bytes" in patch for patch in patches), n_files),
        ("digests of PNG files", sum("sha256" in patch for patch in patches), n_files),
        ("shards", int("shard" in document), int(store.has_patch_arrays)),
    ):
        findings.expect(Check.RECORDS, path, what=f"{what} for store {store}", stated=stated, found=found)


def _check_against_manifest(recorded: RecordedSlide, slide: ManifestSlide, *, path: Path, findings: Findings) -> None:
    kinds, splits = recorded.kind.tolist(), recorded.split.tolist()
    n_of = Counter((SPLITS[split], PatchKind(kind).label) for split, kind in zip(splits, kinds, strict=True))
    for what, stated, found in (
        ("n_written", slide.n_written, len(recorded.rows)),
        ("splits leave out", [], sorted({SPLITS[code].value for code in splits}.difference(slide.splits))),
        ("patches_by_kind", slide.patches_by_kind, dict(Counter(PatchKind(kind).label for kind in kinds))),
        ("label_counts", slide.label_counts, dict(recorded.label_counts)),
        ("l0_per_px_xy", slide.l0_per_px_xy, recorded.frame.l0_per_px_xy),
        ("um_per_px_out_xy", slide.um_per_px_out_xy, recorded.frame.um_per_px_xy),
        ("level", slide.level, recorded.frame.level),
        *(
            (f"{kind} patches planned for {account.split}", n, n_of[account.split, kind])
            for account in slide.accounts
            for kind, n in account.n_planned.items()
        ),
    ):
        findings.expect(Check.RECORDS, path, what=f"the manifest's {what}", stated=stated, found=found)


def _check_places(recorded: RecordedSlide, slide: ManifestSlide, *, path: Path, findings: Findings) -> None:
    """Check that patches lie on the slide, each at its own place, and share no pixel across splits."""
    origins, footprint = recorded.origins_l0, np.array(recorded.frame.footprint_l0_wh)
    if slide.width_l0_px is None or slide.height_l0_px is None:
        findings.add(Check.PLANS, path, f"the manifest does not state the size of slide {slide.slide_id}")
    else:
        over = origins + footprint - (slide.width_l0_px, slide.height_l0_px)
        for row in np.flatnonzero((origins < 0).any(axis=1) | (over > EDGE_TOLERANCE_L0_PX).any(axis=1)).tolist():
            findings.add(Check.PLANS, path, f"patch {row} at {origins[row].tolist()} reaches over the slide's edge")
    places = np.column_stack([recorded.split, origins])
    _, n_times = np.unique(places, axis=0, return_counts=True)
    if n_repeated := int(np.count_nonzero(n_times > 1)):
        findings.add(Check.PLANS, path, f"{n_repeated} places are read by several patches of one split")
    n_pairs = count_shared_pixels(origins, split=recorded.split, footprint_l0_wh=recorded.frame.footprint_l0_wh)
    if n_pairs:
        findings.add(Check.LEAKAGE, path, f"{n_pairs} pairs of patches of different splits share pixels of this slide")


def _check_against_plan(recorded: RecordedSlide, plan: PatchTable, *, path: Path, findings: Findings) -> None:
    """Check that the records hold what was planned, patch by patch."""
    n = len(plan)
    if len(recorded.rows) != n:
        findings.add(Check.RECORDS, path, f"{n} patches planned, {len(recorded.rows)} recorded")
        return
    has_anchor = np.array([name is not None for name in recorded.anchors], dtype=np.bool_)
    for what, found, planned in (
        ("number", recorded.rows, np.arange(n)),
        ("origin_l0", recorded.origins_l0, plan.origins_l0),
        ("split", recorded.split, plan.split),
        ("kind", recorded.kind, plan.kind),
        ("requested_kind", recorded.requested_kind, plan.requested_kind),
        ("having an anchor", has_anchor, plan.anchor_row != NO_ANCHOR),
        ("tissue_fraction", recorded.tissue_fraction, plan.tissue_fraction),
    ):
        off = np.abs(np.asarray(found, dtype=np.float64) - np.asarray(planned, dtype=np.float64))
        differs = (off > TISSUE_TOLERANCE).reshape(n, -1).any(axis=1)
        for row in np.flatnonzero(differs).tolist():
            message = f"patch {row}: {what} is {found[row].tolist()}, planned {planned[row].tolist()}"
            findings.add(Check.RECORDS, path, message)


def _check_tissue(
    recorded: RecordedSlide,
    slide: ManifestSlide,
    *,
    plan: PatchTable,
    path: Path,
    settings: ManifestSettings,
    findings: Findings,
) -> None:
    """Recompute every tissue fraction from the stored mask; random and grid patches must reach the threshold."""
    tissue = read_mask(path)
    share = round(tissue.tissue_share, 6)
    findings.expect(Check.TISSUE, path, what="tissue_share", stated=slide.tissue_share, found=share)
    w_l0, h_l0 = recorded.frame.footprint_l0_wh
    fractions = tissue.fractions(plan.origins_l0, w_l0=w_l0, h_l0=h_l0)
    for row in np.flatnonzero(np.abs(fractions - plan.tissue_fraction) > TISSUE_TOLERANCE).tolist():
        message = (
            f"patch {row}: planned with {plan.tissue_fraction[row]:.6f} tissue, the mask says {fractions[row]:.6f}"
        )
        findings.add(Check.TISSUE, path, message)
    needs_tissue = (plan.kind == PatchKind.RANDOM) | (plan.kind == PatchKind.GRID)
    for row in np.flatnonzero(needs_tissue & (fractions < settings.min_tissue_fraction - TISSUE_TOLERANCE)).tolist():
        message = f"patch {row}: {fractions[row]:.6f} tissue, less than {settings.min_tissue_fraction}"
        findings.add(Check.TISSUE, path, message)
