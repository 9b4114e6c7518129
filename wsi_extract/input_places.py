"""Where the input of a run lies: never among what a run writes and ``--fresh`` deletes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsi_extract.errors import InputError
from wsi_extract.model import SlideFile
from wsi_extract.state.layout import OWNED

MAX_NAMED = 20
"""Files that a message names."""


def refuse_input_in_output(inputs: Mapping[str, Path], *, slides: Sequence[SlideFile], output_dir: Path) -> None:
    """Refuse an input below one of the names that a run owns in its output folder, by any way that leads there.

    The slide folder may be the output folder, hold it, or lie in it under another name.

    Parameters
    ----------
    inputs
        Files and folders by the name of their setting.

    Raises
    ------
    InputError
        With the first such file and what would become of it.
    """
    owned = {Path(os.path.realpath(output_dir)) / name for name in OWNED}
    for name, path in [
        *inputs.items(),
        *((f"slide {slide.slide_id}", path) for slide in slides for path in _all(slide)),
    ]:
        inside = next((place for place in _places_of(path) if not owned.isdisjoint((place, *place.parents))), None)
        if inside is not None:
            raise InputError(
                f"{name}, {path}, lies among what a run writes in {output_dir}: --fresh would delete it.",
                "Move it out of there, or choose another --output_dir.",
            )


def _all(slide: SlideFile) -> Iterable[Path]:
    return (slide.path, *slide.companions)


def _places_of(path: Path) -> tuple[Path, Path]:
    """Return where a name stands, and where what it leads to lies; they differ for links."""
    return Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(path))
