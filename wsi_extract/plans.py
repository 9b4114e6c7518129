"""The file of a slide's plan: planned patches and the tissue mask they were checked against."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.errors import IntegrityError
from wsi_extract.files import canonical_json, sha256_of, write_atomically
from wsi_extract.geometry import Scale
from wsi_extract.model import AnnotationTable, PatchTable, SlidePlan, Split, SplitAccount, TissueMask
from wsi_extract.reading import ReaderChoice, ReaderMode
from wsi_extract.stain import StainTransform

_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for damaged archives, as found by flipping every bit of one."""


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


def write_plan(path: Path, plan: SlidePlan, *, tissue: TissueMask, coverage: BoolImage | None = None) -> None:
    """Write the plan, the mask, and the coverage of a pixel store; the same plan always gives the same bytes."""
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
    write_atomically(path, buffer.getvalue())


def read_patches(path: Path, *, record: SurveyRecord) -> PatchTable:
    """Return the planned patches of ``path``.

    Raises
    ------
    IntegrityError
        When the file is missing, damaged, or not the plan that ``record`` describes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            patches = PatchTable(**{column.name: archive[column.name] for column in fields(PatchTable)})
    except _UNREADABLE as error:
        raise IntegrityError(
            f"the plan of slide {record.slide_id}, {path}, cannot be read: {error}.", "Start over with --fresh."
        ) from error
    plan = SlidePlan(slide_id=record.slide_id, patches=patches, accounts=record.accounts)
    if digest_of_plan(plan, job_key=record.job_key) != record.plan_digest:
        raise IntegrityError(
            f"the plan of slide {record.slide_id}, {path}, is not the one that was recorded.",
            "Start over with --fresh.",
        )
    return patches


def read_coverage(path: Path, *, record: SurveyRecord) -> BoolImage:
    """Return which chunks of the slide the pixel store holds, ``(rows, columns)`` bool.

    Raises
    ------
    IntegrityError
        When it is missing, damaged, or not what ``record`` describes.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            coverage = _unpack(archive["coverage_bits"], archive["coverage_shape_hw"])
    except _UNREADABLE as error:
        raise IntegrityError(
            f"the coverage of slide {record.slide_id} in {path} cannot be read: {error}.", "Start over with --fresh."
        ) from error
    if digest_of_coverage(coverage) != record.coverage_digest:
        raise IntegrityError(
            f"the coverage of slide {record.slide_id} in {path} is not the one that was recorded.",
            "Start over with --fresh.",
        )
    return coverage


def _unpack(bits: npt.NDArray[np.uint8], shape_hw: IntArray) -> BoolImage:
    height, width = (int(side) for side in shape_hw)
    return np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)


def read_mask(path: Path) -> TissueMask:
    """Return the tissue mask stored with a plan.

    Raises
    ------
    IntegrityError
        When the file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            mask = _unpack(archive["mask_bits"], archive["mask_shape_hw"])
            scale = archive["mask_l0_per_px_xy"]
            return TissueMask(mask=mask, l0_per_mask_px=Scale(x=float(scale[0]), y=float(scale[1])))
    except _UNREADABLE as error:
        raise IntegrityError(
            f"the tissue mask in {path} cannot be read: {error}.", "Start over with --fresh."
        ) from error


def job_key(description: object) -> str:
    """Return the digest of everything a plan depends on, given as JSON values."""
    return sha256_of(canonical_json(description))
