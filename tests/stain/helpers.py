"""Pixels of tissue whose stains are known."""

from __future__ import annotations

import numpy as np

from wsi_extract.stain.profile import PixelArray

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.18, 0.89, 0.42)


def stained_pixels(
    n: int,
    *,
    haematoxylin: tuple[float, float, float] = HAEMATOXYLIN,
    eosin: tuple[float, float, float] = EOSIN,
    amounts: tuple[float, float] = (1.0, 1.0),
    grain: float = 0.0,
    seed: int = 0,
) -> PixelArray:
    """Return light behind tissue in which places of one stain alone and of both occur (Beer-Lambert)."""
    rng = np.random.default_rng(seed)
    share = rng.random((n, 1))
    strength = rng.gamma(4, 0.25, (n, 1))
    directions = [np.array(vector) / np.linalg.norm(vector) for vector in (haematoxylin, eosin)]
    density = strength * (amounts[0] * share * directions[0] + amounts[1] * (1 - share) * directions[1])
    light = 255 * np.exp(-density) + grain * rng.standard_normal((n, 3))
    return np.asarray(np.clip(np.rint(light), 0, 255), dtype=np.uint8)
