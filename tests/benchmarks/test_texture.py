from __future__ import annotations

import io

import numpy as np
import pytest
import zstandard
from PIL import Image

from benchmarks.texture import TISSUE_GREY, TexturedSlide, make_textured_slide, tissue_of_slide
from wsi_extract.arrays import RgbImage
from wsi_extract.errors import InputError
from wsi_extract.synthetic import HeSlideSpec, write_he_slide

SCANNED_PNG_BYTES = 132_000
SCANNED_ZSTD_BYTES = 183_000
"""Of 256 px patches of scanned H&E: Pillow's default PNG, zstd level 1."""


def png_bytes(rgb: RgbImage) -> int:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    return len(stream.getvalue())


def test_texture_compresses_as_scanned_tissue_does() -> None:
    patches = make_textured_slide(12).patches()
    compressor = zstandard.ZstdCompressor(level=1)
    mean_png = np.mean([png_bytes(rgb) for rgb in patches])
    mean_zstd = np.mean([len(compressor.compress(rgb.tobytes())) for rgb in patches])
    assert mean_png == pytest.approx(SCANNED_PNG_BYTES, rel=0.1)
    assert mean_zstd == pytest.approx(SCANNED_ZSTD_BYTES, rel=0.1)


def test_same_seed_gives_same_pixels_and_another_seed_others(slide: TexturedSlide) -> None:
    again = make_textured_slide(6, patch_px=128, min_tissue_fraction=0.5)
    other = make_textured_slide(6, patch_px=128, min_tissue_fraction=0.5, seed=2)
    assert np.array_equal(again.rgb, slide.rgb)
    assert np.array_equal(again.origins, slide.origins)
    assert not np.array_equal(other.patches(), slide.patches())


def test_patches_are_tissue_in_grid_order_without_overlap(slide: TexturedSlide) -> None:
    assert len(slide) == 6
    assert (slide.origins % 128 == 0).all()
    assert slide.origins.tolist() == sorted(slide.origins.tolist(), key=lambda xy: (xy[1], xy[0]))
    assert len(np.unique(slide.origins, axis=0)) == 6
    assert ((slide.patches().mean(axis=3) < TISSUE_GREY).mean(axis=(1, 2)) >= 0.5).all()
    x, y = slide.origins[4]
    assert np.array_equal(slide.patch(4), slide.rgb[y : y + 128, x : x + 128])


def test_no_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one patch, got 0"):
        make_textured_slide(0)


def test_tissue_of_a_slide_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("slide") / "generated.svs"
    write_he_slide(path, HeSlideSpec(width_px=900, height_px=700, seed=1, tissue_share=0.9))
    patches = tissue_of_slide(path, n_patches=5, patch_px=128)
    assert patches.shape[1:] == (128, 128, 3)
    assert 1 <= len(patches) <= 5
    assert ((patches.mean(axis=3) < TISSUE_GREY).mean(axis=(1, 2)) >= 0.9).all()


def test_a_slide_of_bare_glass_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("slide") / "glass.svs"
    write_he_slide(path, HeSlideSpec(width_px=400, height_px=400, seed=1, tissue_share=0))
    with pytest.raises(InputError, match="no tissue"):
        tissue_of_slide(path, n_patches=5, patch_px=128)
