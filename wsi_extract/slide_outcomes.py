"""What each planned slide yielded, and the records of those that are done, read back in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wsi_extract.errors import IntegrityError
from wsi_extract.model import Fault, Split
from wsi_extract.pixels import read_pixel_document_with_digest
from wsi_extract.state.layout import pixel_record_path, record_path, slide_manifest_path
from wsi_extract.state.plans import SurveyRecord
from wsi_extract.state.records import BlockDocument, read_document_with_digest
from wsi_extract.state.slide_manifests import SlideManifest, read_slide_manifest

Document = TypeVar("Document")

AGAIN = "Run again: what is missing or does not fit is made anew."


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOutcome:
    """What one planned slide yielded. n_planned = n_written + n_failed."""

    slide_id: str
    survey: SurveyRecord | None
    """``None`` when the survey failed."""
    n_blocks: int
    fault: Fault | None
    """The fault that cost the slide."""

    @property
    def n_planned(self) -> int:
        """Patches the plan holds."""
        return 0 if self.survey is None else self.survey.n_patches

    @property
    def n_not_possible(self) -> int:
        """Patches that were asked for, and for which the slide has no room: asked = planned + not possible."""
        return 0 if self.survey is None else sum(account.n_missing for account in self.survey.accounts)

    @property
    def n_written(self) -> int:
        """Patches in the data set: all of the slide's, or none of a slide that failed."""
        return 0 if self.fault is not None else self.n_planned


def manifest_of_slide(output_dir: Path, outcome: SlideOutcome) -> tuple[SlideManifest, str]:
    """Return the manifest of a slide that is done, and its digest.

    Raises
    ------
    IntegrityError
        When it is missing, damaged, or that of another plan: the slide must not enter the data set.
    """
    assert outcome.survey is not None
    path = slide_manifest_path(output_dir, slide_id=outcome.slide_id)
    found = read_slide_manifest(output_dir, slide_id=outcome.slide_id)
    if found is None:
        raise IntegrityError(f"slide {outcome.slide_id} has no manifest: {path} is missing.", AGAIN)
    manifest, digest = found
    stated = (manifest["slide_id"], manifest["plan_digest"], manifest["n_patches"], len(manifest["blocks"]))
    if stated != (outcome.slide_id, outcome.survey.plan_digest, outcome.n_planned, outcome.n_blocks):
        raise IntegrityError(f"the manifest of slide {outcome.slide_id}, {path}, is that of another plan.", AGAIN)
    return manifest, digest


def documents_of(
    output_dir: Path, outcomes: Iterable[SlideOutcome], *, split: Split | None = None
) -> Iterator[BlockDocument]:
    """Yield the block records of finished slides in plan order, of one split or of all.

    Raises
    ------
    IntegrityError
        When a slide has no manifest, or a record is missing, damaged, of another plan, or not the one that the
        manifest names.
    """
    for outcome in outcomes:
        manifest, _ = manifest_of_slide(output_dir, outcome)
        for index, sha256 in enumerate(manifest["blocks"]):
            path = record_path(output_dir, slide_id=outcome.slide_id, index=index)
            document = _checked(read_document_with_digest(path), path=path, sha256=sha256)
            _refuse_other_plan(document["plan_digest"], manifest, path=path)
            if split is None or document["split"] == split.value:
                yield document


def pixel_digests_of(output_dir: Path, outcome: SlideOutcome) -> Iterator[str]:
    """Yield the SHA-256 of every shard of a finished slide's pixels, row by row; none for other stores.

    Raises
    ------
    IntegrityError
        As `documents_of`.
    """
    manifest, _ = manifest_of_slide(output_dir, outcome)
    for row, column, sha256 in manifest["pixels"]:
        path = pixel_record_path(output_dir, slide_id=outcome.slide_id, row=int(row), column=int(column))
        document = _checked(read_pixel_document_with_digest(path), path=path, sha256=str(sha256))
        _refuse_other_plan(document["plan_digest"], manifest, path=path)
        yield document["sha256"]


def digests_of_blocks(output_dir: Path, survey: SurveyRecord) -> list[str]:
    """Return the digests of the block records of a slide all of whose blocks are done, in plan order, as hex.

    Raises
    ------
    IntegrityError
        When a record is missing, damaged or of another plan, or the records hold more patches than were planned.
    """
    digests: list[str] = []
    n_patches = 0
    while n_patches < survey.n_patches:
        path = record_path(output_dir, slide_id=survey.slide_id, index=len(digests))
        found = read_document_with_digest(path)
        if found is None:
            raise _disappeared(path)
        document, digest = found
        if document["plan_digest"] != survey.plan_digest or not document["patches"]:
            raise _of_another_plan(path, slide_id=survey.slide_id)
        n_patches += len(document["patches"])
        digests.append(digest)
    if n_patches > survey.n_patches:
        raise IntegrityError(
            f"the records of slide {survey.slide_id} hold {n_patches:,} patches, {survey.n_patches:,} were planned.",
            AGAIN,
        )
    return digests


def _checked(found: tuple[Document, str] | None, *, path: Path, sha256: str) -> Document:
    if found is None:
        raise _disappeared(path)
    document, digest = found
    if digest != sha256:
        raise IntegrityError(f"the record {path} is not the one that the manifest of its slide names.", AGAIN)
    return document


def _refuse_other_plan(plan_digest: str, manifest: SlideManifest, *, path: Path) -> None:
    if plan_digest != manifest["plan_digest"]:
        raise _of_another_plan(path, slide_id=manifest["slide_id"])


def _of_another_plan(path: Path, *, slide_id: str) -> IntegrityError:
    return IntegrityError(f"the record {path} belongs to another plan of slide {slide_id}.", AGAIN)


def _disappeared(path: Path) -> IntegrityError:
    return IntegrityError(f"the record {path} has disappeared during the run.", AGAIN)
