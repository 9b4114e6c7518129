"""How large a slide's pixels are, and at which level and scale its patches are read.

Pure apart from reading the table of overrides. Resolutions are um per pixel, (x, y); a slide without a plausible
one has ``None``, and nothing here ever guesses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_extract.csv_table import read_rows
from wsi_extract.errors import InputError, SlideError
from wsi_extract.geometry import Scale
from wsi_extract.model import OutputFrame, SlideFile, SlideInfo, SlideLevel

MIN_UM_PER_PX = 0.05
"""Finer than any optical scanner's sampling."""
MAX_UM_PER_PX = 20.0
"""Coarser than any level 0. Refuses 352.8, which is what 72 dpi in a TIFF's tags amounts to."""
MAX_UPSAMPLING = 2.0
"""Patches finer than the slide by more than this would be invented pixels."""
LEVEL_TOLERANCE = 1e-3
"""Relative excess by which a level may be coarser than the output and still serve it."""
OVERVIEW_TOLERANCE = 0.15
"""The same for the level of an overview: a 16x level shows a slide of 0.2533 um per px at 2.47x, which will do."""
SNAP_TOLERANCE = 1e-9
"""Relative difference between scale and downsample that is rounding, not resampling."""

SHAPE_TOLERANCE = 0.1
"""Relative difference between a level's reduction in width and in height that padding to whole tiles explains."""
SHAPE_ROUNDING_PX = 2

RUN_OVERRIDE = "run override"
SLIDE_OVERRIDE = "slide override"
FROM_PROPERTY = "property"
REMEDY_UNKNOWN = (
    "Give it with --slide_mpp (um per pixel of level 0, all slides) or --slide_mpp_csv (single slides), "
    "or choose the output by --level instead of --mpp."
)
_COLUMNS = (("slide", "um_per_px"), ("slide", "um_per_px_x", "um_per_px_y"))


def is_plausible(um_per_px: float) -> bool:
    """Return whether a level-0 pixel can have this size; False for NaN."""
    return MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionOverride:
    """A resolution given by the user, replacing what the slide says of itself."""

    um_per_px_x: float
    um_per_px_y: float
    source: str
    """Recorded as `SlideInfo.um_per_px_source`: `RUN_OVERRIDE` or `SLIDE_OVERRIDE`."""

    def __post_init__(self) -> None:
        for value in (self.um_per_px_x, self.um_per_px_y):
            if not is_plausible(value):
                raise InputError(
                    f"a resolution of {value} um per px is outside {MIN_UM_PER_PX} .. {MAX_UM_PER_PX}.",
                    "Give the size of a level-0 pixel in micrometres.",
                )


def resolve_um_per_px(
    properties: Mapping[str, str], override: ResolutionOverride | None
) -> tuple[tuple[float, float] | None, str]:
    """Return the size of a level-0 pixel in um, (x, y), and where it comes from or why it is unknown.

    Parameters
    ----------
    properties
        OpenSlide's properties of the slide; ``openslide.mpp-x`` and ``openslide.mpp-y`` are used.
    override
        Wins over the properties.
    """
    if override is not None:
        return (override.um_per_px_x, override.um_per_px_y), override.source
    texts = (properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
    stated = f"openslide.mpp-x = {texts[0]}, openslide.mpp-y = {texts[1]}"
    if texts == (None, None):
        return None, "unknown: the slide states no resolution"
    try:
        x, y = (float(text) for text in texts if text is not None)
    except ValueError:
        return None, f"unknown: {stated} is not a pair of numbers"
    if not (is_plausible(x) and is_plausible(y)):
        return None, f"refused: {stated} is outside {MIN_UM_PER_PX} .. {MAX_UM_PER_PX} um per px"
    return (x, y), FROM_PROPERTY


def objective_power_of(properties: Mapping[str, str]) -> float | None:
    """Return the magnification of the objective that OpenSlide reports, ``None`` without a usable one."""
    try:
        power = float(properties.get("openslide.objective-power", "nan"))
    except ValueError:
        return None
    return power if math.isfinite(power) and power > 0 else None


def read_overrides(path: Path, *, slides: Sequence[SlideFile]) -> dict[str, ResolutionOverride]:
    """Read the resolutions of single slides.

    Parameters
    ----------
    path
        CSV with the columns ``slide,um_per_px`` or ``slide,um_per_px_x,um_per_px_y``; ``slide`` is a slide's id,
        file name or file name without extension.
    slides
        The slides of the run.

    Returns
    -------
    Override by slide id.

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing or unknown, a value is not a plausible resolution, a row
        fits no slide or several, or two rows mean the same slide.
    """
    overrides: dict[str, ResolutionOverride] = {}
    for line, row in read_rows(path, headers=_COLUMNS):
        where = f"{path}, line {line}"
        slide = _match_slide(row[0], slides=slides, where=where)
        if slide.slide_id in overrides:
            raise InputError(f"{where}: a second row for slide {slide.slide_id}.", "Keep one row per slide.")
        x, y = _parse_um_per_px(row[1], where=where), _parse_um_per_px(row[-1], where=where)
        overrides[slide.slide_id] = ResolutionOverride(um_per_px_x=x, um_per_px_y=y, source=SLIDE_OVERRIDE)
    return overrides


def _match_slide(name: str, *, slides: Sequence[SlideFile], where: str) -> SlideFile:
    """Return the slide of that id, else file name, else stem; never part of a name."""
    exact = (
        [slide for slide in slides if slide.slide_id == name],
        [slide for slide in slides if slide.path.name == name],
        [slide for slide in slides if slide.path.stem == name],
    )
    hits: list[SlideFile] = next((found for found in exact if found), [])
    if not hits:
        raise InputError(f"{where}: no slide is called {name!r}.", "Use its file name, or remove the row.")
    if len(hits) > 1:
        paths = ", ".join(str(slide.path) for slide in hits)
        raise InputError(f"{where}: {name!r} fits several slides: {paths}.", "Use the slide's id instead.")
    return hits[0]


def _parse_um_per_px(text: str, *, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is not a number.") from error
    if not is_plausible(value):
        raise InputError(f"{where}: {text} um per px is outside {MIN_UM_PER_PX} .. {MAX_UM_PER_PX}.")
    return value


def choose_frame(
    info: SlideInfo, *, patch_size_px: int, target_um_per_px: float | None, level: int | None
) -> OutputFrame:
    """Decide at which level and scale the patches of a slide are read.

    With a target resolution, the scale is target / slide resolution, exact and per axis, and the level is the
    coarsest one that is not coarser than the output; level 0 when the output is finer than the slide. With a level,
    the scale is that level's downsample. With neither, level 0 is read as it is.

    Raises
    ------
    SlideError
        When a target is given and the slide's resolution is unknown, when the output would be more than
        `MAX_UPSAMPLING` times finer than the slide, or when the slide has no such level.
    ValueError
        When both a target and a level are given, or the patch size or the target is not positive.
    """
    if patch_size_px < 1:
        raise ValueError(f"a patch must be at least 1 px wide, got {patch_size_px}")
    if target_um_per_px is not None and level is not None:
        raise ValueError(f"give a target resolution or a level, got {target_um_per_px} um per px and {level}")
    if target_um_per_px is None:
        index = level or 0
        chosen = _level_at(info, index=index)
        scale = Scale(x=chosen.downsample, y=chosen.downsample)
    else:
        scale = _scale_for(info, target_um_per_px=target_um_per_px)
        index = _coarsest_level_within(info.levels, downsample=min(scale.x, scale.y), tolerance=LEVEL_TOLERANCE)
        chosen = info.levels[index]
        scale = Scale(x=_snap(scale.x, chosen.downsample), y=_snap(scale.y, chosen.downsample))
    um = info.um_per_px_xy
    return OutputFrame(
        patch_w_out_px=patch_size_px,
        patch_h_out_px=patch_size_px,
        scale=scale,
        level=index,
        level_downsample=chosen.downsample,
        um_per_px_out_xy=None if um is None else (um[0] * scale.x, um[1] * scale.y),
    )


def choose_overview(levels: Sequence[SlideLevel], *, target_downsample: float, max_px: int) -> tuple[int, int]:
    """Decide how an image of the whole slide is made: the level to read and the whole factor to reduce it by.

    The level is the coarsest one not much coarser than the target (`OVERVIEW_TOLERANCE`). The factor brings it as near
    to the target as it can without passing it, and further only when the image would have more than ``max_px`` pixels.
    """
    if max_px < 1 or not target_downsample > 0:
        raise ValueError(f"need a positive downsample and at least 1 px, got {target_downsample} and {max_px}")
    index = _coarsest_level_within(levels, downsample=target_downsample, tolerance=OVERVIEW_TOLERANCE)
    level = levels[index]
    factor = max(1, math.floor(target_downsample / level.downsample + LEVEL_TOLERANCE))
    while math.ceil(level.width_px / factor) * math.ceil(level.height_px / factor) > max_px:
        factor += 1
    return index, factor


def _coarsest_level_within(levels: Sequence[SlideLevel], *, downsample: float, tolerance: float) -> int:
    """Return the index of the coarsest level that is at most ``downsample * (1 + tolerance)``, else 0.

    Levels of another shape than level 0 show something else, or are damaged.
    """
    limit = downsample * (1 + tolerance)
    indices = [
        index for index, level in enumerate(levels) if level.downsample <= limit and _has_shape_of(level, levels[0])
    ]
    return max(indices, key=lambda index: levels[index].downsample, default=0)


def _level_at(info: SlideInfo, *, index: int) -> SlideLevel:
    if not 0 <= index < len(info.levels):
        raise SlideError(
            f"slide {info.slide_id} has no level {index}, only 0 to {len(info.levels) - 1} ({info.path}).",
            "Choose a lower --level, or --mpp, which works on every slide of known resolution.",
        )
    level = info.levels[index]
    if not _has_shape_of(level, info.levels[0]):
        raise SlideError(
            f"slide {info.slide_id}: level {index}, {level.width_px} x {level.height_px} px, does not have the shape "
            f"of level 0, {info.width_l0_px} x {info.height_l0_px} px ({info.path}).",
            "The file is damaged, or the level shows something else: choose another --level, or leave the slide out.",
        )
    return level


def _has_shape_of(level: SlideLevel, level_0: SlideLevel) -> bool:
    """Return whether a level is as much smaller in width as in height, but for rounding and padding."""
    x, y = level_0.width_px / level.width_px, level_0.height_px / level.height_px
    rounding = SHAPE_ROUNDING_PX / min(level.width_px, level.height_px)
    return max(x, y) <= min(x, y) * (1 + SHAPE_TOLERANCE + rounding)


def _scale_for(info: SlideInfo, *, target_um_per_px: float) -> Scale:
    if not (math.isfinite(target_um_per_px) and target_um_per_px > 0):
        raise ValueError(f"the target resolution must be positive, got {target_um_per_px}")
    if info.um_per_px_xy is None:
        reason = info.um_per_px_source
        raise SlideError(f"slide {info.slide_id}: resolution {reason} ({info.path}).", REMEDY_UNKNOWN)
    um_x, um_y = info.um_per_px_xy
    scale = Scale(x=target_um_per_px / um_x, y=target_um_per_px / um_y)
    if min(scale.x, scale.y) * MAX_UPSAMPLING < 1 - LEVEL_TOLERANCE:
        raise SlideError(
            f"slide {info.slide_id} has {um_x:g} x {um_y:g} um per px; {target_um_per_px:g} would magnify it "
            f"more than {MAX_UPSAMPLING:g} times ({info.path}).",
            f"Choose --mpp of at least {max(um_x, um_y) / MAX_UPSAMPLING:g}, or leave the slide out.",
        )
    return scale


def _snap(scale: float, downsample: float) -> float:
    """Return the downsample when the scale equals it but for rounding, so that nothing is resampled."""
    return downsample if abs(scale / downsample - 1) < SNAP_TOLERANCE else scale
