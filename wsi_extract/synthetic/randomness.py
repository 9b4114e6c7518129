"""Random numbers of a slide, keyed by what they are for, so that no two parts of it share any."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from wsi_extract.synthetic.spec import HeSlideSpec


class Stream(IntEnum):
    """What random numbers are for; the values are part of what a seed means."""

    FIELDS = 0
    INK = 1
    TEXTURES = 2
    STAMPS = 3
    PLACES = 4
    SITES = 5


def random_numbers(spec: HeSlideSpec, stream: Stream, *key: int) -> np.random.Generator:
    """Return the generator of one stream of a slide, or of one part of a stream."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([spec.seed, int(stream), *key])))
