"""Blocks and read windows: partitions of a plan, and what they cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_extract import blocks
from wsi_extract.arrays import FloatArray
from wsi_extract.blocks import (
    MAX_BLOCK_BYTES,
    MIN_BLOCK_PATCHES,
    WINDOW_SIDE_PX,
    Window,
    block_ranges,
    cut_blocks,
    cut_windows,
    patches_per_block,
    touching_rows,
    window_of_each,
    worker_bytes,
)
from wsi_extract.geometry import Scale, grid_starts
from wsi_extract.model import (
    NO_ANCHOR,
    AnnotationTable,
    Block,
    OutputFrame,
    PatchKind,
    PatchTable,
    Role,
    SlideInfo,
    SlideLevel,
    SlidePlan,
    Split,
)

SLIDE = SlideInfo(
    slide_id="s1",
    path=Path("s1.svs"),
    vendor="aperio",
    levels=(SlideLevel(width_px=100_000, height_px=100_000, downsample=1.0),),
    um_per_px_xy=(0.25, 0.25),
    um_per_px_source="property",
    bounds_l0=None,
    objective_power=40.0,
    fingerprint="f",
)
FRAME = OutputFrame(
    patch_w_out_px=256,
    patch_h_out_px=256,
    scale=Scale(x=1.0, y=1.0),
    level=0,
    level_downsample=1.0,
    um_per_px_out_xy=(0.25, 0.25),
)


USUAL_MINIMUM = MIN_BLOCK_PATCHES


@pytest.fixture(autouse=True)
def _usual_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MIN_BLOCK_PATCHES", USUAL_MINIMUM)


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_patches", "side_px", "expected"),
    [
        pytest.param(100, 256, 128, id="the standard job: one block"),
        pytest.param(1024, 256, 256, id="a quarter is a power of two"),
        pytest.param(1025, 256, 512, id="a quarter is just more than one"),
        pytest.param(1, 256, 128, id="never fewer than 128"),
        pytest.param(0, 256, 128, id="an empty plan"),
        pytest.param(10**6, 256, 512, id="96 MiB at 256 px"),
        pytest.param(10**6, 512, 128, id="96 MiB at 512 px"),
        pytest.param(10**6, 1024, 32, id="96 MiB at 1024 px"),
        pytest.param(100, 4096, 2, id="the cap wins over the least number"),
        pytest.param(100, 8192, 1, id="a patch larger than the cap is a block of its own"),
    ],
)
def test_patches_per_block(n_patches: int, side_px: int, expected: int) -> None:
    assert patches_per_block(n_patches, patch_bytes=side_px * side_px * 3) == expected


@given(n_patches=st.integers(0, 10**7), patch_bytes=st.integers(1, 2**28))
def test_blocks_are_powers_of_two_below_the_cap(n_patches: int, patch_bytes: int) -> None:
    size = patches_per_block(n_patches, patch_bytes=patch_bytes)
    assert size >= 1
    assert size & (size - 1) == 0
    assert size == 1 or size * patch_bytes <= MAX_BLOCK_BYTES
    assert size >= n_patches / 4 or 2 * size * patch_bytes > MAX_BLOCK_BYTES
    assert size <= 128 or size < n_patches / 2


@given(codes=st.lists(st.integers(0, 2), max_size=60), size=st.integers(1, 20))
def test_ranges_partition_the_rows_and_never_hold_two_splits(codes: list[int], size: int) -> None:
    ranges = block_ranges(np.array(codes, dtype=np.int64), size=size)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(len(codes)))
    for start, stop in ranges:
        assert 1 <= stop - start <= size
        assert len(set(codes[start:stop])) == 1


# --- blocks --------------------------------------------------------------------------------------------------------


def patch_table(origins: list[tuple[int, int]], *, splits: list[int], anchors: list[int], scale: Scale) -> PatchTable:
    n = len(origins)
    out = np.array(origins, dtype=np.int64).reshape(n, 2)
    return PatchTable(
        origins_out=out,
        origins_l0=np.floor(out * [scale.x, scale.y]).astype(np.int64),
        split=np.array(splits, dtype=np.int8),
        kind=np.full(n, PatchKind.RANDOM, dtype=np.int8),
        requested_kind=np.full(n, PatchKind.RANDOM, dtype=np.int8),
        anchor_row=np.array(anchors, dtype=np.int64),
        tissue_fraction=np.linspace(0, 1, n),
    )


def annotation_table(boxes: list[tuple[float, float, float, float]]) -> AnnotationTable:
    n = len(boxes)
    return AnnotationTable(
        source_id=np.arange(100, 100 + n),
        part=np.arange(n) % 2,
        role=np.full(n, Role.TARGET, dtype=np.int8),
        class_id=np.full(n, 2, dtype=np.int64),
        boxes_l0=np.array(boxes, dtype=np.float64).reshape(n, 4),
    )


positions = st.integers(0, 3_000)
boxes = st.builds(
    lambda x, y, w, h: (float(x), float(y), x + w, y + h),
    st.integers(-100, 8_000),
    st.integers(-100, 8_000),
    st.floats(0.5, 400),
    st.floats(0.5, 400),
)


@st.composite
def plans(draw: st.DrawFn) -> tuple[SlidePlan, OutputFrame, AnnotationTable]:
    scale = draw(st.builds(Scale, x=st.sampled_from([1.0, 2.001, 3.99]), y=st.sampled_from([1.0, 2.0])))
    annotations = annotation_table(draw(st.lists(boxes, max_size=12)))
    rows = draw(st.lists(st.tuples(positions, positions, st.integers(0, 2)), max_size=70))
    rows.sort(key=lambda row: row[2])
    anchors = draw(st.lists(st.integers(NO_ANCHOR, len(annotations) - 1), min_size=len(rows), max_size=len(rows)))
    patches = patch_table([(x, y) for x, y, _ in rows], splits=[s for *_, s in rows], anchors=anchors, scale=scale)
    side = draw(st.sampled_from([256, 1024]))
    frame = replace(FRAME, scale=scale, patch_w_out_px=side, patch_h_out_px=side // 2)
    return SlidePlan(slide_id="s1", patches=patches, accounts=()), frame, annotations


def blocks_of(plan: SlidePlan, frame: OutputFrame, annotations: AnnotationTable) -> list[Block]:
    return list(cut_blocks(plan, slide=SLIDE, frame=frame, annotations=annotations, plan_digest="d"))


@given(case=plans())
def test_blocks_hold_every_patch_once_and_in_order(case: tuple[SlidePlan, OutputFrame, AnnotationTable]) -> None:
    plan, frame, annotations = case
    blocks = blocks_of(plan, frame, annotations)
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert sum(len(block) for block in blocks) == len(plan.patches)
    row = 0
    for block in blocks:
        assert block.first_row == row
        rows = np.arange(row, row + len(block))
        for column in ("origins_out", "origins_l0", "split", "kind", "requested_kind", "anchor_row", "tissue_fraction"):
            assert np.array_equal(getattr(block.patches, column), getattr(plan.patches, column)[rows])
        assert {tuple(Split)[code] for code in block.patches.split} == {block.split}
        assert block.plan_digest == "d"
        row += len(block)


@given(case=plans())
def test_blocks_hand_over_every_annotation_that_touches_a_patch(
    case: tuple[SlidePlan, OutputFrame, AnnotationTable],
) -> None:
    plan, frame, annotations = case
    w_l0, h_l0 = frame.patch_w_out_px * frame.scale.x, frame.patch_h_out_px * frame.scale.y
    for block in blocks_of(plan, frame, annotations):
        handed = set(block.annotations.source_id.tolist())
        assert block.annotations.source_id.tolist() == sorted(handed)  # still in the table's order
        for x, y in block.patches.origins_l0.tolist():
            for source_id, (x0, y0, x1, y1) in zip(
                annotations.source_id.tolist(), annotations.boxes_l0.tolist(), strict=True
            ):
                if x0 < x + w_l0 and x1 > x and y0 < y + h_l0 and y1 > y:
                    assert source_id in handed


@given(case=plans())
def test_blocks_name_each_patchs_anchor(case: tuple[SlidePlan, OutputFrame, AnnotationTable]) -> None:
    plan, frame, annotations = case
    names = [name for block in blocks_of(plan, frame, annotations) for name in block.anchor_names]
    expected = ["" if row == NO_ANCHOR else annotations.name_of(row) for row in plan.patches.anchor_row.tolist()]
    assert names == expected


def test_annotations_far_from_every_patch_are_left_out() -> None:
    annotations = annotation_table([(10, 10, 60, 60), (5000, 10, 5050, 60), (10, 5000, 60, 5050)])
    rows = touching_rows(annotations, origins_l0=np.array([[0, 0], [300, 300]]), w_l0=256, h_l0=256)
    assert rows.tolist() == [0]


# --- windows -------------------------------------------------------------------------------------------------------


def grid_boxes(n_columns: int, n_rows: int, *, size: int, stride: int) -> FloatArray:
    xs = grid_starts(0, size + stride * (n_columns - 1), size=size, stride=stride)
    ys = grid_starts(0, size + stride * (n_rows - 1), size=size, stride=stride)
    return np.array([[x, y, x + size, y + size] for y in ys for x in xs], dtype=np.float64)


def area_of(window: Window) -> int:
    return window.rect_lv.width * window.rect_lv.height


@settings(max_examples=200)
@given(
    corners=st.lists(st.tuples(st.floats(0, 9_000), st.floats(0, 9_000)), max_size=80),
    spread=st.sampled_from([1.0, 0.1, 0.01, 0.0]),
    size=st.tuples(st.floats(16, 3_000), st.floats(16, 3_000)),
    margin_px=st.sampled_from([0.0, 3.0, 9.0]),
)
def test_each_patch_is_in_one_window_that_holds_it(
    corners: list[tuple[float, float]], spread: float, size: tuple[float, float], margin_px: float
) -> None:
    low = np.array(corners, dtype=np.float64).reshape(-1, 2) * spread
    boxes_lv = np.concatenate([low, low + size], axis=1)
    level_w, level_h = 12_010, 12_005
    windows = cut_windows(boxes_lv, margin_px=margin_px, level_size_wh=(level_w, level_h))
    assert sorted(row for window in windows for row in window.rows) == list(range(len(boxes_lv)))
    for window in windows:
        rect, needed = window.rect_lv, boxes_lv[list(window.rows)]
        assert 0 <= rect.x0 < rect.x1 <= level_w
        assert 0 <= rect.y0 < rect.y1 <= level_h
        assert np.all(rect.x0 <= np.maximum(needed[:, 0] - margin_px, 0))
        assert np.all(rect.y0 <= np.maximum(needed[:, 1] - margin_px, 0))
        assert np.all(rect.x1 >= np.minimum(needed[:, 2] + margin_px, level_w))
        assert np.all(rect.y1 >= np.minimum(needed[:, 3] + margin_px, level_h))
        if len(window.rows) > 1:
            assert max(rect.width, rect.height) <= WINDOW_SIDE_PX
            alone = (size[0] + 2 * margin_px) * (size[1] + 2 * margin_px)
            assert area_of(window) <= alone * len(window.rows) * (1 + 1e-9)


def test_neighbours_of_a_dense_grid_share_windows() -> None:
    boxes_lv = grid_boxes(16, 2, size=256, stride=128)
    windows = cut_windows(boxes_lv, margin_px=0, level_size_wh=(100_000, 100_000))
    assert len(windows) <= 2
    # Every pixel is in up to four patches of a grid with half overlap; read once it costs far less.
    assert sum(map(area_of, windows)) < 0.5 * len(boxes_lv) * 256 * 256


def test_a_grid_without_overlap_is_read_once() -> None:
    boxes_lv = grid_boxes(16, 16, size=256, stride=256)
    windows = cut_windows(boxes_lv, margin_px=0, level_size_wh=(100_000, 100_000))
    assert len(windows) == 4
    assert sum(map(area_of, windows)) == 256 * 256 * 256


def test_scattered_patches_are_read_alone() -> None:
    rng = np.random.default_rng(5)
    low = rng.permutation(400)[:32, None] * np.array([1_000, 700])
    boxes_lv = np.concatenate([low, low + 256], axis=1).astype(np.float64)
    windows = cut_windows(boxes_lv, margin_px=0, level_size_wh=(500_000, 500_000))
    assert sorted(window.rows for window in windows) == [(row,) for row in range(32)]
    assert sum(map(area_of, windows)) == 32 * 256 * 256


def test_windows_do_not_depend_on_anything_but_the_boxes() -> None:
    boxes_lv = np.repeat(grid_boxes(5, 5, size=300, stride=700), 2, axis=0)
    first = cut_windows(boxes_lv, margin_px=3, level_size_wh=(9_000, 9_000))
    assert first == cut_windows(boxes_lv.copy(), margin_px=3, level_size_wh=(9_000, 9_000))
    assert cut_windows(np.empty((0, 4)), margin_px=3, level_size_wh=(9_000, 9_000)) == []


@given(st.integers(0, 10**6), st.integers(0, 40))
def test_a_window_of_each_box_holds_that_box_and_its_margin(seed: int, n_boxes: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 900, (n_boxes, 2))
    boxes_lv = np.concatenate([corners, corners + rng.uniform(1, 100, (n_boxes, 2))], axis=1)
    windows = window_of_each(boxes_lv, margin_px=3, level_size_wh=(1_000, 990))
    assert [window.rows for window in windows] == [(row,) for row in range(n_boxes)]
    for box, window in zip(boxes_lv, windows, strict=True):
        alone = cut_windows(box[None], margin_px=3, level_size_wh=(1_000, 990))
        assert window.rect_lv == alone[0].rect_lv


# --- memory --------------------------------------------------------------------------------------------------------


def test_the_largest_usual_slide_needs_less_than_500_mb() -> None:
    # 100,000 x 100,000 px at 40x, masked at 2.5x: downsample 16.
    assert worker_bytes(FRAME, overview_px=6_250 * 6_250) < 500e6


@given(
    side=st.integers(16, 8192), more_px=st.integers(0, 2_000), overview=st.integers(0, 10**8), factor=st.floats(1, 4)
)
def test_memory_grows_with_patch_overview_and_scale(side: int, more_px: int, overview: int, factor: float) -> None:
    small = replace(FRAME, patch_w_out_px=side, patch_h_out_px=side)
    larger = replace(small, patch_w_out_px=side + more_px)
    coarser = replace(small, scale=Scale(x=factor, y=factor))
    base = worker_bytes(small, overview_px=overview)
    assert base <= worker_bytes(larger, overview_px=overview)
    assert base <= worker_bytes(coarser, overview_px=overview)
    assert base <= worker_bytes(small, overview_px=2 * overview)


def test_memory_counts_the_window_of_a_large_patch() -> None:
    large = replace(FRAME, patch_w_out_px=8192, patch_h_out_px=8192)
    window_px, patch_bytes = 8192 * 8192, 8192 * 8192 * 3
    # RGBA and RGB of the window and the patch itself exist at the same time.
    assert worker_bytes(large, overview_px=0) > window_px * 7 + patch_bytes
