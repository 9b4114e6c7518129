"""Names for the kinds of arrays the package passes around. Axis order is (H, W[, C])."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

RgbImage: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

GrayImage: TypeAlias = npt.NDArray[np.uint8]
"""(H, W) uint8."""

BoolImage: TypeAlias = npt.NDArray[np.bool_]
"""(H, W) bool."""

CountImage: TypeAlias = npt.NDArray[np.int32]
"""(H, W) int32."""

BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
CodeArray: TypeAlias = npt.NDArray[np.int8]
"""Values of an IntEnum, one per row."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
