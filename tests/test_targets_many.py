"""Labels of many patches at once equal those of each patch alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_extract import targets
from wsi_extract.geometry import Scale
from wsi_extract.model import AnnotationTable, Role
from wsi_extract.targets import LabelRules, PatchLabels, label_patch, label_patches

SCALES = [1.0, 2.0, 4.0, 2.001, 3.99, 0.987]
Box = tuple[float, float, float, float]
RULES = LabelRules(label_hard_negatives=False, label_visible_fraction=None, crowd_visible_fraction=0.25)


def table(boxes: list[Box], *, roles: list[Role]) -> AnnotationTable:
    n = len(boxes)
    return AnnotationTable(
        source_id=np.arange(n) + 7,
        part=np.arange(n) % 2,
        role=np.array(roles, dtype=np.int8),
        class_id=np.full(n, 2, dtype=np.int64),
        boxes_l0=np.array(boxes, dtype=np.float64).reshape(n, 4),
    )


def one_by_one(
    annotations: AnnotationTable,
    origins: list[tuple[int, int]],
    *,
    scale: Scale,
    wh: tuple[int, int],
    rules: LabelRules = RULES,
) -> list[PatchLabels]:
    return [
        label_patch(annotations, origin_l0_xy=origin, scale=scale, patch_wh_out=wh, rules=rules) for origin in origins
    ]


def at_once(
    annotations: AnnotationTable,
    origins: list[tuple[int, int]],
    *,
    scale: Scale,
    wh: tuple[int, int],
    rules: LabelRules = RULES,
) -> list[PatchLabels]:
    origins_l0 = np.array(origins, dtype=np.int64).reshape(len(origins), 2)
    return label_patches(annotations, origins_l0=origins_l0, scale=scale, patch_wh_out=wh, rules=rules)


# Whole and half numbers, so that boxes and patches often touch exactly.
spots = st.integers(-300, 900).map(lambda value: value / 2) | st.floats(-200, 500)
lengths = st.integers(0, 200).map(float) | st.floats(0, 600)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), spots, spots, lengths, lengths)
objects = st.lists(st.tuples(boxes, st.sampled_from([Role.TARGET, Role.HARD_NEGATIVE, Role.IGNORE])), max_size=12)
sides = st.integers(1, 150)
coordinates = st.integers(-200, 500)
any_rules = st.builds(
    LabelRules,
    label_hard_negatives=st.booleans(),
    label_visible_fraction=st.none() | st.floats(0.01, 1),
    crowd_visible_fraction=st.floats(0.01, 1),
)


@given(
    objects=objects,
    origins=st.lists(st.tuples(coordinates, coordinates), max_size=12),
    scale=st.builds(Scale, x=st.sampled_from(SCALES), y=st.sampled_from(SCALES)),
    wh=st.tuples(sides, sides),
    rules=any_rules,
    pairs_at_once=st.sampled_from([1, 3, 1 << 20]),
)
@example(  # a box without area, its centre on the corner of the second patch
    objects=[((50.0, 50.0, 50.0, 50.0), Role.TARGET)],
    origins=[(0, 0), (50, 50), (0, 50)],
    scale=Scale(x=1.0, y=1.0),
    wh=(50, 50),
    rules=RULES,
    pairs_at_once=1,
)
def test_all_at_once_equals_one_by_one(
    objects: list[tuple[Box, Role]],
    origins: list[tuple[int, int]],
    scale: Scale,
    wh: tuple[int, int],
    rules: LabelRules,
    pairs_at_once: int,
) -> None:
    annotations = table([box for box, _ in objects], roles=[role for _, role in objects])
    expected = one_by_one(annotations, origins, scale=scale, wh=wh, rules=rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "PAIRS_AT_ONCE", pairs_at_once)
        assert at_once(annotations, origins, scale=scale, wh=wh, rules=rules) == expected


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (20, 20)], ids=["a row", "a column", "a square"])
def test_a_grid_of_patches_sees_what_each_of_them_sees(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    n_rows, n_columns = shape
    origins = [(64 * column, 64 * row) for row in range(n_rows) for column in range(n_columns)]
    corners = rng.uniform(0, [64 * n_columns, 64 * n_rows], (300, 2))
    found = np.concatenate([corners, corners + rng.uniform(0, 60, (300, 2))], axis=1)
    roles = [[Role.TARGET, Role.HARD_NEGATIVE, Role.IGNORE][number % 3] for number in range(300)]
    annotations = table([(x0, y0, x1, y1) for x0, y0, x1, y1 in found.tolist()], roles=roles)
    scale = Scale(x=1.0, y=1.0)
    seen = at_once(annotations, origins, scale=scale, wh=(128, 128))
    assert seen == one_by_one(annotations, origins, scale=scale, wh=(128, 128))
    assert sum(len(labels.labels) for labels in seen) > 300  # each centre lies in two or four patches


@pytest.mark.parametrize(("n_boxes", "n_patches"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_see(n_boxes: int, n_patches: int) -> None:
    annotations = table([(0.0, 0.0, 9.0, 9.0)] * n_boxes, roles=[Role.TARGET] * n_boxes)
    seen = at_once(annotations, [(0, 0)] * n_patches, scale=Scale(x=1.0, y=1.0), wh=(50, 50))
    nothing = PatchLabels(labels=(), look_alikes=(), counts=Counter())
    assert seen == [nothing] * n_patches
