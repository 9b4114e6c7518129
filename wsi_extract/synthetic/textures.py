"""Periodic textures that fill the background: glass, stroma, tumour."""

from __future__ import annotations

import cv2
import numpy as np

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.synthetic.fields import Field
from wsi_extract.synthetic.randomness import Stream, random_numbers
from wsi_extract.synthetic.spec import HeSlideSpec
from wsi_extract.synthetic.stain import transmit

TEXTURE_PX = 1024
"""Period of every texture on both axes."""
_LIGHT_RGB = np.array((242, 241, 243))


def _periodic_noise(rng: np.random.Generator, *, wave_x: float, wave_y: float) -> FloatArray:
    n = TEXTURE_PX
    decay_y, decay_x = np.fft.fftfreq(n)[:, None] * wave_y, np.fft.rfftfreq(n)[None] * wave_x
    passed = np.exp(-3 * (decay_x**2 + decay_y**2)).astype(np.float32)
    spectrum = np.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32)) * passed
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(n, n))
    return np.asarray(noise / noise.std(), dtype=np.float64)


def _fibres(rng: np.random.Generator, *, length: float, width: float) -> FloatArray:
    """Return periodic noise drawn out to wavy fibres."""
    y, x = np.mgrid[0:TEXTURE_PX, 0:TEXTURE_PX]
    x = x + 60 * _periodic_noise(rng, wave_x=250, wave_y=250)
    y = y + 70 * _periodic_noise(rng, wave_x=200, wave_y=200)
    straight = _periodic_noise(rng, wave_x=length, wave_y=width)
    maps = [(axis % TEXTURE_PX).astype(np.float32) for axis in (x, y)]
    bent = cv2.remap(straight, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(bent, dtype=np.float64)


def make_backgrounds(spec: HeSlideSpec) -> tuple[RgbImage, RgbImage, RgbImage]:
    """Return glass, stroma and tumour, each twice in a row on both axes: a window at any phase is one slice."""
    rng = random_numbers(spec, Stream.TEXTURES)
    haematoxylin, eosin = spec.stain_strength
    coarse, fine = (_fibres(rng, length=length, width=width) for length, width in ((160, 14), (70, 5)))
    grain, mottle, speckle = (_periodic_noise(rng, wave_x=wave, wave_y=wave) for wave in (3, 14, 60))
    gaps = np.clip(np.maximum(-coarse - 0.9, 0) * 1.4, 0, 1)
    stroma = transmit(
        haematoxylin * (0.05 + 0.015 * fine + 0.014 * grain),
        eosin * (0.34 + 0.07 * coarse + 0.05 * fine + 0.028 * grain) * (1 - 0.85 * gaps),
    )
    tumor = transmit(
        haematoxylin * (0.10 + 0.02 * mottle + 0.02 * speckle + 0.02 * grain),
        eosin * (0.22 + 0.05 * mottle + 0.03 * speckle + 0.028 * grain),
    )
    glass = np.ones_like(tumor) + 0.003 * grain[..., None]
    glass_rgb, stroma_rgb, tumor_rgb = (
        np.tile(np.clip(np.rint(light * _LIGHT_RGB), 0, 255).astype(np.uint8), (2, 2, 1))
        for light in (glass, stroma, tumor)
    )
    return glass_rgb, stroma_rgb, tumor_rgb


def make_fray(spec: HeSlideSpec) -> Field:
    """Return the noise that frays the outline of the tissue, twice in a row on both axes."""
    fray = 0.22 * _periodic_noise(random_numbers(spec, Stream.TEXTURES, 1), wave_x=24, wave_y=16)
    return np.tile(fray.astype(np.float32), (2, 2))
