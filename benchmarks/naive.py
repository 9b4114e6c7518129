"""The script everyone writes first: ``read_region`` per patch, convert, save with Pillow.

It is measured against, so it stays what it is: one process, one patch after the other, row by row, nothing shared
between patches but OpenSlide's own tile cache. It knows nothing of this package, and is told where the patches are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import openslide


def save_patches(slide_path: Path, origins_l0: Sequence[tuple[int, int]], *, patch_px: int, folder: Path) -> int:
    """Save the level-0 patches of one slide as ``<slide>_x<X>_y<Y>.png``, and return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    slide = openslide.OpenSlide(slide_path)
    for x, y in origins_l0:
        patch = slide.read_region((x, y), 0, (patch_px, patch_px)).convert("RGB")
        patch.save(folder / f"{slide_path.stem}_x{x}_y{y}.png")
    slide.close()
    return len(origins_l0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Save all patches of a list that `benchmarks.patch_list` wrote."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description="Save patches in the usual way.")
    parser.add_argument("--patches", type=Path, required=True, help="list of patches, JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the patches, one below it per slide")
    options = parser.parse_args(arguments)
    wanted = json.loads(options.patches.read_bytes())
    for slide in wanted["slides"]:
        path = Path(slide["path"])
        save_patches(path, slide["origins_l0"], patch_px=wanted["patch_px"], folder=options.out / path.stem)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
