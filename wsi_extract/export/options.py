"""What an export can be told, as values: formats, and the options that some of them take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wsi_extract.errors import ConfigError
from wsi_extract.model import Split


class ExportFormat(StrEnum):
    """Layouts that other tools read."""

    COCO_PNG = "coco-png"
    """PNG files and COCO documents, named as in a data set with the store png."""
    IMAGEFOLDER = "imagefolder"
    """One folder per class, as torchvision's ImageFolder and its kin read it."""
    LMDB = "lmdb"
    """One LMDB environment per split."""
    HDF5 = "hdf5"
    """One HDF5 file per split."""
    WEBDATASET = "webdataset"
    """Tar files of PNG and JSON, read one after the other."""
    YOLO = "yolo"
    """Images, one text file of boxes per image, and data.yaml."""


class Classes(StrEnum):
    """The classes of an ImageFolder."""

    TWO = "two"
    """mitosis and non_mitosis: does the patch hold a mitosis?"""
    THREE = "three"
    """mitosis, hard_negative and other: patches placed around look-alikes stand apart."""


class Encoding(StrEnum):
    """How LMDB holds pixels."""

    RAW = "raw"
    """The bytes of the (H, W, 3) array: the fastest to read."""
    PNG = "png"
    """A PNG file: smaller, and many times slower to read."""


class Compression(StrEnum):
    """How HDF5 holds pixels."""

    LZF = "lzf"
    """Fast; read by h5py, and by other readers that have the filter."""
    GZIP = "gzip"
    """Slower and smaller; read by every HDF5 reader."""
    NONE = "none"
    """Raw pixels: the fastest, the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of single formats; see `OPTIONS_OF`."""

    classes: Classes = Classes.TWO
    encoding: Encoding = Encoding.RAW
    compression: Compression = Compression.LZF
    shard_mb: float = 512
    """Size of the pixels in one tar file, 10**6 bytes; the file itself is smaller, because PNG compresses."""
    shuffle_seed: int | None = None
    """Seed of the order of patches in tar files; ``None``: plan order."""

    def __post_init__(self) -> None:
        if not 0 < self.shard_mb < math.inf:
            raise ConfigError(f"shard_mb must be greater than 0 and finite, got {self.shard_mb}.")
        if self.shuffle_seed is not None and self.shuffle_seed < 0:
            raise ConfigError(f"shuffle_seed must be at least 0, got {self.shuffle_seed}.")


OPTIONS_OF: Mapping[ExportFormat, tuple[str, ...]] = {
    ExportFormat.COCO_PNG: (),
    ExportFormat.IMAGEFOLDER: ("classes",),
    ExportFormat.LMDB: ("encoding",),
    ExportFormat.HDF5: ("compression",),
    ExportFormat.WEBDATASET: ("shard_mb", "shuffle_seed"),
    ExportFormat.YOLO: (),
}
"""The fields of `ExportOptions` that a format heeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """One export: from where, to where, as what."""

    output_dir: Path
    """A finished data set."""
    destination: Path
    """A folder of its own for the export."""
    format: ExportFormat
    splits: tuple[Split, ...] = ()
    """Empty: every split of the data set."""
    options: ExportOptions = ExportOptions()

    @property
    def heeded_options(self) -> dict[str, object]:
        """The options that shape this export, as JSON values."""
        return {name: getattr(self.options, name) for name in OPTIONS_OF[self.format]}
