"""What a run needs to know of a slide before it reads any of it, and which slides are not what they claim to be."""

from __future__ import annotations

from wsi_extract.errors import SlideError
from wsi_extract.geometry import Rect
from wsi_extract.model import SlideFile, SlideInfo
from wsi_extract.resolution import ResolutionOverride, objective_power_of, resolve_um_per_px
from wsi_extract.slides.jpeg_tiles import UNPARSABLE, parsed_tiff
from wsi_extract.slides.opened_slide import REMEDY_DAMAGED, OpenedSlide, unreadable
from wsi_extract.slides.slide_files import fingerprint_of
from wsi_extract.slides.tiff_claims import refuse_impossible_tiles

MAX_SLIDE_PX = 2**40
"""Of level 0: a whole glass slide, 75 x 25 mm, has 0.75e12 px at 0.05 um per px, the finest there is."""


def describe_slide(file: SlideFile, *, override: ResolutionOverride | None) -> SlideInfo:
    """Open a slide once and return what the run needs to know; `SlideError` when it cannot be opened or trusted."""
    refuse_impossible_tiles(file)
    with OpenedSlide(file) as slide:
        _refuse_16_bit_grey(slide, file)
        _refuse_impossible_size(slide)
        um_per_px_xy, source = resolve_um_per_px(slide.properties, override)
        return SlideInfo(
            slide_id=file.slide_id,
            path=file.path,
            vendor=slide.properties.get("openslide.vendor", "unknown"),
            levels=slide.levels,
            um_per_px_xy=um_per_px_xy,
            um_per_px_source=source,
            bounds_l0=_bounds_of(slide),
            objective_power=objective_power_of(slide.properties),
            fingerprint=fingerprint_of(file),
            companions=file.companions,
        )


def _refuse_16_bit_grey(slide: OpenedSlide, file: SlideFile) -> None:
    """Refuse what OpenSlide's TIFF library decodes wrongly, in silence: the last tile of each row is scrambled."""
    if slide.properties.get("openslide.vendor") != "generic-tiff":
        return
    try:
        with parsed_tiff(file.path) as tiff:
            n_channels, n_bits = tiff.pages.first.samplesperpixel, tiff.pages.first.bitspersample
    except OSError as error:
        raise unreadable(file, error) from error
    except UNPARSABLE as error:
        message = f"slide {file.slide_id}: its first image cannot be parsed ({file.path}): {error}."
        raise SlideError(message, REMEDY_DAMAGED) from error
    if n_channels == 1 and n_bits != 8:
        what = f"{n_bits}-bit grey values, which cannot be read reliably ({file.path})"
        raise SlideError(f"slide {file.slide_id} holds {what}.", "Convert it to 8-bit RGB, or leave it out.")


def _bounds_of(slide: OpenedSlide) -> Rect | None:
    """Return the scanned part of level 0; OpenSlide states all four numbers or none."""
    stated = [slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    try:
        x, y, width, height = (int(text) for text in stated if text is not None)
    except ValueError:
        return None
    size = slide.levels[0]
    bounds = Rect(x0=max(0, x), y0=max(0, y), x1=min(x + width, size.width_px), y1=min(y + height, size.height_px))
    if not (bounds.width and bounds.height):
        what = f"its bounds, {width} x {height} px at ({x}, {y}), lie outside it ({slide.path})"
        raise SlideError(f"slide {slide.slide_id}: {what}.", REMEDY_DAMAGED)
    return bounds


def _refuse_impossible_size(slide: OpenedSlide) -> None:
    size = slide.levels[0]
    if size.width_px * size.height_px > MAX_SLIDE_PX:
        what = f"it claims {size.width_px} x {size.height_px} px, more than any slide can have ({slide.path})"
        raise SlideError(f"slide {slide.slide_id}: {what}.", REMEDY_DAMAGED)
