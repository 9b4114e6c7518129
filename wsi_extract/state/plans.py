"""The file of a slide's plan: planned patches and the tissue mask they were checked against; and its record."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.disk.files import canonical_json, sha256_of, write_atomically
from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Scale
from wsi_extract.model import AnnotationTable, PatchTable, SlidePlan, Split, SplitAccount, TissueMask
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.stain import StainTransform
from wsi_extract.state.record_files import encode_record, read_record

SCHEMA = 1
"""Of the record of a survey."""
KIND = "survey"
MAX_PLAN_BYTES = 1 << 30
"""Of all columns of a plan, unpacked: some ten million patches. An archive that claims more is no plan."""
MAX_MASK_BYTES = 1 << 25
"""Of a mask, eight places per byte: twenty times what a survey looks at."""
AGAIN = "Give the command that made it again: the plan is then made anew, and all that is whole is kept."
_UNREADABLE = (
    FileNotFoundError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What NumPy and zipfile raise for damaged archives, as found by flipping every bit of one; and for a missing one.

What a disk, a mount or a lack of memory says is no damage, and comes through as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyRecord:
    """What a survey reports to the driver, and what is stored beside the plan."""

    slide_id: str
    job_key: str
    """Digest of everything the plan depends on."""
    plan_digest: str
    """Digest of the job key and of every planned patch."""
    n_patches: int
    accounts: tuple[SplitAccount, ...]
    tissue_share: float
    mask_l0_per_px_xy: tuple[float, float]
    plan_sha256: str = ""
    """SHA-256 of the plan's file: of the mask too, and of all around the columns; empty where nothing is kept."""
    n_chunks: int = 0
    """Chunks of the slide that the pixel store holds; 0 for other stores."""
    coverage_digest: str = ""
    """Digest of which chunks these are; empty for other stores."""
    reader_mode: ReaderMode = ReaderMode.OPENSLIDE
    """What was asked for when the reader was chosen."""
    reader: ReaderChoice = field(default_factory=ReaderChoice)
    stain: StainTransform | None = None
    """``None`` when pixels stay as they were scanned."""
    stain_reason: str = ""
    """Why the slide is not normalised although that was asked for; empty otherwise."""

    def to_json(self) -> dict[str, object]:
        """Return the record as JSON values."""
        return {
            **asdict(self),
            "accounts": [{**asdict(account), "split": account.split.value} for account in self.accounts],
            "mask_l0_per_px_xy": list(self.mask_l0_per_px_xy),
            "stain": None if self.stain is None else self.stain.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, object]) -> SurveyRecord:
        """Rebuild a record from `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        values = dict(document)
        accounts = values.pop("accounts")
        reader = values.pop("reader")
        stain = values.pop("stain")
        scale = values.pop("mask_l0_per_px_xy")
        if not isinstance(accounts, list) or not isinstance(scale, list) or not isinstance(reader, dict):
            raise TypeError("a list or an object is missing")
        if not (stain is None or isinstance(stain, dict)):
            raise TypeError(f"a stain transform must be an object, got {stain!r}")
        mode = ReaderMode(str(values.pop("reader_mode")))
        return cls(
            **values,  # type: ignore[arg-type]  # the names and types are those of to_json
            accounts=tuple(SplitAccount(**{**account, "split": Split(account["split"])}) for account in accounts),
            mask_l0_per_px_xy=(float(scale[0]), float(scale[1])),
            reader_mode=mode,
            stain=None if stain is None else StainTransform.from_json(stain),
            reader=ReaderChoice(direct_levels=tuple(reader["direct_levels"]), reason=reader["reason"]),
        )


def digest_of_plan(plan: SlidePlan, *, job_key: str) -> str:
    """Return the SHA-256 over the job key and all columns of the plan."""
    return _digest_of_columns(plan.patches, start=job_key.encode())


def digest_of_annotations(annotations: AnnotationTable) -> str:
    """Return the SHA-256 over all columns of the table."""
    return _digest_of_columns(annotations, start=b"")


def _digest_of_columns(table: AnnotationTable | PatchTable, *, start: bytes) -> str:
    digest = hashlib.sha256(start)
    for column in fields(table):
        values = getattr(table, column.name)
        digest.update(canonical_json([column.name, str(values.dtype), list(values.shape)]))
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def digest_of_coverage(coverage: BoolImage) -> str:
    """Return the SHA-256 of which chunks a pixel store holds."""
    return sha256_of(canonical_json(list(coverage.shape)) + np.packbits(coverage).tobytes())


def encode_survey(record: SurveyRecord) -> bytes:
    """Return the bytes of the record of a survey, see `wsi_extract.state.record_files`."""
    return encode_record({"schema": SCHEMA, **record.to_json()}, kind=KIND)


def read_survey_record(path: Path) -> SurveyRecord | None:
    """Return the record of the survey at ``path``, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged.
    """
    found = read_record(path, kind=KIND, schema=SCHEMA)
    if found is None:
        return None
    document, _ = found
    try:
        return SurveyRecord.from_json({key: value for key, value in document.items() if key != "schema"})
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise IntegrityError(f"the record {path} is damaged: {error!r}.", AGAIN) from error


def write_plan(path: Path, plan: SlidePlan, *, tissue: TissueMask, coverage: BoolImage | None = None) -> str:
    """Write the plan, the mask, and the coverage of a pixel store; the same plan always gives the same bytes.

    Returns
    -------
    The SHA-256 of the file, for `SurveyRecord.plan_sha256`.
    """
    columns = {column.name: getattr(plan.patches, column.name) for column in fields(PatchTable)}
    if coverage is not None:
        columns["coverage_bits"] = np.packbits(coverage)
        columns["coverage_shape_hw"] = np.array(coverage.shape, dtype=np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        **columns,
        mask_bits=np.packbits(tissue.mask),
        mask_shape_hw=np.array(tissue.mask.shape, dtype=np.int64),
        mask_l0_per_px_xy=np.array([tissue.l0_per_mask_px.x, tissue.l0_per_mask_px.y], dtype=np.float64),
    )
    data = buffer.getvalue()
    write_atomically(path, data)
    return sha256_of(data)


def _read_columns(path: Path, names: Sequence[str], *, plan_sha256: str | None = None) -> dict[str, Any]:
    """Return columns of a plan's file, after a look at its digest and at how much they claim to hold.

    Parameters
    ----------
    plan_sha256
        What the file must have; ``None`` when nobody knows.

    Raises
    ------
    ValueError
        When it has another, or would unpack to more than any plan; and whatever else is among `_UNREADABLE`.
    """
    if path.stat().st_size > MAX_PLAN_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, more than any plan")
    data = path.read_bytes()
    if plan_sha256 is not None and sha256_of(data) != plan_sha256:
        raise ValueError("it does not match the digest that was recorded of it")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
        if n_bytes > MAX_PLAN_BYTES:
            raise ValueError(f"it would unpack to {n_bytes:,} bytes, more than any plan")
        # Whole members, whose check sums are compared before NumPy believes what their headers claim.
        return {name: np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False) for name in names}


def read_patches(path: Path, *, record: SurveyRecord) -> PatchTable:
    """Return the planned patches of ``path``.

    Raises
    ------
    IntegrityError
        When the file is missing, damaged in any byte, or not the plan that ``record`` describes.
    """
    names = [column.name for column in fields(PatchTable)]
    try:
        patches = PatchTable(**_read_columns(path, names, plan_sha256=record.plan_sha256))
    except _UNREADABLE as error:
        raise IntegrityError(f"the plan of slide {record.slide_id}, {path}, cannot be read: {error}.", AGAIN) from error
    plan = SlidePlan(slide_id=record.slide_id, patches=patches, accounts=record.accounts)
    if digest_of_plan(plan, job_key=record.job_key) != record.plan_digest:
        raise IntegrityError(f"the plan of slide {record.slide_id}, {path}, is not the one that was recorded.", AGAIN)
    return patches


def read_coverage(path: Path, *, record: SurveyRecord) -> BoolImage:
    """Return which chunks of the slide the pixel store holds, ``(rows, columns)`` bool.

    Raises
    ------
    IntegrityError
        When it is missing, damaged, or not what ``record`` describes.
    """
    names = ["coverage_bits", "coverage_shape_hw"]
    try:
        columns = _read_columns(path, names, plan_sha256=record.plan_sha256)
        coverage = _unpack(columns["coverage_bits"], columns["coverage_shape_hw"])
    except _UNREADABLE as error:
        raise IntegrityError(
            f"the coverage of slide {record.slide_id} in {path} cannot be read: {error}.", AGAIN
        ) from error
    if digest_of_coverage(coverage) != record.coverage_digest:
        raise IntegrityError(
            f"the coverage of slide {record.slide_id} in {path} is not the one that was recorded.", AGAIN
        )
    return coverage


def _unpack(bits: npt.NDArray[np.uint8], shape_hw: IntArray) -> BoolImage:
    height, width = (int(side) for side in shape_hw)
    if not (height >= 0 and width >= 0 and -(-height * width // 8) == bits.size <= MAX_MASK_BYTES):
        raise ValueError(f"{bits.size} bytes are no mask of {height} x {width}")
    return np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)


def read_mask(path: Path) -> TissueMask:
    """Return the tissue mask stored with a plan; whether it is the recorded one, `read_patches` tells.

    Raises
    ------
    IntegrityError
        When the file is missing or damaged.
    """
    try:
        columns = _read_columns(path, ["mask_bits", "mask_shape_hw", "mask_l0_per_px_xy"])
        mask, scale = _unpack(columns["mask_bits"], columns["mask_shape_hw"]), columns["mask_l0_per_px_xy"]
        return TissueMask(mask=mask, l0_per_mask_px=Scale(x=float(scale[0]), y=float(scale[1])))
    except _UNREADABLE as error:
        raise IntegrityError(f"the tissue mask in {path} cannot be read: {error}.", AGAIN) from error


def job_key(description: object) -> str:
    """Return the digest of everything a plan depends on, given as JSON values."""
    return sha256_of(canonical_json(description))
