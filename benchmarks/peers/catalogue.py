"""The programs compared with, what each needs to be installed, and those left out.

Only what installs with pip alone is compared: nothing is built with a compiler that has to be installed first.
"""

from __future__ import annotations

from dataclasses import dataclass

PipArguments = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program, and how to install and use it."""

    name: str
    distribution: str
    """Name under which it is installed; its version is reported."""
    script: str
    """Module of `benchmarks.peers.scripts`."""
    pip: tuple[PipArguments, ...]
    """Arguments of one ``pip install`` after the other."""
    python: str | None = None
    """Version of Python it needs, ``None`` for the one that runs the benchmark."""
    refuses_far_edges: bool = False
    """Whether it takes a patch that ends at the right or bottom edge for one outside the slide."""
    note: str = ""
    """What a reader of the table has to know."""


PEERS = (
    Peer(
        name="TIAToolbox read_rect",
        distribution="tiatoolbox",
        script="tiatoolbox_rect",
        pip=(("tiatoolbox",),),
        note="brings PyTorch with CUDA libraries, 6.5 GB; no GPU is used",
    ),
    Peer(
        name="histolab extract_tile",
        distribution="histolab",
        script="histolab_tile",
        # The release of openslide-python that it pins finds no OpenSlide library where none is installed system-wide.
        pip=(("histolab",), ("--no-deps", "--upgrade", "openslide-python", "openslide-bin")),
        python="3.10",
        refuses_far_edges=True,
        note="on Python 3.10, the last one its scikit-image has wheels for; with a newer openslide-python than it pins",
    ),
    Peer(
        name="wholeslidedata get_patch",
        distribution="wholeslidedata",
        script="wholeslidedata_patch",
        # Later releases pin a shapely that has no wheel for this Python; what this one lacks comes afterwards.
        pip=(
            ("--only-binary", "shapely", "wholeslidedata", "openslide-bin"),
            ("matplotlib", "opencv-python-headless"),
            ("--upgrade", "rtree>=1.1"),
        ),
        note="the newest release whose requirements have wheels, with a newer rtree than it pins",
    ),
    Peer(
        name="dlup read_region",
        distribution="dlup",
        script="dlup_region",
        pip=(("dlup[openslide]",),),
    ),
    Peer(
        name="large_image getRegion",
        distribution="large-image",
        script="large_image_region",
        pip=(("large-image[tiff,openslide]",),),
        note="HistomicsTK reads slides with it",
    ),
    Peer(
        name="OpenSlide and OpenCV",
        distribution="openslide-python",
        script="openslide_opencv",
        pip=(("openslide-python", "openslide-bin", "opencv-python-headless"),),
        note="the naive script with OpenCV's PNG encoder instead of Pillow's",
    ),
    Peer(
        name="tiffslide read_region",
        distribution="tiffslide",
        script="tiffslide_region",
        pip=(("tiffslide", "imagecodecs"),),
    ),
    Peer(
        name="pyvips crop",
        distribution="pyvips",
        script="vips_crop",
        pip=(("pyvips[binary]>=3",),),
        note="reading and compressing are one pipeline, counted as saving",
    ),
    Peer(
        name="pyvips Region.fetch",
        distribution="pyvips",
        script="vips_fetch",
        pip=(("pyvips[binary]>=3", "pillow"),),
    ),
    Peer(
        name="cuCIM read_region (CPU)",
        distribution="cucim-cu12",
        script="cucim_region",
        pip=(("cucim-cu12", "pillow"),),
    ),
)

LEFT_OUT = {
    "slideflow": "requires pyrfr, which has no wheel here and fails to build",
    "PathML": "requires PyTorch with its CUDA libraries, and python-javabridge",
    "LazySlide": "requires PyTorch with its CUDA libraries, and torchvision",
    "HistomicsTK": "reads slides with large_image, which is compared; has no way of its own to cut patches",
    "pyvips dzsave": "writes every tile of a slide, glass too: other patches",
}
"""Name: reason. Programs that were looked at and are not compared."""
