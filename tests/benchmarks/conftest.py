"""Small pixels that all benchmarks share."""

from __future__ import annotations

import pytest

from benchmarks.formats import Payload, payload_of
from benchmarks.texture import TexturedSlide, make_textured_slide


@pytest.fixture(scope="session")
def slide() -> TexturedSlide:
    return make_textured_slide(6, patch_px=128, min_tissue_fraction=0.5)


@pytest.fixture(scope="session")
def payload(slide: TexturedSlide) -> Payload:
    return payload_of(slide.patches())
