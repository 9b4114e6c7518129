"""The sub-command ``export``: its flags, and what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

from wsi_extract.errors import ConfigError
from wsi_extract.export.options import (
    OPTIONS_OF,
    Classes,
    Compression,
    Encoding,
    ExportFormat,
    ExportOptions,
    ExportRequest,
)
from wsi_extract.model import Split


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the sub-command to its parser."""
    parser.add_argument("output_dir", type=Path, metavar="OUT", help="a finished data set, of any store")
    parser.add_argument("--to", required=True, help="format", dest="format", **_one_of(ExportFormat))
    parser.add_argument("--dest", required=True, type=Path, metavar="FOLDER", help="a folder of its own")
    parser.add_argument("--split", nargs="+", default=[], help="default: all", **_one_of(Split))
    parser.add_argument("--classes", help="imagefolder (default two)", **_one_of(Classes))
    parser.add_argument("--encoding", help="lmdb (default raw)", **_one_of(Encoding))
    parser.add_argument("--compression", help="hdf5 (default lzf)", **_one_of(Compression))
    parser.add_argument("--shard_mb", type=float, metavar="MB", help="webdataset: pixels per tar file (default 512)")
    parser.add_argument("--shuffle_seed", type=int, metavar="SEED", help="webdataset: shuffle (default: plan order)")


class _OneOf(TypedDict):
    type: Callable[[str], StrEnum]
    metavar: str


def _one_of(kind: type[StrEnum]) -> _OneOf:
    """Return what makes a flag take one of these values, and name them when it is given another."""

    def parse(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(kind)}") from error

    return {"type": parse, "metavar": f"{{{','.join(kind)}}}"}


def request_of(arguments: argparse.Namespace) -> ExportRequest:
    """Return what the flags ask for.

    Raises
    ------
    ConfigError
        When a flag belongs to another format.
    """
    export_format = ExportFormat(arguments.format)
    options = {name for names in OPTIONS_OF.values() for name in names}
    given = {name: getattr(arguments, name) for name in sorted(options) if getattr(arguments, name) is not None}
    misplaced = sorted(given.keys() - set(OPTIONS_OF[export_format]))
    if misplaced:
        raise ConfigError(f"--{misplaced[0]} does not belong to --to {export_format}.", "Leave it out.")
    return ExportRequest(
        output_dir=arguments.output_dir,
        destination=arguments.dest,
        format=export_format,
        splits=tuple(arguments.split),
        options=ExportOptions(**given),
    )
