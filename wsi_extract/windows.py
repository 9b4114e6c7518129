"""Read the places of a level that are wanted, so that neighbours share what was decoded for them."""

from __future__ import annotations

from collections.abc import Iterator

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.blocks import Window, cut_windows, window_of_each
from wsi_extract.slides.open_slides import OpenedSlide


def read_windows(
    slide: OpenedSlide, level: int, boxes_lv: FloatArray, *, margin_px: int = 0
) -> Iterator[tuple[Window, RgbImage]]:
    """Yield windows that together cover every box once, with their pixels.

    One window per box where the slide keeps its decoded tiles; else windows that several boxes share, because
    OpenSlide composes every region anew. The boxes come in the same order either way: that of chunks in a shard.

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
    size_wh = (size.width_px, size.height_px)
    windows = cut_windows(boxes_lv, margin_px=margin_px, level_size_wh=size_wh)
    if slide.reads_tiles(level):
        alone = window_of_each(boxes_lv, margin_px=margin_px, level_size_wh=size_wh)
        windows = [alone[row] for window in windows for row in window.rows]
    for window in windows:
        rect = window.rect_lv
        yield (
            window,
            slide.read_region(level, x_l0=rect.x0 * step, y_l0=rect.y0 * step, w_lv_px=rect.width, h_lv_px=rect.height),
        )
