"""Read the places of a level that are wanted, so that neighbours share what was decoded for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.blocks import Window, cut_windows
from wsi_extract.geometry import Rect
from wsi_extract.slides import OpenedSlide


def read_windows(
    slide: OpenedSlide, level: int, boxes_lv: FloatArray, *, margin_px: int = 0
) -> Iterator[tuple[Window, RgbImage]]:
    """Yield windows that together cover every box once, with their pixels.

    One window per box where the slide keeps its decoded tiles, in the order of the boxes; else windows that several
    boxes share, because OpenSlide composes every region anew.

    Parameters
    ----------
    level
        Its downsample must be a whole number: windows begin at whole pixels of the level.
    boxes_lv
        ``(N, 4)`` float64, columns (x0, y0, x1, y1), level px.
    margin_px
        Further pixels that are wanted on each side, as far as the level reaches.

    Raises
    ------
    SlideError
        When the pixels cannot be read.
    """
    size = slide.levels[level]
    step = int(size.downsample)
    choose = window_of_each if slide.reads_tiles(level) else cut_windows
    for window in choose(boxes_lv, margin_px=margin_px, level_size_wh=(size.width_px, size.height_px)):
        rect = window.rect_lv
        yield (
            window,
            slide.read_region(level, x_l0=rect.x0 * step, y_l0=rect.y0 * step, w_lv_px=rect.width, h_lv_px=rect.height),
        )


def window_of_each(boxes_lv: FloatArray, *, margin_px: float, level_size_wh: tuple[int, int]) -> Iterator[Window]:
    """Yield one window per box, in their order; see `wsi_extract.blocks.cut_windows` for the parameters."""
    starts = np.maximum(np.floor(boxes_lv[:, :2] - margin_px), 0).astype(np.int64)
    stops = np.minimum(np.ceil(boxes_lv[:, 2:] + margin_px), level_size_wh).astype(np.int64)
    for row, ((x0, y0), (x1, y1)) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        yield Window(rect_lv=Rect(x0=x0, y0=y0, x1=x1, y1=y1), rows=(row,))
