"""A data set does not depend on who reads the slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers_run import CLASSES, Inputs, extract
from wsi_extract.reading import ReaderMode
from wsi_extract.synthetic import (
    AnnotatedSlide,
    AnnotationRow,
    CellKind,
    HeSlideSpec,
    write_coco,
    write_he_slide,
    write_sliderunner,
)
from wsi_extract.verify import audit, compare

WIDTH_PX, HEIGHT_PX = 1601, 1283
DENSE: dict[str, Any] = {"patch_size": 96, "patches_per_slide": 60, "train_val_split": 0.5}


@pytest.fixture(scope="module")
def stained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Two slides of JPEG tiles."""
    folder = tmp_path_factory.mktemp("stained")
    slides, rows = [], []
    (folder / "WSI").mkdir()
    for uid in (1, 2):
        name = f"slide_{uid}.svs"
        spec = HeSlideSpec(
            width_px=WIDTH_PX, height_px=HEIGHT_PX, seed=uid, tissue_share=0.8, n_cells=((CellKind.MITOSIS, 12),)
        )
        cells = write_he_slide(folder / "WSI" / name, spec)
        slides.append(AnnotatedSlide(uid=uid, file_name=name, width_px=WIDTH_PX, height_px=HEIGHT_PX))
        rows += [(uid, (cell.x_l0, cell.y_l0)) for cell in cells]
    annotations = tuple(
        AnnotationRow(uid=number, slide_uid=uid, class_id=2, points_l0=(point,))
        for number, (uid, point) in enumerate(rows, start=1)
    )
    inputs = Inputs(folder=folder, slides=tuple(slides), annotations=annotations)
    write_sliderunner(inputs.sqlite, slides=slides, classes=CLASSES, annotations=annotations)
    write_coco(inputs.coco, slides=slides, classes=CLASSES, annotations=annotations)
    return inputs


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"store": "png"}, id="png"),
        pytest.param({"store": "zarr"}, id="zarr"),
        pytest.param({"store": "both", "stain_norm": "reinhard"}, id="both, reinhard"),
        pytest.param({"store": "pixels", "stain_norm": "macenko"}, id="pixels, macenko"),
        pytest.param({"store": "zarr", "sampling": "grid", "overlap": 0.5}, id="zarr, grid"),
        pytest.param({"store": "zarr", "mpp": 0.4, "stain_norm": "macenko"}, id="zarr, resampled, macenko"),
    ],
)
def test_both_readers_give_the_same_files(stained: Inputs, tmp_path: Path, settings: dict[str, Any]) -> None:
    for reader in (ReaderMode.OPENSLIDE, ReaderMode.DIRECT):
        extract(stained, tmp_path / reader, reader=reader, **DENSE, **settings)
        assert f",{reader.value}," in (tmp_path / reader / "slides.csv").read_text()
    assert compare(tmp_path / "openslide", tmp_path / "direct").problems == ()
    assert audit(tmp_path / "direct").problems == ()


def test_a_run_may_go_on_with_another_reader(stained: Inputs, tmp_path: Path) -> None:
    extract(stained, tmp_path / "whole", reader="openslide", **DENSE)
    extract(stained, tmp_path / "out", reader="openslide", **DENSE)
    rng = np.random.default_rng(0)
    patches = sorted((tmp_path / "out").rglob("*.png"))
    patches[int(rng.integers(len(patches)))].unlink()
    extract(stained, tmp_path / "out", reader="direct", **DENSE)
    assert compare(tmp_path / "whole", tmp_path / "out").problems == ()
