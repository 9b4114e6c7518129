"""What must never be in two splits: a group, the content of a slide, a pixel.

Derived from the manifest and the records alone, without the code that assigned the splits.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from wsi_extract.arrays import IntArray
from wsi_extract.model import Split
from wsi_extract.verify.findings import Check, Findings
from wsi_extract.verify.manifest import COMPLETE, Manifest, ManifestSlide

HALF_MODE = "half"
CHUNK_ROWS = 256
"""Patches compared with those near them at a time, so that memory stays flat."""
TOUCH_L0_PX = 1e-6
"""Scales are rounded: patches that share a strip thinner than this only touch."""


def check_groups(manifest: Manifest, *, findings: Findings) -> None:
    """Check that a group, usually a patient, is in one split; in half mode train and val share it on purpose."""
    findings.done.add(Check.LEAKAGE)
    is_half_mode = manifest.settings.split_mode == HALF_MODE
    splits_of: dict[str, set[Split]] = defaultdict(set)
    for slide in manifest.slides:
        if slide.group is not None:
            splits_of[slide.group].update(slide.splits)
        elif slide.status == COMPLETE:
            findings.add(Check.LEAKAGE, manifest.path, f"slide {slide.slide_id} takes part without a group")
    for group, splits in sorted(splits_of.items()):
        if len(splits) > 1 and not (is_half_mode and splits == {Split.TRAIN, Split.VAL}):
            findings.add(Check.LEAKAGE, manifest.path, f"group {group} is in the splits {', '.join(sorted(splits))}")


def check_fingerprints(manifest: Manifest, *, findings: Findings) -> None:
    """Check that slides with the same content under several names are in one split.

    Also in half mode: there, copies with different groups would meet unless they are cut alike.
    """
    slides_of: dict[str, list[ManifestSlide]] = defaultdict(list)
    for slide in manifest.complete_slides:
        if slide.fingerprint is not None:
            slides_of[slide.fingerprint].append(slide)
    for slides in slides_of.values():
        if len(slides) > 1 and len({split for slide in slides for split in slide.splits}) > 1:
            names = ", ".join(slide.slide_id for slide in slides)
            findings.add(
                Check.LEAKAGE, manifest.path, f"slides {names} have the same content and are in different splits"
            )


def count_shared_pixels(origins_l0: IntArray, *, split: IntArray, footprint_l0_wh: tuple[float, float]) -> int:
    """Return how many pairs of patches of different splits overlap on one slide.

    Parameters
    ----------
    origins_l0
        ``(N, 2)`` int64, columns (x, y), level-0 px.
    split
        ``(N,)``, any code of the split of each patch.
    footprint_l0_wh
        Extent of a patch, level-0 px; patches that only touch do not overlap.
    """
    n_pairs = 0
    size = np.array(footprint_l0_wh) - TOUCH_L0_PX
    for code in np.unique(split)[:-1]:
        ours, others = _sorted_by_x(origins_l0[split == code]), _sorted_by_x(origins_l0[split > code])
        for start in range(0, len(ours), CHUNK_ROWS):
            chunk = ours[start : start + CHUNK_ROWS]
            near = slice(*np.searchsorted(others[:, 0], (chunk[0, 0] - size[0], chunk[-1, 0] + size[0])))
            shift = np.abs(chunk[:, None, :] - others[None, near, :])
            n_pairs += int(np.count_nonzero((shift < size).all(axis=2)))
    return n_pairs


def _sorted_by_x(origins_l0: IntArray) -> IntArray:
    return origins_l0[np.argsort(origins_l0[:, 0], kind="stable")]
