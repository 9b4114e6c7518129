"""The visibility rule, case by case and as properties."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_extract.geometry import Scale
from wsi_extract.model import AnnotationTable, Role
from wsi_extract.targets import LabelRules, PatchLabel, PatchLabels, clip_boxes, label_patch

Box = tuple[float, float, float, float]

RULES = LabelRules(label_hard_negatives=False, label_visible_fraction=None, crowd_visible_fraction=0.25)
LABEL_ALL = LabelRules(label_hard_negatives=True, label_visible_fraction=None, crowd_visible_fraction=0.25)
BY_SHARE = LabelRules(label_hard_negatives=False, label_visible_fraction=0.5, crowd_visible_fraction=0.25)
ONE = Scale(x=1.0, y=1.0)
SCALES = [1.0, 2.0, 4.0, 2.001, 3.99, 4.016, 0.987]


def table(boxes: list[Box], *, roles: list[Role] | None = None) -> AnnotationTable:
    n = len(boxes)
    return AnnotationTable(
        source_id=np.arange(n) + 7,
        part=np.zeros(n, dtype=np.int64),
        role=np.array([Role.TARGET] * n if roles is None else roles, dtype=np.int8),
        class_id=np.full(n, 2, dtype=np.int64),
        boxes_l0=np.array(boxes, dtype=np.float64).reshape(n, 4),
    )


def see(
    boxes: list[Box],
    *,
    origin: tuple[int, int] = (1000, 2000),
    roles: list[Role] | None = None,
    rules: LabelRules = RULES,
    scale: Scale = ONE,
    wh: tuple[int, int] = (256, 256),
) -> PatchLabels:
    return label_patch(table(boxes, roles=roles), origin_l0_xy=origin, scale=scale, patch_wh_out=wh, rules=rules)


def around(x: float, y: float, *, w: float = 50, h: float = 50) -> Box:
    """The level-0 box around (x, y) of the patch read at (1000, 2000)."""
    return (1000 + x - w / 2, 2000 + y - h / 2, 1000 + x + w / 2, 2000 + y + h / 2)


def verdict(labels: PatchLabels) -> str:
    if not labels.labels:
        return "none"
    (label,) = labels.labels
    return "crowd" if label.is_crowd else "label"


# --- the table of cases --------------------------------------------------------------------------------------------

CASES = [
    pytest.param(around(128, 128), "label", (103, 103, 50, 50), id="in the middle"),
    pytest.param(around(0, 0), "label", (0, 0, 25, 25), id="centre on the first pixel's corner is inside"),
    pytest.param(around(-0.5, 128), "crowd", (0, 103, 24.5, 50), id="centre left of the patch, V = 0.49"),
    pytest.param(around(256, 128), "crowd", (231, 103, 25, 50), id="centre at w is outside"),
    pytest.param(around(128, 256), "crowd", (103, 231, 50, 25), id="centre at h is outside"),
    pytest.param(around(255.5, 128), "label", (230.5, 103, 25.5, 50), id="centre inside the last column"),
    pytest.param(around(256, 256), "crowd", (231, 231, 25, 25), id="centre at the far corner, V exactly 0.25"),
    pytest.param(around(268.5, 128), "crowd", (243.5, 103, 12.5, 50), id="V exactly 0.25"),
    pytest.param(around(268.6, 128), "none", None, id="V just below 0.25"),
    pytest.param(around(-12.5, 128), "crowd", (0, 103, 12.5, 50), id="V exactly 0.25 on the left"),
    pytest.param(around(-24.9, 128), "none", None, id="a sliver"),
    pytest.param(around(-25, 128), "none", None, id="touches the edge from outside"),
    pytest.param(around(500, 128), "none", None, id="far away"),
    pytest.param(around(128, 128, w=600, h=600), "label", (0, 0, 256, 256), id="larger than the patch"),
    pytest.param(around(400, 128, w=600, h=300), "none", None, id="large, centre outside, V = 0.22"),
    pytest.param(around(128, 128, w=0, h=50), "none", None, id="without width"),
]


@pytest.mark.parametrize(("box", "expected", "xywh"), CASES)
def test_visibility_rule(box: Box, expected: str, xywh: Box | None) -> None:
    seen = see([box])
    assert verdict(seen) == expected
    if xywh is not None:
        assert seen.labels[0].xywh_out == pytest.approx(xywh, abs=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_a_quarter_is_a_quarter_at_every_scale(scale: float) -> None:
    # 10 of 40 level-0 px are visible; no rounding of the clipped box may turn that into less than a quarter.
    seen = see([(1000 - 30, 2010, 1000 + 10, 2050)], scale=Scale(x=scale, y=scale))
    assert verdict(seen) == "crowd"
    half = see([(1000 - 20, 2010, 1000 + 20, 2050)], scale=Scale(x=scale, y=scale), rules=BY_SHARE)
    assert verdict(half) == "label"


def test_every_annotation_met_is_counted() -> None:
    seen = see(
        [around(128, 128), around(128, 256), around(-24, 128), around(900, 900), around(60, 60, w=0)],
        roles=[Role.TARGET] * 5,
    )
    assert seen.counts == Counter({"target_label": 1, "target_crowd": 1, "target_dropped": 2})


def test_labels_keep_the_order_and_the_names_of_the_table() -> None:
    annotations = AnnotationTable(
        source_id=np.array([9, 3, 3]),
        part=np.array([0, 0, 1]),
        role=np.full(3, Role.TARGET, dtype=np.int8),
        class_id=np.full(3, 2),
        boxes_l0=np.array([around(100, 100), around(90, 90), around(80, 80)]),
    )
    seen = label_patch(annotations, origin_l0_xy=(1000, 2000), scale=ONE, patch_wh_out=(256, 256), rules=RULES)
    assert [label.annotation for label in seen.labels] == ["9", "3", "3.1"]


# --- defects of older programs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [(0, 0), (0, 500), (500, 0), (500, 700)])
def test_b19_shift_before_clip_also_at_origin_zero(origin: tuple[int, int]) -> None:
    x, y = origin
    # More than ten boxes: the defect kept the first ten unshifted.
    boxes: list[Box] = [(x + 10.0 * i, y + 5.0 * i, x + 10.0 * i + 20, y + 5.0 * i + 30) for i in range(14)]
    seen = see(boxes, origin=origin)
    assert [label.xywh_out for label in seen.labels] == [(10.0 * i, 5.0 * i, 20.0, 30.0) for i in range(14)]


def test_b20_empty_patch_has_no_boxes() -> None:
    for boxes in ([], [around(2000, 2000)]):
        assert see(boxes) == PatchLabels(labels=(), look_alikes=(), counts=Counter())


def test_boxes_cut_by_the_left_or_top_edge_keep_only_what_is_visible() -> None:
    (left,) = see([around(5, 128)]).labels
    (top,) = see([around(128, 5)]).labels
    assert left.xywh_out == (0, 103, 30, 50)  # not 50 wide
    assert top.xywh_out == (103, 0, 50, 30)


# --- roles ---------------------------------------------------------------------------------------------------------


def test_roles_decide_category_crowd_and_side_field() -> None:
    roles = [Role.TARGET, Role.HARD_NEGATIVE, Role.IGNORE]
    boxes = [around(50, 50), around(120, 120), around(200, 200)]
    seen = see(boxes, roles=roles)
    assert [(label.annotation, label.category_id, label.is_crowd) for label in seen.labels] == [
        ("7", 1, False),
        ("9", 1, True),
    ]
    assert [(label.annotation, label.is_crowd) for label in seen.look_alikes] == [("8", False)]
    assert seen.look_alikes[0].xywh_out == (95, 95, 50, 50)
    assert seen.counts == Counter({"target_label": 1, "hard_negative_label": 1, "ignore_crowd": 1})


def test_look_alikes_become_category_2_when_asked_for() -> None:
    roles = [Role.TARGET, Role.HARD_NEGATIVE, Role.HARD_NEGATIVE]
    seen = see([around(50, 50), around(120, 120), around(256, 120)], roles=roles, rules=LABEL_ALL)
    assert [(label.category_id, label.is_crowd) for label in seen.labels] == [(1, False), (2, False), (2, True)]
    assert seen.look_alikes == ()


def test_look_alikes_that_are_not_labelled_never_become_crowd() -> None:
    seen = see([around(256, 120)], roles=[Role.HARD_NEGATIVE])
    assert (seen.labels, seen.look_alikes) == ((), ())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param(around(128, 128), "crowd", id="inside"),
        pytest.param(around(256, 128), "crowd", id="half visible"),
        pytest.param(around(275, 128), "none", id="hardly visible"),
    ],
)
def test_objects_of_unknown_truth_are_crowd_wherever_they_are_seen(box: Box, expected: str) -> None:
    assert verdict(see([box], roles=[Role.IGNORE])) == expected


# --- option: by visible share --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param(around(256, 128), "label", id="centre outside, V exactly 0.5"),
        pytest.param(around(257, 128), "crowd", id="V = 0.48"),
        pytest.param(around(0, 0), "crowd", id="centre inside, V = 0.25: crowd"),
        pytest.param(around(400, 128, w=600, h=300), "none", id="V = 0.22"),
        pytest.param(around(128, 128, w=900, h=900), "none", id="centre inside, V = 0.08: dropped"),
    ],
)
def test_label_visible_fraction_replaces_the_centre_rule(box: Box, expected: str) -> None:
    seen = see([box], rules=BY_SHARE)
    assert verdict(seen) == expected
    assert seen.counts == Counter({f"target_{'dropped' if expected == 'none' else expected}": 1})


# --- scales --------------------------------------------------------------------------------------------------------


def test_boxes_are_scaled_with_the_image_per_axis() -> None:
    seen = see([(1100, 2100, 1150, 2150)], scale=Scale(x=2.0, y=4.0))
    assert seen.labels[0].xywh_out == (50, 25, 25, 12.5)
    (label,) = see([(1399, 2360, 1449, 2410)], scale=Scale(x=3.99, y=4.016), wh=(200, 100)).labels
    assert label.xywh_out == pytest.approx((100, 360 / 4.016, 50 / 3.99, 100 - 360 / 4.016), abs=1e-4)


# --- properties ----------------------------------------------------------------------------------------------------

lengths = st.floats(0.5, 700)
spots = st.floats(-400, 700)
any_box = st.builds(lambda x, y, w, h: (1000 + x, 2000 + y, 1000 + x + w, 2000 + y + h), spots, spots, lengths, lengths)
any_scale = st.builds(Scale, x=st.sampled_from(SCALES), y=st.sampled_from(SCALES))
any_rules = st.builds(
    LabelRules,
    label_hard_negatives=st.booleans(),
    label_visible_fraction=st.none() | st.floats(0.01, 1),
    crowd_visible_fraction=st.floats(0.01, 1),
)
label_roles = st.sampled_from([Role.TARGET, Role.HARD_NEGATIVE, Role.IGNORE])


def check_label(label: PatchLabel, *, box_l0: Box, scale: Scale, wh: tuple[int, int]) -> None:
    """Inside the patch, with area, and equal to the clipped box computed the long way."""
    x, y, w, h = label.xywh_out
    assert x >= 0
    assert y >= 0
    assert w > 0
    assert h > 0
    assert x + w <= wh[0] + 1e-9
    assert y + h <= wh[1] + 1e-9
    x0 = max(0.0, (box_l0[0] - 1000) / scale.x)
    y0 = max(0.0, (box_l0[1] - 2000) / scale.y)
    x1 = min(wh[0], (box_l0[2] - 1000) / scale.x)
    y1 = min(wh[1], (box_l0[3] - 2000) / scale.y)
    assert (x, y, x + w, y + h) == pytest.approx((x0, y0, x1, y1), abs=1.01e-4)


@given(
    objects=st.lists(st.tuples(any_box, label_roles), max_size=12),
    scale=any_scale,
    wh=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    rules=any_rules,
)
def test_every_box_is_clipped_to_the_patch_and_has_area(
    objects: list[tuple[Box, Role]], scale: Scale, wh: tuple[int, int], rules: LabelRules
) -> None:
    seen = see([box for box, _ in objects], roles=[role for _, role in objects], scale=scale, wh=wh, rules=rules)
    names = [label.annotation for label in (*seen.labels, *seen.look_alikes)]
    assert len(names) == len(set(names))
    for label in (*seen.labels, *seen.look_alikes):
        box, role = objects[int(label.annotation) - 7]
        check_label(label, box_l0=box, scale=scale, wh=wh)
        assert label.category_id == (2 if role == Role.HARD_NEGATIVE else 1)
        assert label.is_crowd or role != Role.IGNORE
    assert sum(seen.counts.values()) <= len(objects)


@given(
    centre=st.tuples(st.integers(0, 6 * 128 - 1), st.integers(0, 4 * 96 - 1)),
    half=st.booleans(),
    size=st.tuples(st.floats(1, 90), st.floats(1, 90)),
    factor=st.sampled_from([1, 2, 4]),
)
@example(centre=(128, 96), half=False, size=(50, 50), factor=1)
def test_a_centre_belongs_to_exactly_one_patch_of_a_grid_without_overlap(
    centre: tuple[int, int], half: bool, size: tuple[float, float], factor: int
) -> None:
    x, y = (value * factor + (0.5 if half else 0.0) for value in centre)
    # Symmetric in floats, so that the centre is exactly where it is meant to be.
    w, h = (round(side * 4) / 4 for side in size)
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    scale = Scale(x=float(factor), y=float(factor))
    labelled = [
        label
        for column in range(6)
        for row in range(4)
        for label in see([box], origin=(column * 128 * factor, row * 96 * factor), scale=scale, wh=(128, 96)).labels
        if not label.is_crowd
    ]
    assert len(labelled) == 1


@given(centre=st.tuples(st.floats(200, 800), st.floats(200, 800)))
def test_an_object_in_several_overlapping_patches_is_labelled_in_each(centre: tuple[float, float]) -> None:
    x, y = centre
    box = (x - 25, y - 25, x + 25, y + 25)
    origins = [(128 * i, 128 * j) for i in range(8) for j in range(8)]
    for origin in origins:
        labels = [label for label in see([box], origin=origin).labels if not label.is_crowd]
        cx, cy = (box[0] + box[2]) / 2 - origin[0], (box[1] + box[3]) / 2 - origin[1]
        assert len(labels) == (0 <= cx < 256 and 0 <= cy < 256)


def test_clip_boxes_leaves_no_area_outside() -> None:
    clipped = clip_boxes(np.array([[-50.0, -50.0, -10.0, 400.0], [10.0, 20.0, 400.0, 30.0]]), patch_wh_out=(256, 100))
    assert clipped.tolist() == [[0, 0, 0, 100], [10, 20, 256, 30]]
