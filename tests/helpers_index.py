"""Small indices made by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsi_extract.index import IndexedSlide, SplitIndex
from wsi_extract.model import Split


def make_index(*, slide: npt.NDArray[np.int64], kind: npt.NDArray[np.int64]) -> SplitIndex:
    """Return an index without boxes of slides ``slide_0``, ``slide_1``, ...; ``slide`` and ``kind`` are its columns."""
    n = len(slide)
    counts = np.bincount(slide) if n else np.empty(0, dtype=np.int64)
    return SplitIndex(
        split=Split.TRAIN,
        slides=tuple(
            IndexedSlide(
                slide_id=f"slide_{number}", n_patches=count, level=0, l0_per_px_xy=(1.0, 1.0), um_per_px_xy=None
            )
            for number, count in enumerate(counts.tolist())
        ),
        patch_wh_px=(64, 48),
        category_names={1: "mitotic figure"},
        slide=slide.astype(np.int32),
        row=np.concatenate([np.arange(count) for count in counts] or [np.empty(0)]).astype(np.int64),
        kind=kind.astype(np.int8),
        origins_l0=np.stack([np.arange(n) * 7 % 1000, np.arange(n) * 13 % 977], axis=1).astype(np.int64),
        tissue_fraction=np.ones(n),
        box_offsets=np.zeros(n + 1, dtype=np.int64),
        boxes_xywh=np.empty((0, 4)),
        category_id=np.empty(0, dtype=np.int16),
        is_crowd=np.empty(0, dtype=np.uint8),
        source_id=np.empty(0, dtype=np.int64),
        source_part=np.empty(0, dtype=np.int32),
    )
