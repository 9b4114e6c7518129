"""The layout of the YOLO family: images, one text file of boxes per image, and data.yaml.

<destination>/images/<split>/<slide_id>_<count>.png
<destination>/labels/<split>/<slide_id>_<count>.txt     class cx cy w h, shares of the image's size; empty: no object
<destination>/data.yaml

Classes count from 0. Crowd boxes are left out, because the format cannot say "ignore".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from wsi_extract.disk.durable import make_folder
from wsi_extract.disk.files import write_atomically
from wsi_extract.export.loose_files import LooseFile, write_missing
from wsi_extract.export.names import patch_name
from wsi_extract.export.source import Source
from wsi_extract.index import SplitIndex
from wsi_extract.model import Split

DATA_FILE = "data.yaml"
SHARE_DECIMALS = 8
"""Boxes hold a ten-thousandth of a pixel, also in an image of 10,000 px."""


def write_split(source: Source, destination: Path, *, advance: Callable[[int], None]) -> None:
    """Write the images and labels of one split."""
    for part in ("images", "labels"):
        make_folder(destination / part / source.index.split)
    write_missing(_files(source, destination), advance=advance)


def _files(source: Source, destination: Path) -> Iterator[LooseFile]:
    index = source.index
    for i in range(len(index)):
        name = patch_name(index, i)
        labels = partial(label_lines, index, i)
        yield LooseFile(path=destination / "labels" / index.split / f"{name}.txt", read=labels, n_patches=0)
        yield LooseFile(path=destination / "images" / index.split / f"{name}.png", read=partial(source.png, i))


def label_lines(index: SplitIndex, i: int) -> bytes:
    """Return the text file of a patch: one line per box that is no crowd, in the order of the COCO document."""
    rows = index.labels_of(i)
    width_px, height_px = index.patch_wh_px
    lines = []
    for (x, y, w, h), category_id, is_crowd in zip(
        index.boxes_xywh[rows].tolist(), index.category_id[rows].tolist(), index.is_crowd[rows].tolist(), strict=True
    ):
        if not is_crowd:
            shares = ((x + w / 2) / width_px, (y + h / 2) / height_px, w / width_px, h / height_px)
            lines.append(f"{category_id - 1} {' '.join(f'{share:.{SHARE_DECIMALS}f}' for share in shares)}\n")
    return "".join(lines).encode()


def write_data_file(destination: Path, *, splits: Sequence[Split], category_names: Mapping[int, str]) -> None:
    """Write data.yaml, without ``path``: readers then take the folder it lies in, so that the export can be moved."""
    lines = [f"{split.value}: images/{split.value}\n" for split in splits]
    # A JSON string is a YAML string.
    names = [f"  {key - 1}: {json.dumps(name)}\n" for key, name in sorted(category_names.items())]
    write_atomically(destination / DATA_FILE, "".join([*lines, "names:\n", *names]).encode())
