import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract.arrays import BoolImage, RgbImage
from wsi_extract.model import SlideFile
from wsi_extract.slides.open_slides import OpenedSlide, describe_slide, read_overview
from wsi_extract.tissue import TissueMethod, segment_tissue

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "slides"
GLASS = (244, 243, 245)
PINK = (225, 140, 180)
PALE = (233, 214, 228)
PURPLE = (110, 70, 150)
METHODS: tuple[TissueMethod, ...] = ("lab", "hsv")
both = pytest.mark.parametrize("method", METHODS)


def make_image(colour: tuple[int, int, int], *, size: int = 300, noise: int = 3) -> RgbImage:
    shift = np.random.default_rng(0).integers(-noise, noise + 1, (size, size, 3))
    return np.clip(np.array(colour) + shift, 0, 255).astype(np.uint8)


def paste_disk(image: RgbImage, colour: tuple[int, int, int], *, x: int, y: int, radius: int) -> BoolImage:
    """Draw a disk and return its mask."""
    row, column = np.mgrid[: image.shape[0], : image.shape[1]]
    disk: BoolImage = (column - x) ** 2 + (row - y) ** 2 < radius**2
    image[disk] = make_image(colour, size=image.shape[0])[disk]
    return disk


def overlap(found: BoolImage, truth: BoolImage) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@both
@pytest.mark.parametrize("um_per_px", [None, 1.0, 4.0, 8.0])
@pytest.mark.parametrize(
    "colour",
    [(252, 252, 252), GLASS, (240, 238, 243), (226, 226, 224), (128, 128, 128), (2, 2, 2)],
    ids=["white", "glass", "tinted glass", "dim glass", "grey", "black"],
)
def test_a_slide_without_tissue_gives_an_empty_mask(
    method: TissueMethod, um_per_px: float | None, colour: tuple[int, int, int]
) -> None:
    assert not segment_tissue(make_image(colour), method=method, um_per_px=um_per_px).any()
    assert not segment_tissue(make_image(colour, noise=0), method=method, um_per_px=um_per_px).any()


@both
def test_noise_on_the_way_from_white_to_black_is_no_tissue(method: TissueMethod) -> None:
    """A slide half scanned: glass and nothing. Otsu's threshold then lies between the two."""
    image = np.hstack([make_image(GLASS), make_image((3, 3, 3))])
    assert not segment_tissue(image, method=method, um_per_px=4.0).any()


@both
@pytest.mark.parametrize("colour", [PINK, PALE, PURPLE, (180, 60, 70), (150, 110, 80)])
def test_stained_tissue_is_found_whatever_its_stain(method: TissueMethod, colour: tuple[int, int, int]) -> None:
    image = make_image(GLASS)
    truth = paste_disk(image, colour, x=150, y=140, radius=80)
    assert overlap(segment_tissue(image, method=method, um_per_px=4.0), truth) > 0.93


@both
def test_pale_stroma_is_kept_beside_dark_tissue(method: TissueMethod) -> None:
    image = make_image(GLASS, size=500)
    truth = paste_disk(image, PALE, x=130, y=130, radius=90) | paste_disk(image, PURPLE, x=350, y=350, radius=120)
    assert overlap(segment_tissue(image, method=method, um_per_px=4.0), truth) > 0.93


@both
def test_a_field_that_is_all_tissue_is_kept_whole(method: TissueMethod) -> None:
    """Crops of tumour hold no glass; a threshold between nuclei and stroma would lose half of them."""
    image = make_image(PINK, size=400)
    rng = np.random.default_rng(1)
    for x, y in rng.integers(0, 400, (250, 2)):
        cv2.circle(image, (int(x), int(y)), 5, PURPLE, -1)
    assert segment_tissue(image, method=method, um_per_px=2.0).mean() > 0.99


INKS = {
    "green": (30, 140, 70),
    "blue": (30, 50, 160),
    "black": (25, 25, 28),
    "red": (215, 30, 40),
    "sky": (60, 160, 220),
}


@both
@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
def test_pen_is_no_tissue_and_does_not_take_tissue_away(method: TissueMethod, ink: tuple[int, int, int]) -> None:
    image = make_image(GLASS, size=500)
    truth = paste_disk(image, PINK, x=150, y=150, radius=100)
    cv2.polylines(image, [np.array([[300, 60], [440, 440], [60, 430]])], False, ink, 14, cv2.LINE_AA)
    assert overlap(segment_tissue(image, method=method, um_per_px=4.0), truth) > 0.93
    assert not segment_tissue(make_image(ink), method=method, um_per_px=4.0).any()


def test_specks_and_threads_go_small_holes_are_filled_large_ones_stay() -> None:
    image = make_image(GLASS, size=600)
    truth = paste_disk(image, PINK, x=200, y=200, radius=150)
    paste_disk(image, GLASS, x=150, y=150, radius=10)  # 80 um wide: a vessel
    truth &= ~paste_disk(image, GLASS, x=240, y=240, radius=40)  # 320 um wide: no tissue there
    paste_disk(image, PURPLE, x=500, y=500, radius=6)  # dirt
    cv2.line(image, (400, 20), (590, 300), (120, 120, 125), 1)  # a thread
    found = segment_tissue(image, method="lab", um_per_px=4.0)
    assert overlap(found, truth) > 0.95
    assert found[150, 150]
    assert not found[240, 240]
    assert not found[450:].any()
    assert not found[:300, 400:].any()


def test_sizes_follow_the_resolution() -> None:
    """The same 120 um islet is dirt at no magnification; a 40 um one at every."""
    for um_per_px in (1.0, 2.0, 4.0, 8.0):
        for width_um, kept in ((160, True), (40, False)):
            image = make_image(GLASS, size=400)
            paste_disk(image, PINK, x=200, y=200, radius=round(width_um / um_per_px / 2))
            assert segment_tissue(image, method="lab", um_per_px=um_per_px).any() == kept


def test_fat_beside_tissue_is_mostly_kept() -> None:
    image = make_image(GLASS, size=400)
    paste_disk(image, PINK, x=120, y=200, radius=90)
    for x in range(210, 330, 16):
        for y in range(140, 260, 16):
            cv2.circle(image, (x, y), 9, PINK, 2)
    assert segment_tissue(image, method="lab", um_per_px=4.0)[150:250, 215:320].mean() > 0.9


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(METHODS), st.sampled_from([None, 0.25, 4.0, 64.0]))
def test_any_shape_is_answered(height: int, width: int, method: TissueMethod, um_per_px: float | None) -> None:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    found = segment_tissue(image, method=method, um_per_px=um_per_px)
    assert found.shape == (height, width)
    assert found.dtype == np.bool_


def test_the_image_is_left_alone_and_the_answer_repeats() -> None:
    image = make_image(PINK)
    before = image.copy()
    first = segment_tissue(image, method="lab", um_per_px=4.0)
    np.testing.assert_array_equal(first, segment_tissue(image, method="lab", um_per_px=4.0))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("shape", "method", "um_per_px"), [((5, 5), "lab", 4.0), ((5, 5, 4), "lab", 4.0), ((5, 5, 3), "hsv", 0.0)]
)
def test_nonsense_is_refused(shape: tuple[int, ...], method: TissueMethod, um_per_px: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        segment_tissue(np.zeros(shape, dtype=np.uint8), method=method, um_per_px=um_per_px)


MEASURE_PEAK = """
import re, sys, numpy, wsi_extract.tissue
from pathlib import Path
def peak_kib():  # of this program alone; getrusage also counts the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
image = numpy.full((4000, 4000, 3), 244, dtype=numpy.uint8)
image[::2, 1000:3000] = (225, 140, 180)
before = peak_kib()
wsi_extract.tissue.segment_tissue(image, method=sys.argv[1], um_per_px=4.0)
sys.stdout.write(str(peak_kib() - before))
"""


@both
def test_memory_is_bounded_for_the_largest_overview(method: TissueMethod) -> None:
    """16 Mpx, in a process of its own, because only a process knows its peak."""
    run = subprocess.run([sys.executable, "-c", MEASURE_PEAK, method], capture_output=True, text=True, check=True)
    assert 50 * 2**10 < int(run.stdout) < 260 * 2**10


@pytest.mark.shared
@both
def test_real_slide(method: TissueMethod) -> None:
    path = SHARED / "cmu-1-small-region.svs"
    info = describe_slide(SlideFile(slide_id="cmu", path=path), override=None)
    with OpenedSlide(info) as slide:
        rgb, scale = read_overview(slide, info, target_downsample=8.0)
    assert rgb.shape == (371, 278, 3)
    found = segment_tissue(rgb, method=method, um_per_px=0.499 * scale.x)
    assert found[120:360, 130:140].all()  # dermis
    assert not found[:, :5].any()  # glass
    assert 0.33 < found.mean() < 0.45
