"""Why slides failed, remembered in the output folder until they are done.

A slide that failed may come back repaired or replaced; one that did not fail may not, see `wsi_extract.state.claim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from wsi_extract.disk.files import write_atomically
from wsi_extract.errors import IntegrityError
from wsi_extract.model import Fault, FaultClass
from wsi_extract.state.layout import fault_path
from wsi_extract.state.record_files import REMEDY, encode_record, read_record

SCHEMA = 1
KIND = "fault"
ENDING = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRecord:
    """A slide that failed in the last run that tried it."""

    fault: Fault
    fingerprint: str | None
    """Of the slide that failed; ``None`` when its file could not even be read."""


def note_fault(output_dir: Path, fault: Fault, *, fingerprint: str | None) -> None:
    """Remember why a slide failed, instead of what was remembered of it before."""
    document = {"schema": SCHEMA, "fingerprint": fingerprint, "fault": asdict(fault)}
    write_atomically(fault_path(output_dir, slide_id=fault.slide_id), encode_record(document, kind=KIND))


def read_fault(output_dir: Path, *, slide_id: str) -> FaultRecord | None:
    """Return why a slide failed, ``None`` when nothing is remembered of it.

    Raises
    ------
    IntegrityError
        When the record is damaged, or that of another slide.
    """
    path = fault_path(output_dir, slide_id=slide_id)
    found = read_record(path, kind=KIND, schema=SCHEMA)
    if found is None:
        return None
    document, _ = found
    try:
        values = dict(document["fault"])
        fault = Fault(**{**values, "fault_class": FaultClass(values["fault_class"])})
        record = FaultRecord(fault=fault, fingerprint=document["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the record {path} is damaged: {error!r}.", REMEDY) from error
    if fault.slide_id != slide_id:
        raise IntegrityError(f"the record {path} is that of slide {fault.slide_id}.", REMEDY)
    return record


def read_faults(output_dir: Path) -> Mapping[str, FaultRecord]:
    """Return all that is remembered, by slide id in order of name; errors are those of `read_fault`."""
    records = {slide_id: read_fault(output_dir, slide_id=slide_id) for slide_id in sorted(slides_at_fault(output_dir))}
    return {slide_id: record for slide_id, record in records.items() if record is not None}


def slides_at_fault(output_dir: Path) -> frozenset[str]:
    """Return the ids of slides that failed, without reading why; also of those whose record is damaged."""
    folder = fault_path(output_dir, slide_id="x").parent
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return frozenset(name.removesuffix(ENDING) for name in names if name.endswith(ENDING))


def have_workers_died(output_dir: Path) -> bool:
    """Tell whether a slide is remembered to kill the process that reads it; a record that is damaged may be of one."""
    for slide_id in slides_at_fault(output_dir):
        try:
            record = read_fault(output_dir, slide_id=slide_id)
        except IntegrityError:
            return True
        if record is not None and record.fault.fault_class is FaultClass.WORKER:
            return True
    return False


def forget_fault(output_dir: Path, *, slide_id: str) -> None:
    """Forget that a slide failed, because it is done; nothing happens when it did not."""
    fault_path(output_dir, slide_id=slide_id).unlink(missing_ok=True)
