"""The sub-command ``convert``: its flags, and what they ask for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from wsi_extract.convert.options import TARGETS, ConvertRequest
from wsi_extract.storage import CodecName, PngEncoder, Store


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the sub-command to its parser."""
    parser.add_argument("source_dir", type=Path, metavar="OUT", help="a finished data set, of any store")
    parser.add_argument("--store", required=True, choices=[store.value for store in TARGETS], help="the new store")
    parser.add_argument("--dest", required=True, type=Path, metavar="OUT2", help="a folder of its own")
    parser.add_argument("--codec", choices=[name.value for name in CodecName], help="zarr, both (default zstd)")
    parser.add_argument(
        "--png_encoder", choices=[encoder.value for encoder in PngEncoder], help="png, both (default isal)"
    )
    parser.add_argument("--codec_level", type=int, metavar="N", help="default: that of the codec")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")


def request_of(arguments: argparse.Namespace) -> ConvertRequest:
    """Return what the flags ask for.

    Raises
    ------
    ConfigError
        When flags contradict each other.
    """
    return ConvertRequest(
        source_dir=arguments.source_dir,
        destination=arguments.dest,
        store=Store(arguments.store),
        codec=None if arguments.codec is None else CodecName(arguments.codec),
        codec_level=arguments.codec_level,
        png_encoder=None if arguments.png_encoder is None else PngEncoder(arguments.png_encoder),
        n_workers=(os.cpu_count() or 1) if arguments.workers is None else arguments.workers,
    )
