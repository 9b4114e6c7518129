"""Bring the stain of a slide to that of a target: measured once per slide, applied to every pixel by itself.

    profile        what is measured of a picture, and what makes it unsafe to use
    macenko        stain vectors in optical densities (Macenko 2009)
    reinhard       mean and standard deviation in l-alpha-beta (Reinhard 2001)
    target         what slides are brought to: published references, or a picture
    estimate       one slide's pixels -> transform, or why there is none
    transform      the transform as numbers, applied fast
    places         where on a slide to look
    picture        file of a picture -> its pixels

Pure but for `picture`: arrays in, arrays out. Knows nothing of slides or the pipeline.
"""

from __future__ import annotations

from wsi_extract.stain.estimate import StainEstimate, estimate_stain
from wsi_extract.stain.picture import read_picture
from wsi_extract.stain.places import sample_places
from wsi_extract.stain.target import PUBLISHED_TARGETS, StainTarget, default_target, fit_target
from wsi_extract.stain.transform import StainTransform

__all__ = [
    "PUBLISHED_TARGETS",
    "StainEstimate",
    "StainTarget",
    "StainTransform",
    "default_target",
    "estimate_stain",
    "fit_target",
    "read_picture",
    "sample_places",
]
