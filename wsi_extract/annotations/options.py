"""How annotation files are to be understood: the user's choices, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from wsi_extract.annotations.source import SourceKind
from wsi_extract.errors import ConfigError
from wsi_extract.model import Role

SELECTABLE_TYPES = ("spot", "area", "polygon", "circle")
DEFAULT_POINT_BOX_PX = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationOptions:
    """Choices of the user; the names are those of the settings of a run."""

    category_map: Mapping[str, str] | None = None
    """Role label by class name, or by class id as text."""
    bbox_format: Literal["auto", "xyxy", "xywh"] = "auto"
    """What the boxes of a COCO file are."""
    point_box_px: float = DEFAULT_POINT_BOX_PX
    """Side of the box of a point, level-0 px."""
    point_box_um: float | None = None
    """The same in um, instead of ``point_box_px``."""
    annotation_types: tuple[str, ...] = ("spot",)
    """SlideRunner types to use, out of spot, area, polygon and circle."""
    slide_aliases: Mapping[str, str] | None = None
    """Slide file name by name in the annotation file."""

    def __post_init__(self) -> None:
        labels = {role.label for role in Role}
        problems = [
            f"category_map: {key!r} has the role {label!r}; known are {', '.join(sorted(labels))}"
            for key, label in (self.category_map or {}).items()
            if label not in labels
        ]
        if self.bbox_format not in {"auto", "xyxy", "xywh"}:
            problems.append(f"bbox_format: auto, xyxy or xywh, got {self.bbox_format!r}")
        for name, value in (("point_box_px", self.point_box_px), ("point_box_um", self.point_box_um)):
            if value is not None and not (math.isfinite(value) and value > 0):
                problems.append(f"{name}: must be positive, got {value}")
        unknown = sorted(set(self.annotation_types) - set(SELECTABLE_TYPES))
        if unknown or not self.annotation_types:
            problems.append(f"annotation_types: some of {', '.join(SELECTABLE_TYPES)}, got {self.annotation_types!r}")
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def kinds(self) -> tuple[SourceKind, ...]:
        """The geometries to use; boxes of a COCO file always."""
        return (SourceKind.BOX, *(SourceKind[name.upper()] for name in sorted(set(self.annotation_types))))
