"""The last step of a run: block records in plan order -> COCO documents, tables and the manifest, which comes last."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_extract.coco import CocoCounts
from wsi_extract.config import RunConfig
from wsi_extract.errors import IntegrityError
from wsi_extract.files import pretty_json, sha256_of_file, sha256_of_tree, write_atomically
from wsi_extract.gather import Inputs, SlideEntry, SlideStatus
from wsi_extract.index import write_root
from wsi_extract.layout import (
    COMPLETE,
    ERRORS,
    FAILED,
    INDEX,
    MANIFEST,
    SLIDES_TABLE,
    instances_name,
    pixel_record_path,
    plan_path,
    record_path,
    run_path,
)
from wsi_extract.model import Fault, Split, SplitAccount
from wsi_extract.pixels import read_pixel_document
from wsi_extract.plans import SurveyRecord, read_coverage
from wsi_extract.reading import StainNorm
from wsi_extract.record_files import read_json_object
from wsi_extract.records import BlockDocument, read_document
from wsi_extract.slides_table import SlideSums, facts_of_entry, facts_of_survey, slides_csv, summed
from wsi_extract.split_documents import write_splits
from wsi_extract.splits import LeakageReport
from wsi_extract.stores.pixel_array import shards_of
from wsi_extract.targets import CATEGORY_NAMES

SCHEMA = 1


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
        """Patches the plan asked for."""
        return 0 if self.survey is None else self.survey.n_patches

    @property
    def n_written(self) -> int:
        """Patches in the data set: all of the slide's, or none of a slide that failed."""
        return 0 if self.fault is not None else self.n_planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished data set."""

    counts: Mapping[Split, CocoCounts]
    outcomes: Mapping[str, SlideOutcome]
    faults: tuple[Fault, ...]
    n_planned: int
    n_written: int
    manifest_path: Path


def finish_run(
    config: RunConfig,
    *,
    inputs: Inputs,
    outcomes: Mapping[str, SlideOutcome],
    leakage: LeakageReport,
    run: Mapping[str, object],
) -> Finished:
    """Write everything that stands on the whole data set, the manifest last.

    Parameters
    ----------
    outcomes
        What each planned slide yielded, by slide id.
    leakage
        The proof that splits do not share slides, groups or pixels.
    run
        What differs from run to run without touching the data: times, versions, host.
    """
    output_dir = config.output_dir
    good = [outcome for _, outcome in sorted(outcomes.items()) if outcome.fault is None]
    categories = {key: name for key, name in CATEGORY_NAMES.items() if key == 1 or config.label_hard_negatives}
    sums: defaultdict[str, SlideSums] = defaultdict(SlideSums)
    counts = write_splits(
        output_dir,
        summed(documents_of(output_dir, good), sums),
        splits=_splits_to_write(inputs),
        category_names=categories,
        patch_px=config.patch_size,
    )
    write_root(output_dir)
    faults = tuple(
        sorted(
            (*inputs.faults, *(outcome.fault for outcome in outcomes.values() if outcome.fault is not None)),
            key=lambda fault: (fault.slide_id, fault.stage),
        )
    )
    _write_errors(output_dir / ERRORS, faults)
    slides = [
        _slide_row(entry, outcomes.get(entry.file.slide_id), sums=sums[entry.file.slide_id], output_dir=output_dir)
        for entry in inputs.entries
    ]
    files = [entry.file.path.relative_to(config.wsi_dir).as_posix() for entry in inputs.entries]
    write_atomically(output_dir / SLIDES_TABLE, slides_csv(slides, files=files))
    finished = Finished(
        counts=counts,
        outcomes=outcomes,
        faults=faults,
        n_planned=sum(outcome.n_planned for outcome in outcomes.values()),
        n_written=sum(outcome.n_written for outcome in outcomes.values()),
        manifest_path=output_dir / MANIFEST,
    )
    manifest = _manifest(config, inputs=inputs, finished=finished, slides=slides)
    if config.stain_norm is not StainNorm.NONE:
        _add_stains(manifest, config=config, slides=slides)
    manifest["leakage"] = asdict(leakage)
    manifest["run"] = run
    write_atomically(finished.manifest_path, pretty_json(manifest))
    return finished


def write_split_documents(
    output_dir: Path,
    outcomes: Sequence[SlideOutcome],
    *,
    split: Split,
    category_names: dict[int, str],
    patch_px: int,
) -> CocoCounts:
    """Write the COCO document and the index of one split from the block records of finished slides, in plan order.

    Raises
    ------
    IntegrityError
        When a record is missing or damaged.
    """
    documents = documents_of(output_dir, outcomes, split=split)
    return write_splits(output_dir, documents, splits=[split], category_names=category_names, patch_px=patch_px)[split]


def _splits_to_write(inputs: Inputs) -> list[Split]:
    """Return train and val always, because trainers open both, and test when there are test slides."""
    used = {split for entry in inputs.entries if entry.decision is not None for split in entry.decision.splits}
    return [split for split in Split if split is not Split.TEST or split in used]


def documents_of(
    output_dir: Path, outcomes: Sequence[SlideOutcome], *, split: Split | None = None
) -> Iterator[BlockDocument]:
    """Yield the block records of finished slides in plan order, of one split or of all.

    Raises
    ------
    IntegrityError
        When one is missing or damaged.
    """
    for outcome in outcomes:
        for index in range(outcome.n_blocks):
            path = record_path(output_dir, slide_id=outcome.slide_id, index=index)
            document = read_document(path)
            if document is None:
                raise IntegrityError(f"the record {path} has disappeared during the run.", "Run again.")
            if split is None or document["split"] == split.value:
                yield document


def _write_errors(path: Path, faults: Sequence[Fault]) -> None:
    if not faults:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(asdict(fault), ensure_ascii=False) for fault in faults]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _slide_row(
    entry: SlideEntry, outcome: SlideOutcome | None, *, sums: SlideSums, output_dir: Path
) -> dict[str, object]:
    """Return all that is known of one slide, as JSON values; the row of the manifest."""
    row = {
        **facts_of_entry(entry),
        "n_planned": 0,
        "n_written": 0,
        "n_failed": 0,
        "patches_by_kind": {},
        "label_counts": {},
    }
    if outcome is None:
        return row
    row["status"] = COMPLETE if outcome.fault is None else FAILED
    row["reason"] = _shortfall(outcome) if outcome.fault is None else outcome.fault.message
    row["n_planned"] = outcome.n_planned
    row["n_written"] = outcome.n_written
    row["n_failed"] = outcome.n_planned - outcome.n_written
    if outcome.survey is not None:
        assert entry.frame is not None
        row |= facts_of_survey(outcome.survey, level=entry.frame.level)
    if outcome.fault is None:
        sums.add_pixels(_digests_of_pixels(outcome, output_dir=output_dir))
        row["n_blocks"] = outcome.n_blocks
        row["patches_by_kind"] = dict(sorted(sums.kinds.items()))
        row["label_counts"] = dict(sorted(sums.labels.items()))
        row["pixels_sha256"] = sums.pixels.hexdigest()
    return row


def _digests_of_pixels(outcome: SlideOutcome, *, output_dir: Path) -> Iterator[str]:
    """Yield the SHA-256 of every shard of the slide's pixel store, row by row; none for other stores."""
    survey = outcome.survey
    if survey is None or not survey.n_chunks:
        return
    coverage = read_coverage(plan_path(output_dir, slide_id=outcome.slide_id), record=survey)
    for row, column in shards_of(coverage):
        path = pixel_record_path(output_dir, slide_id=outcome.slide_id, row=row, column=column)
        document = read_pixel_document(path)
        if document is None:
            raise IntegrityError(f"the record {path} has disappeared during the run.", "Run again.")
        yield document["sha256"]


def _shortfall(outcome: SlideOutcome) -> str:
    """Return why a slide yields fewer patches than asked for, or none; empty when it yields them all."""
    accounts = () if outcome.survey is None else outcome.survey.accounts
    return "; ".join(describe_shortfall(account) for account in accounts if account.missing_reason)


def describe_shortfall(account: SplitAccount) -> str:
    """Return in words what a split of a slide lacks."""
    asked = f"{account.n_missing} of {account.n_asked} patches" if account.n_asked else "patches"
    return f"{account.split}: {asked} not possible, {account.missing_reason}"


def _manifest(
    config: RunConfig, *, inputs: Inputs, finished: Finished, slides: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    source = inputs.annotations.source
    n_failed = sum(row["status"] == SlideStatus.FAILED for row in slides)
    return {
        "schema": SCHEMA,
        "status": "partial" if n_failed else COMPLETE,
        "settings": config.output_settings(),
        "annotations": {
            **source.to_json(),
            "classes": [decision.to_json() for decision in inputs.annotations.classes],
            "reconciliation": inputs.annotations.reconciliation.to_json(),
        },
        "counts": {
            "slides_found": len(slides),
            "slides": dict(sorted(Counter(str(row["status"]) for row in slides).items())),
            "files_ignored": len(inputs.found.ignored),
            "patches_planned": finished.n_planned,
            "patches_written": finished.n_written,
            "patches_failed": finished.n_planned - finished.n_written,
        },
        "index_sha256": sha256_of_tree(config.output_dir / INDEX),
        "splits": {
            split.value: _split_entry(config.output_dir / instances_name(split), counts, split=split)
            for split, counts in finished.counts.items()
        },
        "n_foreground_classes": 2 if config.label_hard_negatives else 1,
        "num_classes_deformable_detr": (2 if config.label_hard_negatives else 1) + 1,
        "slides": list(slides),
    }


def _add_stains(manifest: dict[str, object], *, config: RunConfig, slides: Sequence[Mapping[str, object]]) -> None:
    """Say what the stain of slides was brought to, and how many it could not be brought to."""
    run = read_json_object(run_path(config.output_dir), remedy="Run again.") or {}
    manifest["stain_target"] = run["stain_target"]
    counts = manifest["counts"]
    assert isinstance(counts, dict)
    counts["slides_keeping_their_stain"] = sum(bool(row.get("stain_reason")) for row in slides)


def _split_entry(path: Path, counts: CocoCounts, *, split: Split) -> dict[str, object]:
    return {
        "file": instances_name(split),
        "sha256": sha256_of_file(path),
        "n_images": counts.n_images,
        "n_empty_images": counts.n_empty_images,
        "n_crowd": counts.n_crowd,
        "labels_by_category": {str(key): n for key, n in sorted(counts.labels_by_category.items())},
        "images_by_kind": dict(sorted(counts.images_by_kind.items())),
    }
