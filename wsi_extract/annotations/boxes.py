"""Turn the points of annotations into boxes (x0, y0, x1, y1), level-0 px. Pure."""

from __future__ import annotations

import numpy as np

from wsi_extract.annotations.bbox_convention import BboxFormat
from wsi_extract.annotations.source import SourceKind, SourceRows
from wsi_extract.arrays import BoolArray, FloatArray

POLYGON_MIN_POINTS = 3


def raw_boxes(rows: SourceRows, *, chosen: BoolArray) -> FloatArray:
    """Return the four numbers of the chosen COCO boxes, as in the file: ``(N, 4)`` float64."""
    first = rows.first_point[chosen]
    return np.concatenate((rows.points_xy[first], rows.points_xy[first + 1]), axis=1)


def bounding_boxes(rows: SourceRows) -> FloatArray:
    """Return the smallest box around the points of each row, ``(N, 4)``; NaN when a coordinate or all are missing."""
    boxes = np.full((len(rows), 4), np.nan)
    filled = np.flatnonzero(rows.n_points > 0)
    if len(filled):
        counts = rows.n_points[filled]
        starts = np.cumsum(counts) - counts
        points = rows.points_xy[np.repeat(rows.first_point[filled] - starts, counts) + np.arange(counts.sum())]
        boxes[filled, :2] = np.minimum.reduceat(points, starts)
        boxes[filled, 2:] = np.maximum.reduceat(points, starts)
    return boxes


def boxes_of_rows(rows: SourceRows, *, spot_sizes_wh: FloatArray, bbox_format: BboxFormat | None) -> FloatArray:
    """Return the box of each row, in level-0 px, not clipped.

    Spots become boxes of the given size around them; areas and polygons their bounding boxes; circles the square of
    the radius that their horizontal extent gives, as SlideRunner draws them; COCO boxes are read as ``bbox_format``.

    Parameters
    ----------
    spot_sizes_wh
        ``(N, 2)`` float64, columns (w, h), level-0 px; only used for spots.
    bbox_format
        Needed when the rows hold COCO boxes.

    Returns
    -------
    ``(N, 4)`` float64; NaN in rows without usable coordinates. Width and height may be 0, or negative for COCO boxes.
    """
    boxes = bounding_boxes(rows)
    spots = rows.kind == SourceKind.SPOT
    boxes[spots] += np.concatenate((-spot_sizes_wh[spots], spot_sizes_wh[spots]), axis=1) / 2
    circles = rows.kind == SourceKind.CIRCLE
    middle_y, radius = boxes[circles][:, [1, 3]].mean(axis=1), (boxes[circles, 2] - boxes[circles, 0]) / 2
    boxes[circles, 1], boxes[circles, 3] = middle_y - radius, middle_y + radius
    flat = (rows.kind == SourceKind.POLYGON) & (rows.n_points > 0) & (rows.n_points < POLYGON_MIN_POINTS)
    boxes[flat, 2:] = boxes[flat, :2]
    given = (rows.kind == SourceKind.BOX) & (rows.n_points > 0)
    boxes[given] = raw_boxes(rows, chosen=given)
    if bbox_format is BboxFormat.XYWH:
        boxes[given, 2:] += boxes[given, :2]
    return boxes
