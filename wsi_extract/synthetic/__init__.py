"""Generated slides and annotations: the demo data set, and the pieces that tests and benchmarks need.

    spec           what a slide depends on; cells
    randomness     random numbers keyed by what they are for
    stain          light that passes haematoxylin and eosin
    fields         where tissue, tumour and ink are
    textures       glass, stroma, tumour
    nuclei         stamps of cells
    scene, bands   everything decided about a picture; its pixels, band by band
    slide          Aperio-style pyramids
    annotations    SlideRunner database, COCO-like JSON
    demo           the demo data set

The picture is a pure function of its `HeSlideSpec`, and the same arguments give the same bytes. Coordinates and lengths
are level-0 px; shapes are drawn in the proportions of 0.25 um. Knows nothing of patches, splits or run settings.
"""

from __future__ import annotations

from wsi_extract.synthetic.annotations import (
    SPOT_RADIUS_PX,
    AnnotatedSlide,
    AnnotationRow,
    AnnotationShape,
    write_coco,
    write_sliderunner,
)
from wsi_extract.synthetic.demo import DEMO_CLASSES, DemoSummary, write_demo
from wsi_extract.synthetic.scene import compose_scene
from wsi_extract.synthetic.slide import write_he_slide
from wsi_extract.synthetic.spec import (
    CELL_SPACING_PX,
    EDGE_MARGIN_PX,
    CellKind,
    HeSlideSpec,
    PenMarks,
    PlacedCell,
)

__all__ = [
    "CELL_SPACING_PX",
    "DEMO_CLASSES",
    "EDGE_MARGIN_PX",
    "SPOT_RADIUS_PX",
    "AnnotatedSlide",
    "AnnotationRow",
    "AnnotationShape",
    "CellKind",
    "DemoSummary",
    "HeSlideSpec",
    "PenMarks",
    "PlacedCell",
    "compose_scene",
    "write_coco",
    "write_demo",
    "write_he_slide",
    "write_sliderunner",
]
