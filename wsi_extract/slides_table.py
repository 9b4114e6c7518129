"""What is known of each slide, as JSON values for the manifest and as the rows of slides.csv."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from wsi_extract.csv_table import without_formula
from wsi_extract.gather import SlideEntry
from wsi_extract.model import SplitAccount
from wsi_extract.printable import as_printable
from wsi_extract.reading import ReaderMode
from wsi_extract.state.plans import SurveyRecord
from wsi_extract.state.records import BlockDocument, digests_of

READER_DIRECT = ReaderMode.DIRECT.value
READER_OPENSLIDE = ReaderMode.OPENSLIDE.value
"""Who reads the level that the patches of a slide come from. The pixels are the same."""
MAX_KEPT_STAINS_SHOWN = 5
CSV_COLUMNS = (
    "slide_id", "file", "status", "reason", "group", "splits", "n_targets", "vendor", "width_l0_px", "height_l0_px",
    "um_per_px_x", "um_per_px_y", "um_per_px_source", "level", "l0_per_px_x", "l0_per_px_y", "tissue_share",
    "reader", "reader_reason", "stain", "stain_reason",
    "n_planned", "n_written", "n_failed", "random", "hard_negative", "mitosis", "grid",
    "target_label", "target_crowd", "target_dropped", "hard_negative_label", "ignore_crowd",
)  # fmt: skip
TEXT_COLUMNS = frozenset({"file", "reason", "group", "vendor", "um_per_px_source", "reader_reason", "stain_reason"})
"""Columns of slides.csv that repeat what files say; ids, numbers and words of ours begin no formula."""


class SlideSums:
    """What the block records of one slide add up to, noted while they pass by."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.pixels = hashlib.sha256()
        """Over the digests of all files of pixels."""

    def add_pixels(self, digests: Iterable[str]) -> None:
        """Add the SHA-256 of further files, as hex."""
        self.pixels.update(bytes.fromhex("".join(digests)))


def summed(documents: Iterable[BlockDocument], sums: defaultdict[str, SlideSums]) -> Iterator[BlockDocument]:
    """Pass records on and add them to the sums of their slides, by slide id: one reading serves all who ask."""
    for document in documents:
        of_slide = sums[document["slide_id"]]
        of_slide.kinds.update([patch["kind"] for patch in document["patches"]])
        of_slide.labels.update(document["label_counts"])
        of_slide.add_pixels(digests_of(document))
        yield document


def facts_of_entry(entry: SlideEntry) -> dict[str, object]:
    """Return what is known of a slide before its survey: what the file says, what is read of it, its splits."""
    info, frame, decision = entry.info, entry.frame, entry.decision
    facts: dict[str, object] = {
        "slide_id": entry.file.slide_id,
        "status": entry.status.value,
        "reason": entry.reason,
        "group": None if decision is None else decision.group,
        "splits": [] if decision is None else [split.value for split in decision.splits],
        "bin": None if decision is None else decision.bin,
        "split_reason": None if decision is None else decision.reason,
        "n_targets": None if decision is None else decision.n_targets,
    }
    if info is None:
        return facts
    facts |= {
        "vendor": info.vendor,
        "width_l0_px": info.width_l0_px,
        "height_l0_px": info.height_l0_px,
        "um_per_px_xy": info.um_per_px_xy,
        "um_per_px_source": info.um_per_px_source,
        "bounds_l0": None if info.bounds_l0 is None else asdict(info.bounds_l0),
        "fingerprint": info.fingerprint,
    }
    if frame is not None:
        facts["level"] = frame.level
        facts["l0_per_px_xy"] = [frame.scale.x, frame.scale.y]
        facts["um_per_px_out_xy"] = frame.um_per_px_out_xy
    return facts


def facts_of_survey(survey: SurveyRecord, *, level: int) -> dict[str, object]:
    """Return what the survey of a slide found, and how pixels of ``level`` are read and normalised."""
    return {
        "tissue_share": survey.tissue_share,
        "plan_digest": survey.plan_digest,
        "accounts": [_account_to_json(account) for account in survey.accounts],
        "reader": READER_DIRECT if level in survey.reader.direct_levels else READER_OPENSLIDE,
        "reader_reason": survey.reader.reason,
        "stain": None if survey.stain is None else survey.stain.method.value,
        "stain_reason": survey.stain_reason,
    }


def _account_to_json(account: SplitAccount) -> dict[str, object]:
    """Return an account with its counts by name: a plan that was read back gives the bytes of one just made."""
    values = asdict(account)
    return {key: dict(sorted(value.items())) if isinstance(value, dict) else value for key, value in values.items()}


def describe_kept_stains(surveys: Sequence[SurveyRecord]) -> list[str]:
    """Return lines for the user on the slides whose stain could not be normalised; none when there are none."""
    kept = [survey for survey in surveys if survey.stain_reason]
    if not kept:
        return []
    more = len(kept) - MAX_KEPT_STAINS_SHOWN
    return [
        f"{len(kept):,} of {len(surveys):,} slides keep their own stain:",
        *(f"  slide {survey.slide_id}: {survey.stain_reason}" for survey in kept[:MAX_KEPT_STAINS_SHOWN]),
        *([f"  and {more:,} more; slides.csv lists all"] if more > 0 else []),
    ]


def slides_csv(slides: Sequence[Mapping[str, object]], *, files: Sequence[str]) -> bytes:
    """Return slides.csv: one row per slide found, the manifest's facts flattened; no cell runs in a spreadsheet.

    Parameters
    ----------
    slides
        Rows of the manifest.
    files
        Path of each slide's file, below the folder of slides.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=CSV_COLUMNS, extrasaction="ignore", lineterminator="\n", restval="")
    writer.writeheader()
    for row, file in zip(slides, files, strict=True):
        flat = {key: ("" if value is None else value) for key, value in row.items()}
        flat["file"] = file
        flat["splits"] = "+".join(row["splits"]) if isinstance(row["splits"], list) else ""
        for name, pair in (("um_per_px", row.get("um_per_px_xy")), ("l0_per_px", row.get("l0_per_px_xy"))):
            if isinstance(pair, list | tuple):
                flat[f"{name}_x"], flat[f"{name}_y"] = pair
        for counts in (row["patches_by_kind"], row["label_counts"]):
            assert isinstance(counts, dict)
            flat |= counts
        flat |= {key: as_cell(str(flat[key])) for key in TEXT_COLUMNS & flat.keys()}
        writer.writerow(flat)
    return text.getvalue().encode()


def as_cell(text: str) -> str:
    """Return a text that comes from files as a cell of `TEXT_COLUMNS`."""
    return without_formula(as_printable(text))
