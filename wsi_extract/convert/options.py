"""What a conversion is asked for, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.errors import ConfigError
from wsi_extract.storage import LEVELS, CodecName, PngEncoder, Store
from wsi_extract.stores.codecs import PixelCodec

TARGETS = (Store.PNG, Store.ZARR, Store.BOTH)
"""Stores made of patches. The store pixels needs the slides: it holds more of them than the patches do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertRequest:
    """One conversion: from where, to where, as what.

    Raises
    ------
    ConfigError
        When codec or level do not go with the store, or the store cannot be made from patches.
    """

    source_dir: Path
    """A finished data set."""
    destination: Path
    """A folder of its own for the new data set."""
    store: Store
    codec: CodecName | None = None
    """Of Zarr stores; ``None``: zstd."""
    codec_level: int | None = None
    """``None``: the codec's default."""
    png_encoder: PngEncoder | None = None
    """Of PNG files; ``None``: isal."""
    n_workers: int = 1
    """Threads."""

    def __post_init__(self) -> None:
        if self.store not in TARGETS:
            raise ConfigError(
                f"a data set cannot be converted to the store {self.store}.", f"Use {', '.join(TARGETS)}."
            )
        if self.store is Store.PNG and (self.codec is not None or self.codec_level is not None):
            raise ConfigError("--codec and --codec_level belong to --store zarr or both.", "Leave them out.")
        if not self.store.has_png and self.png_encoder is not None:
            raise ConfigError("--png_encoder belongs to --store png or both.", "Leave it out.")
        low, high, _ = LEVELS[self.codec or CodecName.ZSTD]
        if self.codec_level is not None and not low <= self.codec_level <= high:
            name = self.codec or CodecName.ZSTD
            raise ConfigError(f"--codec_level: {name} has levels {low} to {high}, got {self.codec_level}.")
        if self.n_workers < 1:
            raise ConfigError(f"--workers must be at least 1, got {self.n_workers}.")

    @property
    def pixel_codec(self) -> PixelCodec:
        """Codec of Zarr stores; no file depends on it where the store is png."""
        return PixelCodec.of(self.codec or CodecName.ZSTD, self.codec_level)

    @property
    def pixel_encoder(self) -> PngEncoder:
        """What compresses PNG files; no file depends on it where the store is zarr."""
        return self.png_encoder or PngEncoder.ISAL

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings that a run with this store would have had."""
        codec = self.pixel_codec if self.store.has_patch_arrays else None
        return {
            "store": self.store.value,
            "png_encoder": self.pixel_encoder.value if self.store.has_png else None,
            "codec": None if codec is None else codec.name.value,
            "codec_level": None if codec is None else codec.level,
            "coverage": None,
        }
