"""The last step of a run: block records in plan order -> COCO documents, tables and the manifest, which comes last."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_extract.coco import CocoCounts
from wsi_extract.config import RunConfig
from wsi_extract.content_digest import content_digest, digests_of_documents, digests_of_tables, with_own_digest
from wsi_extract.disk.files import pretty_json, write_atomically
from wsi_extract.gather import Inputs, SlideEntry, SlideStatus
from wsi_extract.index import write_root
from wsi_extract.model import Fault, Split, SplitAccount
from wsi_extract.printable import as_printable, with_printable_texts
from wsi_extract.reading import StainNorm
from wsi_extract.slide_outcomes import SlideOutcome, documents_of, manifest_of_slide, pixel_digests_of
from wsi_extract.slides_table import SlideSums, facts_of_entry, facts_of_survey, slides_csv, summed
from wsi_extract.split_documents import write_splits
from wsi_extract.splits import LeakageReport
from wsi_extract.state.layout import (
    COMPLETE,
    ERRORS,
    FAILED,
    INDEX,
    MANIFEST,
    SLIDES_TABLE,
    instances_name,
    kept_manifest_path,
    run_path,
)
from wsi_extract.state.record_files import read_json_object
from wsi_extract.targets import CATEGORY_NAMES

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished data set."""

    counts: Mapping[Split, CocoCounts]
    outcomes: Mapping[str, SlideOutcome]
    faults: tuple[Fault, ...]
    n_planned: int
    n_written: int
    content_sha256: str
    """See `wsi_extract.content_digest`."""
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
    faults = _all_faults(inputs, outcomes)
    _write_errors(output_dir / ERRORS, faults)
    slides = [
        _slide_row(entry, outcomes.get(entry.file.slide_id), sums=sums[entry.file.slide_id], output_dir=output_dir)
        for entry in inputs.entries
    ]
    leaves = {str(row["slide_id"]): str(row["content_sha256"]) for row in slides if row["status"] == COMPLETE}
    splits_of = {e.file.slide_id: e.decision.splits for e in inputs.planned if e.decision is not None}
    documents = digests_of_documents(output_dir, splits=counts, slides={name: splits_of[name] for name in leaves})
    files = [entry.file.path.relative_to(config.wsi_dir).as_posix() for entry in inputs.entries]
    write_atomically(output_dir / SLIDES_TABLE, slides_csv(slides, files=files))
    finished = Finished(
        counts=counts,
        outcomes=outcomes,
        faults=faults,
        n_planned=sum(outcome.n_planned for outcome in outcomes.values()),
        n_written=sum(outcome.n_written for outcome in outcomes.values()),
        content_sha256=content_digest(leaves, documents),
        manifest_path=output_dir / MANIFEST,
    )
    manifest = _manifest(config, inputs=inputs, finished=finished, slides=slides, documents=documents)
    if config.stain_norm is not StainNorm.NONE:
        _add_stains(manifest, config=config, slides=slides)
    manifest["leakage"] = _printable_values(asdict(leakage))
    manifest["run"] = {**run, "tables": digests_of_tables(output_dir)}
    write_atomically(finished.manifest_path, pretty_json(with_own_digest(manifest)))
    kept_manifest_path(output_dir).unlink(missing_ok=True)  # of a repair that was interrupted: there is a new one now
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
        As `documents_of`.
    """
    documents = documents_of(output_dir, outcomes, split=split)
    return write_splits(output_dir, documents, splits=[split], category_names=category_names, patch_px=patch_px)[split]


def _splits_to_write(inputs: Inputs) -> list[Split]:
    """Return train and val always, because trainers open both, and test when there are test slides."""
    used = {split for entry in inputs.entries if entry.decision is not None for split in entry.decision.splits}
    return [split for split in Split if split is not Split.TEST or split in used]


def _all_faults(inputs: Inputs, outcomes: Mapping[str, SlideOutcome]) -> tuple[Fault, ...]:
    """Return what cost slides, in every stage."""
    of_outcomes = (outcome.fault for outcome in outcomes.values() if outcome.fault is not None)
    return tuple(sorted((*inputs.faults, *of_outcomes), key=lambda fault: (fault.slide_id, fault.stage)))


def _write_errors(path: Path, faults: Sequence[Fault]) -> None:
    if not faults:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps(with_printable_texts(asdict(fault)), ensure_ascii=False) for fault in faults]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _slide_row(
    entry: SlideEntry, outcome: SlideOutcome | None, *, sums: SlideSums, output_dir: Path
) -> dict[str, object]:
    """Return all that is known of one slide, as JSON values; the row of the manifest."""
    row = {
        **_printable_values(facts_of_entry(entry)),
        "n_planned": 0,
        "n_written": 0,
        "n_failed": 0,
        "patches_by_kind": {},
        "label_counts": {},
    }
    if outcome is None:
        return row
    row["status"] = COMPLETE if outcome.fault is None else FAILED
    row["reason"] = as_printable(_shortfall(outcome) if outcome.fault is None else outcome.fault.message)
    row["n_planned"] = outcome.n_planned
    row["n_written"] = outcome.n_written
    row["n_failed"] = outcome.n_planned - outcome.n_written
    if outcome.survey is not None:
        assert entry.frame is not None
        row |= _printable_values(facts_of_survey(outcome.survey, level=entry.frame.level))
    if outcome.fault is None:
        sums.add_pixels(pixel_digests_of(output_dir, outcome))
        row["n_blocks"] = outcome.n_blocks
        row["patches_by_kind"] = dict(sorted(sums.kinds.items()))
        row["label_counts"] = dict(sorted(sums.labels.items()))
        row["pixels_sha256"] = sums.pixels.hexdigest()
        _, row["content_sha256"] = manifest_of_slide(output_dir, outcome)
    return row


def _printable_values(facts: Mapping[str, object]) -> dict[str, object]:
    return {key: with_printable_texts(value) for key, value in facts.items()}


def _shortfall(outcome: SlideOutcome) -> str:
    """Return why a slide yields fewer patches than asked for, or none; empty when it yields them all."""
    accounts = () if outcome.survey is None else outcome.survey.accounts
    return "; ".join(describe_shortfall(account) for account in accounts if account.missing_reason)


def describe_shortfall(account: SplitAccount) -> str:
    """Return in words what a split of a slide lacks."""
    asked = f"{account.n_missing} of {account.n_asked} patches" if account.n_asked else "patches"
    return f"{account.split}: {asked} not possible, {account.missing_reason}"


def _manifest(
    config: RunConfig,
    *,
    inputs: Inputs,
    finished: Finished,
    slides: Sequence[Mapping[str, object]],
    documents: Mapping[str, str],
) -> dict[str, object]:
    source = inputs.annotations.source
    n_failed = sum(row["status"] == SlideStatus.FAILED for row in slides)
    return {
        "schema": SCHEMA,
        "status": "partial" if n_failed else COMPLETE,
        "settings": config.output_settings(),
        "annotations": with_printable_texts(
            {
                **source.to_json(),
                "classes": [decision.to_json() for decision in inputs.annotations.classes],
                "reconciliation": inputs.annotations.reconciliation.to_json(),
            }
        ),
        "counts": {
            "slides_found": len(slides),
            "slides": dict(sorted(Counter(str(row["status"]) for row in slides).items())),
            "files_ignored": len(inputs.found.ignored),
            "patches_not_possible": sum(outcome.n_not_possible for outcome in finished.outcomes.values()),
            "patches_planned": finished.n_planned,
            "patches_written": finished.n_written,
            "patches_failed": finished.n_planned - finished.n_written,
        },
        "content_sha256": finished.content_sha256,
        "index_sha256": documents[INDEX],
        "splits": {
            split.value: _split_entry(counts, split=split, sha256=documents[instances_name(split)])
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


def _split_entry(counts: CocoCounts, *, split: Split, sha256: str) -> dict[str, object]:
    return {
        "file": instances_name(split),
        "sha256": sha256,
        "n_images": counts.n_images,
        "n_empty_images": counts.n_empty_images,
        "n_crowd": counts.n_crowd,
        "labels_by_category": {str(key): n for key, n in sorted(counts.labels_by_category.items())},
        "images_by_kind": dict(sorted(counts.images_by_kind.items())),
    }
