"""Stain normalisation as the papers write it, in double precision, step by step: what fast code is held against."""

from __future__ import annotations

import numpy as np

from wsi_extract.arrays import FloatArray, RgbImage
from wsi_extract.stain.macenko import StainVectors
from wsi_extract.stain.reinhard import ColourStatistics

LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
WHITE = 255.0
CHANGE_UNTIL, GLASS_FROM = 200.0, 235.0


def macenko_by_the_book(rgb: RgbImage, *, source: StainVectors, target: StainVectors) -> FloatArray:
    """Return normalised grey levels ``(H, W, 3)``, not rounded: densities, least squares, scaling, remixing."""
    density = -np.log(np.maximum(rgb.reshape(-1, 3).astype(np.float64), 1) / WHITE).T
    basis = np.array([source.haematoxylin, source.eosin]).T
    concentrations, *_ = np.linalg.lstsq(basis, density, rcond=None)
    concentrations *= (np.array(target.max_concentrations) / np.array(source.max_concentrations))[:, None]
    light = WHITE * np.exp(-np.array([target.haematoxylin, target.eosin]).T @ concentrations)
    return np.asarray(np.clip(light.T.reshape(rgb.shape), 0, WHITE), dtype=np.float64)


def reinhard_by_the_book(rgb: RgbImage, *, source: ColourStatistics, target: ColourStatistics) -> FloatArray:
    """Return normalised grey levels ``(H, W, 3)``, not rounded; the change fades out from pale tissue to glass."""
    pixels = rgb.reshape(-1, 3).astype(np.float64)
    log_lms = np.log(np.maximum(pixels @ LMS.T, 1))
    to_lab = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
    lab = log_lms @ to_lab.T
    lab = (lab - source.mean) / np.array(source.deviation) * np.array(target.deviation) + np.array(target.mean)
    moved = np.exp(np.minimum(lab @ np.linalg.inv(to_lab).T, 12)) @ np.linalg.inv(LMS).T
    moved = np.minimum(moved, WHITE)
    share = np.clip((GLASS_FROM - pixels.mean(axis=1, keepdims=True)) / (GLASS_FROM - CHANGE_UNTIL), 0, 1)
    mixed = pixels + share * (moved - pixels)
    return np.asarray(np.clip(mixed.reshape(rgb.shape), 0, WHITE), dtype=np.float64)
