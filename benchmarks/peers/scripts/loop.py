"""The loop that all programs share: read a patch, save it, and note which of the two took how much CPU time.

Python 3.10 and the standard library only, because it runs in the environments of others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

_Pixels = TypeVar("_Pixels")


@dataclass(frozen=True, kw_only=True)
class Tool(Generic[_Pixels]):
    """An open slide, as a program offers it."""

    read: Callable[[int, int], _Pixels]
    """From the upper left corner (x, y), level-0 px, to the square patch at level 0, whatever its type."""
    save: Callable[[_Pixels, str], object]
    """Write the patch as the PNG file of that name."""


def make_patches(open_slide: Callable[[str, int], Tool[_Pixels]], arguments: list[str] | None = None) -> None:
    """Save all patches of a list as ``<slide>/<slide>_x<X>_y<Y>.png``, and write what that took as JSON.

    Parameters
    ----------
    open_slide
        From the path of a slide and the side of its patches, px, to its tool.
    arguments
        Of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Save patches with one program.")
    parser.add_argument("--patches", type=Path, required=True, help="list of patches, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the patches, one below it per slide")
    parser.add_argument("--figures", type=Path, required=True, help="file for the CPU times, seconds, JSON")
    options = parser.parse_args(arguments)
    wanted = json.loads(options.patches.read_bytes())
    read_s = save_s = 0.0
    for slide in wanted["slides"]:
        path = Path(slide["path"])
        (options.out / path.stem).mkdir(parents=True, exist_ok=True)
        tool = open_slide(str(path), wanted["patch_px"])
        for x, y in slide["origins_l0"]:
            start = time.process_time()
            pixels = tool.read(x, y)
            between = time.process_time()
            tool.save(pixels, str(options.out / path.stem / f"{path.stem}_x{x}_y{y}.png"))
            read_s += between - start
            save_s += time.process_time() - between
    options.figures.write_text(json.dumps({"read_s": read_s, "save_s": save_s}))
