"""Slides that are replaced while they are read."""

from __future__ import annotations

import os

from wsi_extract.model import SlideInfo
from wsi_extract.reading import ReaderChoice
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.slides.opened_slide import OpenedSlide
from wsi_extract.slides.tiled_jpeg import PixelMap

OPENSLIDE = ReaderChoice()


class SlideReplacer(SlideCache):
    """Behaves as if the file of a slide were replaced while its pixels are read."""

    def get(
        self, info: SlideInfo, *, reader: ReaderChoice = OPENSLIDE, pixel_map: PixelMap | None = None
    ) -> OpenedSlide:
        slide = super().get(info, reader=reader, pixel_map=pixel_map)
        os.utime(info.path, (1, 1))
        return slide
