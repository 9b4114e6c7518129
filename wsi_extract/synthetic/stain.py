"""Haematoxylin and eosin: how much light passes them."""

from __future__ import annotations

import numpy as np

from wsi_extract.arrays import FloatArray

_HAEMATOXYLIN_OD = np.array((0.90, 1.00, 0.45))
_EOSIN_OD = np.array((0.15, 1.00, 0.50))


def transmit(haematoxylin: FloatArray, eosin: FloatArray) -> FloatArray:
    """Return the light that passes two stains, ``(H, W, 3)`` in 0 .. 1 (Beer-Lambert)."""
    density = haematoxylin[..., None] * _HAEMATOXYLIN_OD + eosin[..., None] * _EOSIN_OD
    return np.asarray(np.exp(-density), dtype=np.float64)
