"""Scenes of slides: what goes in comes out."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from wsi_extract.errors import IntegrityError
from wsi_extract.geometry import Rect, Scale
from wsi_extract.index import SlideScene, read_scene, write_root, write_scene
from wsi_extract.model import AnnotationTable, OutputFrame, Split, TissueMask
from wsi_extract.sampling import SamplingOptions
from wsi_extract.state.layout import scene_folder
from wsi_extract.stores.arrays import write_array
from wsi_extract.stores.zarr_json import group_document, own_attributes, read_document, sealed, write_document
from wsi_extract.targets import LabelRules


def scene(*, n_annotations: int = 3, um_per_px_out_xy: tuple[float, float] | None = (0.2533, 0.25)) -> SlideScene:
    rng = np.random.default_rng(0)
    return SlideScene(
        slide_id="sé",
        frame=OutputFrame(
            patch_w_out_px=256,
            patch_h_out_px=128,
            scale=Scale(x=4.0, y=4.000123456789),
            level=1,
            level_downsample=4.0,
            um_per_px_out_xy=um_per_px_out_xy,
        ),
        annotations=AnnotationTable(
            source_id=np.arange(n_annotations) + 2**40,
            part=np.arange(n_annotations),
            role=np.array([1, 2, 4], dtype=np.int8)[:n_annotations],
            class_id=np.arange(n_annotations) + 1,
            boxes_l0=rng.normal(size=(n_annotations, 4)),
        ),
        tissue=TissueMask(mask=rng.random((30, 50)) > 0.5, l0_per_mask_px=Scale(x=63.97, y=64.1)),
        coverage=rng.random((7, 9)) > 0.5,
        domains=((Split.TRAIN, Rect(x0=0, y0=1, x1=2, y1=3)), (Split.VAL, Rect(x0=4, y0=5, x1=6, y1=7))),
        group="patient 1",
        sampling=SamplingOptions(
            mode="anchored", patches_per_slide=10, shares=(0.1, 0.2, 0.7), stride_px=128, seed=3, min_margin_px=5
        ),
        rules=LabelRules(label_hard_negatives=True, label_visible_fraction=0.3, crowd_visible_fraction=0.25),
    )


def assert_same(left: SlideScene, right: SlideScene) -> None:
    for name in ("slide_id", "frame", "domains", "group", "sampling", "rules"):
        assert getattr(left, name) == getattr(right, name)
    pairs = [(getattr(left.annotations, f.name), getattr(right.annotations, f.name)) for f in fields(AnnotationTable)]
    pairs += [(left.tissue.mask, right.tissue.mask), (left.coverage, right.coverage)]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert left.tissue.l0_per_mask_px == right.tissue.l0_per_mask_px


@pytest.mark.parametrize(
    "original",
    [
        pytest.param(scene(), id="all"),
        pytest.param(scene(n_annotations=0, um_per_px_out_xy=None), id="no annotation, unknown resolution"),
        pytest.param(
            replace(
                scene(),
                domains=(),
                rules=LabelRules(label_hard_negatives=False, label_visible_fraction=None, crowd_visible_fraction=0.5),
            ),
            id="no domain",
        ),
    ],
)
def test_a_scene_comes_back(tmp_path: Path, original: SlideScene) -> None:
    write_scene(tmp_path, original)
    assert_same(read_scene(tmp_path), original)


def test_writing_again_leaves_nothing_of_the_old_scene(tmp_path: Path) -> None:
    for name, order in (("a", (scene(), scene(n_annotations=0))), ("b", (scene(n_annotations=0),))):
        for each in order:
            write_scene(tmp_path / name, each)
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert files[0] == files[1]


def test_zarr_opens_a_scene(tmp_path: Path) -> None:
    write_scene(scene_folder(tmp_path, slide_id="s1"), scene())
    write_root(tmp_path)
    group: Any = zarr.open_group(tmp_path / "index.zarr", mode="r")
    assert np.array_equal(group["slides/s1/coverage"][...], scene().coverage)
    assert group["slides/s1"].attrs["wsi_extract"]["group"] == "patient 1"


@pytest.mark.parametrize("name", ["annotation_role", "tissue_mask", "coverage"])
def test_a_lost_array_is_named(tmp_path: Path, name: str) -> None:
    write_scene(tmp_path, scene())
    (tmp_path / name / "zarr.json").unlink()
    with pytest.raises(IntegrityError, match=rf"{name}/zarr\.json is missing"):
        read_scene(tmp_path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param("annotation_part", np.arange(2), id="too few annotations"),
        pytest.param("annotation_role", np.array([1, 2, 3], dtype=np.int8), id="role"),
        pytest.param("coverage", np.full((2, 2), 2, dtype=np.uint8), id="neither zero nor one"),
        pytest.param("tissue_mask", np.zeros(5, dtype=np.uint8), id="no image"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    write_scene(tmp_path, scene())
    write_array(tmp_path / name, values)
    with pytest.raises(IntegrityError, match="is inconsistent"):
        read_scene(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"scale_xy": [0, 1]},
        {"scale_xy": [1]},
        {"domains": [["other", [0, 0, 1, 1]]]},
        {"domains": [["train", [0, 0, 1]]]},
        {"sampling": {"mode": "anchored"}},
        {"rules": {"unknown": 1}},
        {"mask_l0_per_px_xy": None},
    ],
)
def test_attributes_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_scene(tmp_path, scene())
    own = {key: value for key, value in own_attributes(read_document(tmp_path)).items() if key != "sha256"}
    write_document(tmp_path, sealed(group_document({**own, **change})))
    with pytest.raises(IntegrityError, match="is inconsistent"):
        read_scene(tmp_path)
