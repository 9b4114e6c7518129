"""The sub-command ``export``: its flags, and what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    parser.add_argument("--to", required=True, choices=list(ExportFormat), help="format", dest="format")
    parser.add_argument("--dest", required=True, type=Path, metavar="FOLDER", help="a folder of its own")
    parser.add_argument("--split", nargs="+", type=Split, choices=list(Split), default=[], help="default: all")
    parser.add_argument("--classes", type=Classes, choices=list(Classes), help="imagefolder (default two)")
    parser.add_argument("--encoding", type=Encoding, choices=list(Encoding), help="lmdb (default raw)")
    parser.add_argument("--compression", type=Compression, choices=list(Compression), help="hdf5 (default lzf)")
    parser.add_argument("--shard_mb", type=float, metavar="MB", help="webdataset: pixels per tar file (default 512)")
    parser.add_argument("--shuffle_seed", type=int, metavar="SEED", help="webdataset: shuffle (default: plan order)")


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
