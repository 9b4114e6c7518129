"""Settings of one run: names, units, limits and defaults in one place.

The same names are keys of config.json's ``extraction`` object and flags of ``run_extraction.py``. Loading is strict:
unknown keys, wrong types and values out of range are refused, all of them in one message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from wsi_extract.config_problems import describe_problems, shortened
from wsi_extract.errors import ConfigError
from wsi_extract.reading import ReaderMode, StainNorm
from wsi_extract.storage import LEVELS, CodecName, Coverage, PngEncoder, Store

RoleName = Literal["target", "hard_negative", "context", "ignore"]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _refuse_blank(path: object) -> object:
    """An empty path, as from an unset shell variable, would mean the current folder."""
    if isinstance(path, str) and not path.strip():
        raise ValueError("a path must not be empty")
    return path


def _as_absolute(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path must not hold NUL")
    try:
        return path.expanduser().absolute()
    except (RuntimeError, OSError) as error:  # ~somebody, who is unknown here; a current folder that was deleted
        raise ValueError(str(error)) from error


FilePath = Annotated[Path, BeforeValidator(_refuse_blank), AfterValidator(_as_absolute)]
"""A path of this machine, absolute, because workers may have another working directory."""

WEEK_S = 7 * 24 * 3600
MAX_PORT = 65_535
MIXTURES: Mapping[str, tuple[float, float, float]] = {
    "ccmct": (0.1, 0.4, 0.5),
    "midog": (0.5, 0.0, 0.5),
    "midog25": (0.25, 0.25, 0.5),
}
"""Named shares of random tissue, hard negatives and mitoses."""


class Sampling(StrEnum):
    """Where patches are placed."""

    ANCHORED = "anchored"
    """Around mitoses and look-alikes, with jitter, plus random tissue: for training."""
    GRID = "grid"
    """On an overlapping grid over all tissue: for inference and honest evaluation."""


class SplitMode(StrEnum):
    """What is divided between train and val."""

    SLIDE = "slide"
    """Whole slides, or groups of slides of one patient."""
    HALF = "half"
    """Every slide: upper half train, lower half val. Leaks stain and patient; only on request."""


class RunConfig(BaseModel):
    """All settings of one run; see the description of each field."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    # Input and output
    wsi_dir: FilePath = Field(description="folder with the slides, searched recursively")
    annotation_json: FilePath = Field(description="annotations: SlideRunner SQLite or COCO JSON")
    output_dir: FilePath = Field(description="folder for the data set")

    # What is extracted
    patches_per_slide: int = Field(
        100, ge=1, le=1_000_000, description="patches per slide and split (anchored sampling)"
    )
    patch_size: int = Field(256, ge=16, le=8192, description="side of a patch, output px")
    mpp: float | None = Field(None, gt=0, description="output resolution, um per px; default: the level's own")
    level: int | None = Field(None, ge=0, description="pyramid level to read; default 0")
    slide_mpp: float | None = Field(None, gt=0, description="um per px of level 0 of every slide, instead of its own")
    slide_mpp_csv: FilePath | None = Field(
        None, description="CSV slide,um_per_px or slide,um_per_px_x,um_per_px_y: resolutions of single slides"
    )

    stain_norm: StainNorm = Field(StainNorm.NONE, description="bring the stain of each slide to that of a target")
    stain_target: FilePath | None = Field(
        None, description="picture whose stain is the target, PNG or JPEG; default: a published reference"
    )

    # Annotations
    category_map: dict[str, RoleName] | None = Field(
        None, description="class name or id -> role, as 2=target,7=hard_negative or a JSON file"
    )
    bbox_format: Literal["auto", "xyxy", "xywh"] = Field("auto", description="meaning of the boxes of a COCO file")
    point_box_px: float = Field(50.0, gt=0, description="side of the box of a point annotation, level-0 px")
    point_box_um: float | None = Field(None, gt=0, description="the same in um; replaces --point_box_px")
    annotation_types: tuple[Literal["spot", "area", "polygon", "circle"], ...] = Field(
        ("spot",), min_length=1, description="SlideRunner annotation types to use"
    )
    slide_aliases_csv: FilePath | None = Field(
        None, description="CSV annotation_name,slide: names in the annotation file that differ from the slides'"
    )
    unannotated_slides: Literal["exclude", "negative"] = Field(
        "exclude", description="slides without any annotation: not reviewed (exclude) or reviewed and empty (negative)"
    )

    # Tissue
    tissue_method: Literal["lab", "hsv"] = Field("lab", description="how tissue is told from glass")
    mask_magnification: float = Field(
        2.5, ge=0.1, le=20, description="magnification of the tissue mask, to within 15 % (40x = 0.25 um)"
    )
    min_tissue_fraction: Fraction = Field(0.10, description="least tissue in random and grid patches")

    # Sampling
    sampling: Sampling = Field(Sampling.ANCHORED, description="where patches are placed")
    mixture: Literal["ccmct", "midog", "midog25"] | tuple[Fraction, Fraction, Fraction] = Field(
        "ccmct", description="shares of random, hard negative and mitosis patches: a preset or three numbers, sum 1"
    )
    jitter: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.5, description="furthest shift of an anchored patch, as a share of its side"
    )
    min_margin_px: int = Field(0, ge=0, description="least distance of an anchor's centre from the patch's edge")
    max_repeats_per_anchor: int | None = Field(None, ge=1, description="most patches around one annotation")
    random_negatives_only: bool = Field(False, description="random patches never hold a target")
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="overlap of neighbouring grid patches")
    stride_px: int | None = Field(None, ge=1, description="step of the grid, output px; replaces --overlap")
    seed: int = Field(42, ge=0, description="seed of every random choice")

    # Splits
    train_val_split: Fraction = Field(0.8, description="share of slides (or patients) for training")
    split_mode: SplitMode = Field(SplitMode.SLIDE, description="what is divided between train and val")
    guard_px: int = Field(0, ge=0, description="half mode: width kept free on each side of the midline, level-0 px")
    group_regex: str | None = Field(None, description="patient of a slide: first group of this regex on its file name")
    group_csv: FilePath | None = Field(None, description="CSV slide,group: the patient of each slide")
    train_slides: tuple[str | int, ...] = Field((), description="slides for training, by name")
    val_slides: tuple[str | int, ...] = Field((), description="slides for validation, by name")
    test_slides: tuple[str | int, ...] = Field((), description="slides for testing, by name, or the preset ccmct")
    test_regex: str | None = Field(None, description="slides whose name matches are for testing; e.g. (^|_)test")

    # Labels
    label_hard_negatives: bool = Field(False, description="label look-alikes as category 2")
    label_visible_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="label objects from this visible share on; default: objects whose centre is in the patch"
    )
    crowd_visible_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description="unlabelled objects visible from this share on become iscrowd = 1"
    )

    # Output
    store: Store = Field(Store.PNG, description="how patches are written")
    png_encoder: PngEncoder | None = Field(
        None,
        description="compression of PNG files (png, both): isal (default), fpng (fastest, a fifth larger), opencv",
    )
    codec: CodecName | None = Field(
        None,
        description="compression of zarr and pixels: zstd (default), none, webp, jpeg-xl, all lossless; jpeg: lossy",
    )
    codec_level: int | None = Field(
        None, description="zstd -7 to 19 (default -1), webp 0 to 6 (0), jpeg-xl 1 to 9 (1), jpeg quality 1 to 100 (95)"
    )
    coverage: Coverage | None = Field(
        None,
        description="what the pixel store holds: the planned patches, all windows around all anchors, or all tissue "
        "too; default: planned for a grid, else anchors",
    )

    # How the run is carried out; none of these changes the output
    reader: ReaderMode = Field(
        ReaderMode.AUTO, description="who decodes tiles: auto (direct where proven equal), openslide or direct"
    )
    workers: int | None = Field(
        None, ge=0, description="processes; 0: serial, without Dask; default: one per core, once there is enough to do"
    )
    scheduler: str | None = Field(
        None, pattern=r"^(tcp|tls)://", description="existing Dask cluster, tcp://HOST:8786 or tls://HOST:8786"
    )
    tls_ca_file: FilePath | None = Field(
        None,
        description="certificate authority of a tls:// scheduler or a job's nodes, PEM; with --tls_cert and --tls_key",
    )
    tls_cert: FilePath | None = Field(None, description="own certificate for a tls:// scheduler, PEM")
    tls_key: FilePath | None = Field(None, description="private key of --tls_cert, PEM")
    dashboard_address: str = Field(
        "127.0.0.1:8787", pattern=r"^\S*:\d{1,5}$", description="where the local cluster's dashboard listens"
    )
    worker_memory_mb: int | None = Field(
        None, ge=64, description="memory each worker may use, MB; default: its share of 85 % of the machine's"
    )
    task_timeout_s: int = Field(
        900, ge=10, le=WEEK_S, description="seconds after which a slide that is being read counts as hanging"
    )
    on_partial: Literal["fail", "warn"] = Field(
        "fail", description="exit code when slides failed: 3 (fail) or 0 (warn)"
    )
    dry_run: bool = Field(False, description="print what would be done and write nothing")
    fresh: bool = Field(False, description="delete the output of an earlier run in --output_dir and start over")

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        problems = []
        if self.mpp is not None and self.level is not None:
            problems.append("mpp and level: give one of them")
        if not isinstance(self.mixture, str) and abs(sum(self.mixture) - 1) > 1e-9:
            problems.append(f"mixture: the shares must sum to 1, got {sum(self.mixture):g}")
        if self.group_regex is not None and self.group_csv is not None:
            problems.append("group_regex and group_csv: give one of them")
        if 2 * self.min_margin_px >= self.patch_size:
            problems.append(f"min_margin_px: {self.min_margin_px} leaves no room in a patch of {self.patch_size} px")
        if self.split_mode is SplitMode.HALF and (self.train_slides or self.val_slides):
            problems.append("split_mode half: train_slides and val_slides have no meaning there")
        if self.stride_px is None and round(self.patch_size * (1 - self.overlap)) < 1:
            problems.append(f"overlap: {self.overlap} leaves no step between patches of {self.patch_size} px")
        for first, second in (("stride_px", "overlap"), ("point_box_um", "point_box_px"), ("scheduler", "workers")):
            if getattr(self, first) is not None and second in self.model_fields_set:
                problems.append(f"{first} and {second}: give one of them")
        problems += self._problems_of_pixels()
        problems += self._problems_of_cluster()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_pixels(self) -> list[str]:
        problems = []
        if self.stain_norm is StainNorm.NONE and self.stain_target is not None:
            problems.append("stain_target: it belongs to --stain_norm macenko or reinhard")
        if self.store is Store.PNG and (self.codec is not None or self.codec_level is not None):
            problems.append("codec and codec_level: they belong to --store zarr, both or pixels")
        if not self.store.has_png and self.png_encoder is not None:
            problems.append("png_encoder: it belongs to --store png or both")
        if self.store is not Store.PIXELS and self.coverage is not None:
            problems.append("coverage: it belongs to --store pixels")
        name = self.codec or CodecName.ZSTD
        low, high, _ = LEVELS[name]
        if self.codec_level is not None and not low <= self.codec_level <= high:
            got = shortened(str(self.codec_level))
            problems.append(f"codec_level: {name} has levels {low} to {high}, got {got}")
        return problems

    def _problems_of_cluster(self) -> list[str]:
        files = {"tls_ca_file": self.tls_ca_file, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        missing = [name for name, path in files.items() if path is None]
        is_encrypted = self.scheduler is not None and self.scheduler.startswith("tls://")
        if is_encrypted and missing:
            return [f"scheduler {shortened(str(self.scheduler))}: {', '.join(missing)} missing"]
        # Without any scheduler they may belong to the nodes of a job, which the environment tells of.
        if not is_encrypted and len(missing) < len(files) and (self.scheduler is not None or missing):
            return ["tls_ca_file, tls_cert and tls_key: they belong to --scheduler tls://HOST:8786, all three of them"]
        port = int(self.dashboard_address.rpartition(":")[2])
        return [] if port <= MAX_PORT else [f"dashboard_address: {port} is no port, which is at most {MAX_PORT}"]

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of random, hard negative and mitosis patches."""
        return MIXTURES[self.mixture] if isinstance(self.mixture, str) else self.mixture

    @property
    def pixel_codec(self) -> tuple[CodecName, int]:
        """Codec and level of Zarr stores."""
        name = self.codec or CodecName.ZSTD
        return name, LEVELS[name][2] if self.codec_level is None else self.codec_level

    @property
    def pixel_encoder(self) -> PngEncoder:
        """What compresses PNG files."""
        return self.png_encoder or PngEncoder.ISAL

    @property
    def pixel_coverage(self) -> Coverage:
        """What the pixel store holds."""
        return self.coverage or (Coverage.PLANNED if self.sampling is Sampling.GRID else Coverage.ANCHORS)

    def output_settings(self) -> dict[str, object]:
        """Return the settings that the output depends on, ready for JSON. Inputs enter by their digests instead."""
        settings: dict[str, object] = self.model_dump(mode="json", exclude=set(LOCATION_FIELDS | RUN_FIELDS))
        settings["mixture"] = list(self.shares)
        settings["annotation_types"] = sorted(set(self.annotation_types))
        if self.store.has_png:
            settings["png_encoder"] = self.pixel_encoder.value
        if self.store is not Store.PNG:
            settings["codec"], settings["codec_level"] = self.pixel_codec
        if self.store is Store.PIXELS:
            settings["coverage"] = self.pixel_coverage.value
        return settings


SECTIONS: Mapping[str, str] = {
    "wsi_dir": "input and output",
    "patches_per_slide": "what is extracted",
    "category_map": "annotations",
    "tissue_method": "tissue",
    "sampling": "sampling",
    "train_val_split": "splits",
    "label_hard_negatives": "labels",
    "store": "how it is stored",
    "reader": "how the run is carried out (never changes the output)",
}
"""First setting of each section of the help text."""

LOCATION_FIELDS = frozenset(
    {"wsi_dir", "annotation_json", "output_dir", "slide_mpp_csv", "slide_aliases_csv", "group_csv", "stain_target"}
)
"""Paths: their content matters, not their names."""

STORE_FIELDS = frozenset({"store", "png_encoder", "codec", "codec_level", "coverage"})
"""Settings that change how pixels are kept, and nothing else."""

RUN_FIELDS = frozenset(
    {
        "reader",
        "workers",
        "scheduler",
        "tls_ca_file",
        "tls_cert",
        "tls_key",
        "dashboard_address",
        "worker_memory_mb",
        "task_timeout_s",
        "on_partial",
        "dry_run",
        "fresh",
    }
)
"""Settings that never change the output."""


RIVALS = (
    ("mpp", "level"),
    ("stride_px", "overlap"),
    ("point_box_um", "point_box_px"),
    ("scheduler", "workers"),
    ("group_regex", "group_csv"),
)
"""Settings that exclude each other; a flag takes back its rival in the config file."""


def _without_rivals(file_values: Mapping[str, object], flag_values: Mapping[str, object]) -> dict[str, object]:
    pairs = (*RIVALS, *((second, first) for first, second in RIVALS))
    overruled = {rival for name, rival in pairs if name in flag_values}
    return {key: value for key, value in file_values.items() if key not in overruled}


def load_config(file_values: Mapping[str, object], flag_values: Mapping[str, object]) -> RunConfig:
    """Combine the values of a config file and of flags, flags first, into checked settings.

    Raises
    ------
    ConfigError
        Listing the problems, one per line, with the nearest valid key for unknown ones.
    """
    origin = {key: f"--{key}" for key in flag_values}
    try:
        return RunConfig.model_validate_json(json.dumps({**_without_rivals(file_values, flag_values), **flag_values}))
    except ValidationError as error:
        lines = describe_problems(error.errors(), origin=origin, known=RunConfig.model_fields)
        raise ConfigError("the settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)) from error
    except (ValueError, RecursionError) as error:  # numbers and depths that JSON cannot have here
        raise ConfigError(f"the settings cannot be used: {error}.") from error
