"""The manifest of a finished data set: its shape, and its numbers against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_extract.disk.files import canonical_json, pretty_json, sha256_of
from wsi_extract.model import Split
from wsi_extract.state.layout import MANIFEST, instances_name
from wsi_extract.storage import LEVELS, CodecName, Coverage, Store
from wsi_extract.stores.codecs import PixelCodec
from wsi_extract.verify.findings import Check, Findings, read_json_object

KNOWN_SCHEMA = 1
COMPLETE = "complete"
FAILED = "failed"
PARTIAL = "partial"
STATUSES = frozenset({COMPLETE, FAILED, "skipped", "unlabelled"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class ManifestAccount(_Part):
    """Why a slide yields what it yields in one split."""

    split: Split
    n_asked: int
    n_planned: dict[str, int]
    n_missing: int
    missing_reason: str


class ManifestRect(_Part):
    """A half-open rectangle, level-0 px."""

    x0: int
    y0: int
    x1: int
    y1: int


class ManifestSlide(_Part):
    """One slide of the manifest; fields that only planned slides have are optional."""

    slide_id: str = Field(min_length=1)
    status: str
    reason: str
    group: str | None
    splits: tuple[Split, ...]
    n_planned: int
    n_written: int
    n_failed: int
    patches_by_kind: dict[str, int]
    label_counts: dict[str, int]
    fingerprint: str | None = None
    width_l0_px: int | None = None
    height_l0_px: int | None = None
    level: int | None = None
    l0_per_px_xy: tuple[float, float] | None = None
    um_per_px_out_xy: tuple[float, float] | None = None
    bounds_l0: ManifestRect | None = None
    tissue_share: float | None = None
    plan_digest: str | None = None
    n_blocks: int = 0
    pixels_sha256: str | None = None
    content_sha256: str | None = None
    accounts: tuple[ManifestAccount, ...] = ()


class ManifestSplit(_Part):
    """What the manifest says of one COCO document."""

    file: str
    sha256: str
    n_images: int
    n_empty_images: int
    n_crowd: int
    labels_by_category: dict[str, int]
    images_by_kind: dict[str, int]


class ManifestCounts(_Part):
    """Totals of the data set."""

    slides_found: int
    slides: dict[str, int]
    patches_not_possible: int
    patches_planned: int
    patches_written: int
    patches_failed: int


class ManifestSettings(_Part):
    """The settings that checks depend on."""

    patch_size: int
    min_tissue_fraction: float
    sampling: str
    patches_per_slide: int
    mixture: tuple[float, float, float]
    jitter: float
    min_margin_px: int
    max_repeats_per_anchor: int | None
    random_negatives_only: bool
    overlap: float
    stride_px: int | None
    seed: int
    split_mode: str
    guard_px: int
    label_hard_negatives: bool
    label_visible_fraction: float | None
    crowd_visible_fraction: float
    store: Store
    codec: CodecName | None = None
    codec_level: int | None = None
    coverage: Coverage | None = None

    @property
    def pixel_codec(self) -> PixelCodec | None:
        """Codec of Zarr stores, ``None`` when there are none or the settings name none that exists."""
        if self.codec is None or self.codec_level is None:
            return None
        low, high, _ = LEVELS[self.codec]
        return PixelCodec(name=self.codec, level=self.codec_level) if low <= self.codec_level <= high else None


class _ManifestDocument(_Part):
    status: str
    settings: ManifestSettings
    counts: ManifestCounts
    content_sha256: str
    index_sha256: str
    splits: dict[Split, ManifestSplit]
    n_foreground_classes: int
    num_classes_deformable_detr: int
    slides: tuple[ManifestSlide, ...]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that has the right shape; its content is not trusted yet."""

    path: Path
    document: _ManifestDocument
    raw: Mapping[str, object]

    @property
    def settings(self) -> ManifestSettings:
        """The settings that checks depend on."""
        return self.document.settings

    @property
    def splits(self) -> Mapping[Split, ManifestSplit]:
        """What is said of each COCO document."""
        return self.document.splits

    @property
    def slides(self) -> tuple[ManifestSlide, ...]:
        """All slides found by the run."""
        return self.document.slides

    @property
    def complete_slides(self) -> list[ManifestSlide]:
        """The slides whose patches make up the data set, in plan order."""
        return sorted((slide for slide in self.slides if slide.status == COMPLETE), key=lambda slide: slide.slide_id)

    @property
    def failed_slide_ids(self) -> frozenset[str]:
        """Slides that failed; files of theirs may be left over."""
        return frozenset(slide.slide_id for slide in self.slides if slide.status == FAILED)

    @property
    def empty_splits(self) -> frozenset[Split]:
        """Splits without a patch."""
        return frozenset(split for split, entry in self.splits.items() if entry.n_images == 0)

    @property
    def is_as_written(self) -> bool:
        """Whether it matches its own digest."""
        rest = {key: value for key, value in self.raw.items() if key != "sha256"}
        return sha256_of(canonical_json(rest)) == self.document.sha256


def read_manifest(output_dir: Path, *, findings: Findings) -> Manifest | None:
    """Return the manifest, ``None`` when nothing can be checked against it."""
    path = output_dir / MANIFEST
    with findings.reading(Check.MANIFEST, path):
        raw = read_json_object(path)
        if raw.get("schema") != KNOWN_SCHEMA:
            message = f"schema {raw.get('schema')!r} is not {KNOWN_SCHEMA}: written by another version, or edited"
            findings.add(Check.MANIFEST, path, message)
            return None
        try:
            document = _ManifestDocument.model_validate_json(path.read_bytes())
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                where = ".".join(str(step) for step in problem["loc"])
                findings.add(Check.MANIFEST, path, f"{where}: {problem['msg']}")
            return None
        findings.n_files += 1
        return Manifest(path=path, document=document, raw=raw)
    return None


def check_manifest(manifest: Manifest, *, findings: Findings) -> None:
    """Check the manifest's numbers against each other."""
    findings.done.add(Check.MANIFEST)
    findings.failed_slides = tuple(sorted(manifest.failed_slide_ids))
    findings.n_slides = len(manifest.complete_slides) + len(findings.failed_slides)
    findings.empty_splits = tuple(split.value for split in Split if split in manifest.empty_splits)
    _check_own_digest(manifest, findings=findings)
    _check_totals(manifest, findings=findings)
    _check_splits(manifest, findings=findings)
    for message in _store_problems(manifest.settings):
        findings.add(Check.MANIFEST, manifest.path, f"settings: {message}")
    for slide in manifest.slides:
        for message in _slide_problems(slide):
            findings.add(Check.MANIFEST, manifest.path, f"slide {slide.slide_id}: {message}")


def _check_own_digest(manifest: Manifest, *, findings: Findings) -> None:
    """Check that no byte of the manifest changed, even one that leaves its meaning as it was."""
    with findings.reading(Check.MANIFEST, manifest.path):
        rest = {key: value for key, value in manifest.raw.items() if key != "sha256"}
        found = sha256_of(canonical_json(rest))
        stated = manifest.document.sha256
        findings.expect(Check.MANIFEST, manifest.path, what="its own sha256", stated=stated, found=found)
        if manifest.path.read_bytes() != pretty_json(manifest.raw):
            findings.add(Check.MANIFEST, manifest.path, "is not written as this program writes it: edited, or damaged")


def _check_totals(manifest: Manifest, *, findings: Findings) -> None:
    slides, counts = manifest.slides, manifest.document.counts
    accounts = [account for slide in slides for account in slide.accounts]
    n_asked = sum(account.n_asked for account in accounts)
    statuses = Counter(slide.status for slide in slides)
    n_classes = 2 if manifest.settings.label_hard_negatives else 1
    for what, stated, found in (
        ("counts.slides_found", counts.slides_found, len(slides)),
        ("counts.slides", counts.slides, dict(statuses)),
        ("counts.patches_not_possible", counts.patches_not_possible, sum(account.n_missing for account in accounts)),
        ("patches asked for", n_asked, counts.patches_planned + counts.patches_not_possible),
        ("counts.patches_planned", counts.patches_planned, sum(slide.n_planned for slide in slides)),
        ("counts.patches_written", counts.patches_written, sum(slide.n_written for slide in slides)),
        ("counts.patches_failed", counts.patches_failed, sum(slide.n_failed for slide in slides)),
        ("status", manifest.document.status, PARTIAL if statuses[FAILED] else COMPLETE),
        ("n_foreground_classes", manifest.document.n_foreground_classes, n_classes),
        ("num_classes_deformable_detr", manifest.document.num_classes_deformable_detr, n_classes + 1),
    ):
        findings.expect(Check.MANIFEST, manifest.path, what=what, stated=stated, found=found)
    for slide_id, n_rows in Counter(slide.slide_id for slide in slides).items():
        if n_rows > 1:
            findings.add(Check.MANIFEST, manifest.path, f"slide {slide_id} is listed {n_rows} times")


def _check_splits(manifest: Manifest, *, findings: Findings) -> None:
    used = {split for slide in manifest.complete_slides for split in slide.splits}
    for split in Split:
        entry = manifest.splits.get(split)
        if entry is None:
            if split is not Split.TEST or split in used:
                findings.add(Check.MANIFEST, manifest.path, f"the {split} split is missing")
            continue
        findings.expect(
            Check.MANIFEST, manifest.path, what=f"splits.{split}.file", stated=entry.file, found=instances_name(split)
        )
    n_images = sum(entry.n_images for entry in manifest.splits.values())
    n_written = manifest.document.counts.patches_written
    findings.expect(Check.MANIFEST, manifest.path, what="images of all splits", stated=n_images, found=n_written)


def _store_problems(settings: ManifestSettings) -> Iterator[str]:
    """Yield what contradicts the store that the settings name."""
    store = settings.store
    if store is not Store.PNG and settings.pixel_codec is None:
        yield f"store {store} without a codec and its level: {settings.codec}, {settings.codec_level}"
    if store is Store.PNG and (settings.codec is not None or settings.codec_level is not None):
        yield f"store {store} with a codec: {settings.codec}, {settings.codec_level}"
    if (settings.coverage is not None) != (store is Store.PIXELS):
        yield f"store {store} with coverage {settings.coverage}"


def _slide_problems(slide: ManifestSlide) -> Iterator[str]:
    if slide.status not in STATUSES:
        yield f"unknown status {slide.status!r}"
    if slide.n_planned != slide.n_written + slide.n_failed:
        yield f"{slide.n_planned} planned, but {slide.n_written} written + {slide.n_failed} failed"
    if slide.status == COMPLETE:
        yield from _complete_slide_problems(slide)
        return
    if slide.n_written:
        yield f"status {slide.status}, yet {slide.n_written} patches written"
    if not slide.reason:
        yield f"status {slide.status} without a reason"


def _complete_slide_problems(slide: ManifestSlide) -> Iterator[str]:
    if slide.n_failed:
        yield f"complete, yet {slide.n_failed} patches failed"
    if None in (slide.plan_digest, slide.pixels_sha256, slide.content_sha256, slide.fingerprint):
        yield "complete, yet without plan_digest, pixels_sha256, content_sha256 or fingerprint"
    if not slide.splits or len(set(slide.splits)) != len(slide.splits):
        yield f"its splits are {[split.value for split in slide.splits]}"
    if sorted(account.split for account in slide.accounts) != sorted(slide.splits):
        yield "its accounts do not cover its splits once each"
    if sum(n for account in slide.accounts for n in account.n_planned.values()) != slide.n_planned:
        yield f"{slide.n_planned} patches planned, its accounts say otherwise"
    for account in slide.accounts:
        n_planned = sum(account.n_planned.values())
        if account.n_asked != n_planned + account.n_missing:
            yield f"{account.split}: {account.n_asked} asked for, but {n_planned} planned + {account.n_missing} missing"
        if (account.n_missing > 0 or account.n_asked == 0) != bool(account.missing_reason):
            yield f"{account.split}: {account.n_missing} patches missing, reason {account.missing_reason!r}"
