"""The nouns of the program, frozen: slides, annotations, patches, blocks, records, outcomes.

Knows nothing of files, formats, configuration or schedulers. Tables are columns of equal length, one row per
object, because a slide may hold a hundred thousand of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Self

import numpy as np

from wsi_extract.arrays import BoolImage, CodeArray, CountImage, FloatArray, IntArray
from wsi_extract.geometry import Rect, Scale, covered_area, integral_image


class Split(StrEnum):
    """What a patch is for. The order is the order of everything that lists splits."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Role(IntEnum):
    """What an annotated class means to the data set."""

    TARGET = 1
    """The objects to detect: labelled as category 1, and anchors of `PatchKind.MITOSIS`."""
    HARD_NEGATIVE = 2
    """Look-alikes: anchors of `PatchKind.HARD_NEGATIVE`; labelled as category 2 only when asked for."""
    CONTEXT = 3
    """Other cells: counted, neither label nor anchor."""
    IGNORE = 4
    """Objects of unknown truth: written with iscrowd = 1, so that evaluation ignores them."""

    @property
    def label(self) -> str:
        """The name used in files and tables."""
        return self.name.lower()


class PatchKind(IntEnum):
    """Why a patch is in the plan. The order is the order of quotas."""

    RANDOM = 0
    HARD_NEGATIVE = 1
    MITOSIS = 2
    GRID = 3

    @property
    def label(self) -> str:
        """The name used in files and tables."""
        return self.name.lower()


ANCHOR_ROLE = {PatchKind.HARD_NEGATIVE: Role.HARD_NEGATIVE, PatchKind.MITOSIS: Role.TARGET}
"""The role whose annotations a kind of patch is placed around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFile:
    """A slide found on disk, not opened yet."""

    slide_id: str
    """Stable name, unique in the run: the path below the slide folder without its extension, made safe."""
    path: Path
    companions: tuple[Path, ...] = ()
    """Further files of the same slide that look like slides themselves, such as the other files of a DICOM series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideLevel:
    """One level of the pyramid."""

    width_px: int
    height_px: int
    downsample: float
    """Level-0 pixels per pixel of this level, as OpenSlide gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideInfo:
    """What is known of a slide after it was opened once."""

    slide_id: str
    path: Path
    vendor: str
    levels: tuple[SlideLevel, ...]
    um_per_px_xy: tuple[float, float] | None
    """Physical size of a level-0 pixel, ``None`` when unknown or implausible."""
    um_per_px_source: str
    """Where the resolution comes from: ``property``, ``run override``, ``slide override``, or why it is unknown."""
    bounds_l0: Rect | None
    """The scanned part of level 0, when the format states one."""
    objective_power: float | None
    fingerprint: str
    """Digest of the file's size and samples of its content; changes when the file is replaced."""
    companions: tuple[Path, ...] = ()

    @property
    def width_l0_px(self) -> int:
        """Width of level 0."""
        return self.levels[0].width_px

    @property
    def height_l0_px(self) -> int:
        """Height of level 0."""
        return self.levels[0].height_px

    @property
    def domain_l0(self) -> Rect:
        """Where patches may lie: the scanned bounds when the format states them, else the whole slide."""
        if self.bounds_l0 is not None:
            return self.bounds_l0
        return Rect(x0=0, y0=0, x1=self.width_l0_px, y1=self.height_l0_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFrame:
    """How patches of one slide are read: which level, which scale, which size."""

    patch_w_out_px: int
    patch_h_out_px: int
    scale: Scale
    """Level-0 pixels per output pixel."""
    level: int
    """The pyramid level the pixels come from."""
    level_downsample: float
    um_per_px_out_xy: tuple[float, float] | None

    @property
    def is_resampled(self) -> bool:
        """Whether output pixels differ from the pixels of the level."""
        return not (self.scale.x == self.scale.y == self.level_downsample)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotationTable:
    """The mapped annotations of one slide, ordered by (source_id, part), centres inside the slide.

    Only the roles target, hard_negative and ignore appear. Boxes may reach over the slide's edge.
    """

    source_id: IntArray
    """(N,) int64, the id in the annotation file."""
    part: IntArray
    """(N,) int64, 0 unless one id of the file holds several boxes; then 0, 1, ... in file order."""
    role: CodeArray
    """(N,) int8, values of `Role`."""
    class_id: IntArray
    """(N,) int64, the class's id in the annotation file."""
    boxes_l0: FloatArray
    """(N, 4) float64, columns (x0, y0, x1, y1), level-0 px."""

    def __post_init__(self) -> None:
        n = len(self.source_id)
        if not (len(self.part) == len(self.role) == len(self.class_id) == n and self.boxes_l0.shape == (n, 4)):
            raise ValueError("the columns of an annotation table must have equal length")
        if not np.isin(self.role, (Role.TARGET, Role.HARD_NEGATIVE, Role.IGNORE)).all():
            raise ValueError("an annotation table holds targets, hard negatives and objects to ignore, nothing else")

    def __len__(self) -> int:
        return len(self.source_id)

    @classmethod
    def empty(cls) -> Self:
        """Return a table without rows."""
        ints = np.empty(0, dtype=np.int64)
        return cls(
            source_id=ints,
            part=ints,
            role=np.empty(0, dtype=np.int8),
            class_id=ints,
            boxes_l0=np.empty((0, 4), dtype=np.float64),
        )

    @property
    def centres_l0(self) -> FloatArray:
        """(N, 2) float64, columns (x, y), level-0 px."""
        centres: FloatArray = (self.boxes_l0[:, :2] + self.boxes_l0[:, 2:]) / 2
        return centres

    def take(self, rows: IntArray) -> AnnotationTable:
        """Return the table of the given rows, in the given order."""
        return AnnotationTable(
            source_id=self.source_id[rows],
            part=self.part[rows],
            role=self.role[rows],
            class_id=self.class_id[rows],
            boxes_l0=self.boxes_l0[rows],
        )

    def name_of(self, row: int) -> str:
        """Return the stable name of an annotation: ``"17"``, or ``"17.2"`` for a further part."""
        part = int(self.part[row])
        return f"{int(self.source_id[row])}.{part}" if part else str(int(self.source_id[row]))

    def count(self, role: Role) -> int:
        """Return how many annotations have the role."""
        return int(np.count_nonzero(self.role == role))


NO_ANCHOR = -1
"""Value of `PatchTable.anchor_row` for patches that are placed around nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchTable:
    """Planned patches of one slide; a row's index is the patch's number within its slide."""

    origins_out: IntArray
    """(N, 2) int64, columns (x, y), extraction grid px."""
    origins_l0: IntArray
    """(N, 2) int64, columns (x, y), level-0 px the patch is read from; unique within a slide and split."""
    split: CodeArray
    """(N,) int8, index into ``tuple(Split)``."""
    kind: CodeArray
    """(N,) int8, values of `PatchKind`."""
    requested_kind: CodeArray
    """(N,) int8, values of `PatchKind`: what the quota asked for before shares moved to random."""
    anchor_row: IntArray
    """(N,) int64, row of the slide's `AnnotationTable` the patch is placed around, or `NO_ANCHOR`."""
    tissue_fraction: FloatArray
    """(N,) float64, 0 to 1."""

    def __len__(self) -> int:
        return len(self.origins_out)

    def take(self, rows: IntArray) -> PatchTable:
        """Return the table of the given rows, in the given order."""
        return PatchTable(
            origins_out=self.origins_out[rows],
            origins_l0=self.origins_l0[rows],
            split=self.split[rows],
            kind=self.kind[rows],
            requested_kind=self.requested_kind[rows],
            anchor_row=self.anchor_row[rows],
            tissue_fraction=self.tissue_fraction[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAccount:
    """Why a slide yields what it yields in one split. ``n_asked`` = sum of planned patches + ``n_missing``."""

    split: Split
    n_asked: int
    """Patches asked for; in grid mode the number of grid positions with enough tissue."""
    n_planned: dict[str, int]
    """Planned patches by kind label."""
    moved_to_random: dict[str, int]
    """Patches of an anchored kind's quota that became random patches, by kind label."""
    n_infeasible_anchors: int
    """Anchors around which no patch fits into the domain; they stay labels."""
    n_anchored_below_tissue: int
    """Anchored patches with less tissue than the threshold; they are kept."""
    n_missing: int
    missing_reason: str
    """Empty when nothing is missing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TissueMask:
    """Where a slide holds tissue, at low magnification.

    Mask pixel (row i, column j) covers ``[j * sx, (j + 1) * sx) x [i * sy, (i + 1) * sy)`` of level 0.
    """

    mask: BoolImage
    """(H, W) bool, True on tissue."""
    l0_per_mask_px: Scale
    _table: list[CountImage] = field(init=False, repr=False, default_factory=list)
    """Empty until the table is asked for; it takes four times the memory of the mask."""

    @property
    def table(self) -> CountImage:
        """Summed-area table of the mask."""
        if not self._table:
            self._table.append(integral_image(self.mask))
        return self._table[0]

    @property
    def tissue_share(self) -> float:
        """Share of the mask that is tissue, 0 for an empty mask."""
        return int(np.count_nonzero(self.mask)) / self.mask.size if self.mask.size else 0.0

    def fractions(self, origins_l0: IntArray, *, w_l0: float, h_l0: float) -> FloatArray:
        """Return the share of tissue in windows of ``w_l0 x h_l0`` level-0 px at ``origins_l0`` ((N, 2), x and y)."""
        boxes = np.empty((len(origins_l0), 4), dtype=np.float64)
        boxes[:, 0] = origins_l0[:, 0] / self.l0_per_mask_px.x
        boxes[:, 1] = origins_l0[:, 1] / self.l0_per_mask_px.y
        boxes[:, 2] = (origins_l0[:, 0] + w_l0) / self.l0_per_mask_px.x
        boxes[:, 3] = (origins_l0[:, 1] + h_l0) / self.l0_per_mask_px.y
        window_area = (w_l0 / self.l0_per_mask_px.x) * (h_l0 / self.l0_per_mask_px.y)
        # Nine decimals, so that a window holding exactly the threshold passes it on every machine.
        share = np.clip(covered_area(self.table, boxes) / window_area, 0.0, 1.0)
        return np.round(share, 9).astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlidePlan:
    """Everything decided about one slide before a pixel of the output is read."""

    slide_id: str
    patches: PatchTable
    accounts: tuple[SplitAccount, ...]
    """One per split the slide takes part in."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A slice of one slide's plan: the unit of work, of storage and of failure. Carries all it needs."""

    slide: SlideInfo
    frame: OutputFrame
    index: int
    """Number of the block within its slide."""
    split: Split
    shard: int
    """Number of the block within its slide and split."""
    n_rows: int
    """Patches of a full block of this slide; the last one of a split may hold fewer."""
    first_row: int
    """Number of its first patch within the slide's plan."""
    patches: PatchTable
    anchor_names: tuple[str, ...]
    """Stable name of each patch's anchor, empty for patches without."""
    annotations: AnnotationTable
    """The slide's annotations that may touch one of the patches."""
    plan_digest: str

    def __len__(self) -> int:
        return len(self.patches)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecord:
    """What a finished block reports to the driver; everything else is in its record on disk."""

    slide_id: str
    index: int
    n_patches: int
    sha256: str
    """Of the content of the record on disk."""


class FaultClass(StrEnum):
    """Whose fault a failure is; decides what the run does about it."""

    SLIDE = "slide"
    """The slide's: it is dropped, the run goes on."""
    WORKER = "worker"
    """A worker process died on it: treated as the slide's fault."""
    ENVIRONMENT = "environment"
    """The machine's: the run stops and can be resumed."""
    INTEGRITY = "integrity"
    """Output differs from what was recorded: the run stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failure as a value, fit for errors.jsonl."""

    slide_id: str
    stage: str
    fault_class: FaultClass
    error_type: str
    message: str
    remedy: str
    n_attempts: int = 1
    """How often the task was tried."""
    errno_name: str = ""
    """The system's name of the trouble, such as EIO; empty when it was not the system that complained."""
