"""One folder per class, as torchvision's ImageFolder and its kin read it.

<destination>/<split>/<class>/<slide_id>_<count>.png

Every class has its folder in every split, even an empty one: readers number the classes by the folders they find, and
a missing folder would silently shift the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from wsi_extract.disk.durable import make_folder
from wsi_extract.export.loose_files import LooseFile, write_missing
from wsi_extract.export.names import CLASS_NAMES, class_names, patch_name
from wsi_extract.export.options import Classes
from wsi_extract.export.source import Source


def write_split(source: Source, destination: Path, *, classes: Classes, advance: Callable[[int], None]) -> None:
    """Write the patches of one split into the folders of their classes."""
    folder = destination / source.index.split
    for name in CLASS_NAMES[classes]:
        make_folder(folder / name)
    write_missing(_files(source, folder, classes=classes), advance=advance)


def _files(source: Source, folder: Path, *, classes: Classes) -> Iterator[LooseFile]:
    for i, class_name in enumerate(class_names(source.index, classes=classes)):
        path = folder / class_name / f"{patch_name(source.index, i)}.png"
        yield LooseFile(path=path, read=partial(source.png, i))
