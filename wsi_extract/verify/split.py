"""One split: its COCO document, the records it was made from, and its PNG files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.disk.files import sha256_of
from wsi_extract.model import Split
from wsi_extract.state.layout import instances_name, split_folder
from wsi_extract.state.records import BlockDocument, LabelEntry, PatchEntry
from wsi_extract.verify.documents import (
    CocoDocument,
    Item,
    check_boxes,
    check_references,
    is_inside,
    largest_group,
    parse_document,
)
from wsi_extract.verify.evaluation import LEAST_PRECISION, precision_against_itself
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.index import check_index
from wsi_extract.verify.manifest import Manifest, ManifestSplit
from wsi_extract.verify.patch_files import ExpectedFile, files_below, inspect_files, is_leftover
from wsi_extract.verify.recorded import documents_of

MAX_LABELS = 5_000
"""Of one image, which pycocotools compares with each other: 200 MB."""
RecordedFiles = dict[str, tuple[int | None, str | None]]
"""Size and SHA-256 of each recorded PNG file, by its path below the split's folder; ``None`` where there is none."""


def check_split(output_dir: Path, split: Split, *, manifest: Manifest, findings: Findings) -> None:
    """Check one split against the manifest, the records, the index and the disk."""
    findings.done |= {Check.COCO, Check.BOXES, Check.EVALUATION}
    path, folder = output_dir / instances_name(split), output_dir / split_folder(split)
    document: CocoDocument | None = None
    recorded: RecordedFiles = {}
    entry = manifest.splits.get(split)
    if entry is not None:
        with findings.reading(Check.COCO, path):
            document = _read_document(path, entry, findings=findings)
            _check_document(document, manifest, entry=entry, path=path, findings=findings)
            recorded = _compare_with_records(document, output_dir, split=split, manifest=manifest, findings=findings)
        check_index(output_dir, split, document, manifest=manifest, findings=findings)
    if manifest.settings.store.has_png:
        findings.done.add(Check.PATCHES)
        images = [] if document is None else document.images
        _check_files(folder, images, recorded=recorded, findings=findings)
        _check_left_over(folder, images, tolerated=manifest.failed_slide_ids, findings=findings)


def _read_document(path: Path, entry: ManifestSplit, *, findings: Findings) -> CocoDocument:
    data = path.read_bytes()
    findings.n_files += 1
    findings.expect(Check.COCO, path, what="the manifest's sha256", stated=entry.sha256, found=sha256_of(data))
    document = parse_document(data, path=path, findings=findings)
    findings.n_images += len(document.images)
    findings.n_boxes += len(document.annotations)
    return document


def _check_document(
    document: CocoDocument, manifest: Manifest, *, entry: ManifestSplit, path: Path, findings: Findings
) -> None:
    check_references(document, path=path, findings=findings)
    check_boxes(document, path=path, findings=findings)
    n_classes = manifest.document.n_foreground_classes
    ids = sorted(category["id"] for category in document.categories)
    findings.expect(Check.COCO, path, what="category ids", stated=ids, found=list(range(1, n_classes + 1)))
    for what, stated, found in _counts(document, entry):
        findings.expect(Check.COCO, path, what=f"the manifest's {what}", stated=stated, found=found)
    if not document.is_whole or len(ids) != n_classes:
        return  # the faults are reported; pycocotools would only fail on the first of them
    n_most = largest_group([annotation["image_id"] for annotation in document.annotations])
    if n_most > MAX_LABELS:
        findings.note(f"labels were not evaluated: an image has {n_most:,} of them, and each is compared with each")
        return
    with findings.reading(Check.EVALUATION, path):
        precision = precision_against_itself(document)
        if precision is not None and precision < LEAST_PRECISION:
            message = f"the ground truth as predictions has an average precision of {precision:.4f}, must be 1"
            findings.add(Check.EVALUATION, path, message)


def _counts(document: CocoDocument, entry: ManifestSplit) -> Iterator[tuple[str, object, object]]:
    """Yield (what, the manifest's number, the document's number)."""
    annotated = {annotation["image_id"] for annotation in document.annotations}
    labels = Counter(str(item["category_id"]) for item in document.annotations if not item["iscrowd"])
    yield "n_images", entry.n_images, len(document.images)
    yield "n_empty_images", entry.n_empty_images, sum(image["id"] not in annotated for image in document.images)
    yield "n_crowd", entry.n_crowd, sum(item["iscrowd"] for item in document.annotations)
    yield "labels_by_category", {key: n for key, n in entry.labels_by_category.items() if n}, dict(labels)
    yield "images_by_kind", entry.images_by_kind, dict(Counter(str(image.get("kind")) for image in document.images))


def _compare_with_records(
    document: CocoDocument, output_dir: Path, *, split: Split, manifest: Manifest, findings: Findings
) -> RecordedFiles:
    """Check that images and annotations are those of the records, in plan order; return what files are recorded."""
    path = output_dir / instances_name(split)
    by_name = {image["file_name"]: image for image in document.images}
    annotations = document.annotations_by_image()
    recorded: RecordedFiles = {}
    for slide in manifest.complete_slides:
        if split not in slide.splits:
            continue
        # A record that cannot be read is reported with its slide; its images then have no record.
        with Findings().reading(Check.RECORDS, path):
            for _, block in documents_of(output_dir, slide_id=slide.slide_id, n_blocks=slide.n_blocks):
                for patch in block["patches"] if block["split"] == split.value else ():
                    recorded[patch["file_name"]] = patch.get("bytes"), patch.get("sha256")
                    image = by_name.pop(patch["file_name"], None)
                    if image is None:
                        findings.add(Check.COCO, path, f"{patch['file_name']} was written, but is not among the images")
                        continue
                    found = _Found(image=image, labels=annotations.get(image["id"], []), number=len(recorded))
                    for message in _differences(found, block=block, patch=patch):
                        findings.add(Check.COCO, path, f"image {image['id']}, {patch['file_name']}: {message}")
    for name in by_name:
        findings.add(Check.COCO, path, f"image {name} is in no readable record")
    return recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """An image of a COCO document."""

    image: Item
    labels: list[Item]
    number: int
    """Its place in plan order, from 1."""


def _differences(found: _Found, *, block: BlockDocument, patch: PatchEntry) -> Iterator[str]:
    """Yield how an image and its annotations differ from their record."""
    width, height = block["patch_wh_px"]
    expected = {
        "id": found.number,
        "width": width,
        "height": height,
        "slide_id": block["slide_id"],
        "split": block["split"],
        "kind": patch["kind"],
        "requested_kind": patch["requested_kind"],
        "anchor": patch["anchor"],
        "x_l0": patch["x_l0"],
        "y_l0": patch["y_l0"],
        "l0_per_px_xy": block["l0_per_px_xy"],
        "um_per_px_xy": block["um_per_px_xy"],
        "level": block["level"],
        "tissue_fraction": patch["tissue_fraction"],
    }
    for key, value in expected.items():
        if key not in found.image or found.image[key] != value:
            yield f"{key} is {found.image.get(key)!r}, recorded {value!r}"
    labels = [{key: label.get(key) for key in LabelEntry.__annotations__} for label in found.labels]
    if labels != patch["labels"]:
        yield f"its {len(labels)} annotations are not the {len(patch['labels'])} recorded ones"
    aside = [{"bbox": label["bbox"], "source_id": label["source_id"]} for label in patch.get("look_alikes", [])]
    if found.image.get("look_alikes", []) != aside:
        yield "its look-alikes are not the recorded ones"


def _check_files(folder: Path, images: list[Item], *, recorded: RecordedFiles, findings: Findings) -> None:
    unknown = (None, None)
    expected = (
        ExpectedFile(
            path=folder / image["file_name"],
            width_px=image["width"],
            height_px=image["height"],
            n_bytes=recorded.get(image["file_name"], unknown)[0],
            sha256=recorded.get(image["file_name"], unknown)[1],
        )
        for image in images
        if is_inside(image["file_name"])
    )
    findings.n_files += len(images)
    for path, message in inspect_files(expected):
        findings.add(Check.PATCHES, path, message)


def _check_left_over(folder: Path, images: list[Item], *, tolerated: frozenset[str], findings: Findings) -> None:
    """Report files that no image names; slides that failed may leave some behind."""
    named = {image["file_name"] for image in images}
    for name in files_below(folder):
        if name not in named and name.split("/", maxsplit=1)[0] not in tolerated and not is_leftover(name):
            findings.add(Check.PATCHES, folder / name, "is not an image of the COCO document")
