"""Stain normalisation of other packages, installed beside the environment, not into it.

A package is fetched without what it asks for into a cache folder, and so is what it needs besides. These folders are
searched last: NumPy, OpenCV and torch stay those of this environment, and all contenders compute with the same.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from wsi_extract.arrays import RgbImage
from wsi_extract.reading import StainNorm
from wsi_extract.stain import default_target
from wsi_extract.stain.reinhard import ColourStatistics

Normalise = Callable[[RgbImage], RgbImage]
INSTALL_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A package, and the module that holds its normalisers."""

    name: str
    module: str
    alone: tuple[str, ...]
    """Requirements fetched without their dependencies: the package itself."""
    whole: tuple[str, ...] = ()
    """Requirements fetched with all they need."""


PEERS = (
    Peer(name="torchstain", module="torchstain", alone=("torchstain==1.4.1",)),
    Peer(name="staintools", module="staintools", alone=("staintools==2.1.2",), whole=("spams-bin", "matplotlib")),
    Peer(
        name="histomicstk",
        module="histomicstk.preprocessing.color_normalization",
        alone=("histomicstk==1.4.0", "girder-slicer-cli-web"),
        whole=(
            *("large-image", "pandas", "scipy", "scikit-image", "scikit-learn"),
            *("nimfa", "shapely", "girder-client", "imageio", "ctk-cli"),
        ),
    ),
    Peer(name="torch-staintools", module="torch_staintools.normalizer", alone=("torch-staintools==1.0.7",)),
    Peer(name="tiatoolbox", module="tiatoolbox.tools.stainnorm", alone=("tiatoolbox==2.1.3",)),
)
"""The last two need torchvision, which this comparison does without; they are listed with the reason."""


def install_peers(cache: Path, *, peers: Sequence[Peer] = PEERS) -> dict[str, str]:
    """Fetch the packages that are not there yet, and return why each one that cannot be used here cannot."""
    reasons: dict[str, str] = {}
    for peer in peers:
        folder = cache / peer.name
        reason = "" if folder.is_dir() else _fetch(peer, folder)
        reason = reason or _try_import(peer, folder)
        if reason:
            reasons[peer.name] = reason
    return reasons


def _fetch(peer: Peer, folder: Path) -> str:
    """Install into a folder that appears when all is there; return what went wrong, if anything."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(partial)]
    for arguments in (["--no-deps", *peer.alone], list(peer.whole)):
        if arguments:
            reason = _run(pip + arguments)
            if reason:
                return reason
    partial.rename(folder)
    return ""


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it did not install within {INSTALL_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    errors = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return f"it does not install: {errors[-1] if errors else f'pip ended with {done.returncode}'}"


def _try_import(peer: Peer, folder: Path) -> str:
    """Import the module for good, in this process; its folder comes last, so that it replaces nothing."""
    sys.path.append(str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(peer.module)
    except ImportError as error:
        sys.path.remove(str(folder))
        return f"it asks for more: {error}"
    return ""


def peer_cases(
    names: Collection[str], *, target: RgbImage, source: ColourStatistics
) -> dict[str, tuple[StainNorm, Normalise]]:
    """Return the normalisers of the installed packages among ``names``, by their title.

    torchstain and staintools measure every picture anew: Macenko goes to torchstain's own reference, the others to
    ``target``. HistomicsTK's Reinhard is given the statistics of the slide, ``source``, and its documented reference.
    """
    cases: dict[str, tuple[StainNorm, Normalise]] = {}
    if "torchstain" in names:
        cases |= _torchstain_cases(target)
    if "staintools" in names:
        cases |= _staintools_cases(target)
    if "histomicstk" in names:
        cases |= _histomicstk_cases(source)
    return cases


class _TorchstainNormaliser(Protocol):
    def fit(self, target: object) -> None: ...

    def normalize(self, image: object) -> object: ...


class _StaintoolsNormaliser(Protocol):
    def fit(self, target: RgbImage) -> None: ...

    def transform(self, image: RgbImage) -> RgbImage: ...


def _torchstain_cases(target: RgbImage) -> dict[str, tuple[StainNorm, Normalise]]:
    import torch  # noqa: PLC0415  # heavy, and needed with torchstain only

    normalizers = importlib.import_module("torchstain").normalizers

    def tensor_of(rgb: RgbImage) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float()

    cases: dict[str, tuple[StainNorm, Normalise]] = {}
    for backend, prepare in (("numpy", np.asarray), ("torch", tensor_of)):
        macenko = cast("_TorchstainNormaliser", normalizers.MacenkoNormalizer(backend=backend))
        reinhard = cast("_TorchstainNormaliser", normalizers.ReinhardNormalizer(backend=backend))
        reinhard.fit(prepare(target))
        for method, normaliser in ((StainNorm.MACENKO, macenko), (StainNorm.REINHARD, reinhard)):
            title = f"{method.value.title()}, torchstain, {backend}"
            cases[title] = (method, _applied(normaliser.normalize, prepare))
    return cases


def _applied(normalise: Callable[[object], object], prepare: Callable[[RgbImage], object]) -> Normalise:
    """Return the normaliser as a function of pixels; Macenko gives the pictures of the single stains besides."""

    def apply(rgb: RgbImage) -> RgbImage:
        result = normalise(prepare(rgb))
        return np.asarray(result[0] if isinstance(result, tuple) else result).astype(np.uint8)

    return apply


def _staintools_cases(target: RgbImage) -> dict[str, tuple[StainNorm, Normalise]]:
    module = importlib.import_module("staintools")
    macenko = cast("_StaintoolsNormaliser", module.StainNormalizer("macenko"))
    reinhard = cast("_StaintoolsNormaliser", module.ReinhardColorNormalizer())
    macenko.fit(target)
    reinhard.fit(target)
    return {
        "Macenko, staintools": (StainNorm.MACENKO, macenko.transform),
        "Reinhard, staintools": (StainNorm.REINHARD, reinhard.transform),
    }


def _histomicstk_cases(source: ColourStatistics) -> dict[str, tuple[StainNorm, Normalise]]:
    module = importlib.import_module("histomicstk.preprocessing.color_normalization")
    reinhard = cast("Callable[..., RgbImage]", module.reinhard)
    reference = default_target(StainNorm.REINHARD).statistics
    return {
        "Reinhard, HistomicsTK": (
            StainNorm.REINHARD,
            lambda rgb: reinhard(rgb, reference.mean, reference.deviation, source.mean, source.deviation),
        )
    }
