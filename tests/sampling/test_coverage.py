"""Which chunks a pixel store holds: compared with every origin, one by one."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_scenes import OPTIONS, all_tissue, frame_of, mask_of, rect, scattered, table_of
from wsi_extract.arrays import BoolImage, IntArray
from wsi_extract.geometry import Rect, Scale
from wsi_extract.model import AnnotationTable, OutputFrame, Role, Split, TissueMask
from wsi_extract.sampling import CoverageScene, SamplingOptions, needed_chunks
from wsi_extract.sampling.tissue_rule import TissueRule, has_tissue
from wsi_extract.splits import half_domains
from wsi_extract.storage import Coverage

NONE_PLANNED = np.empty((0, 2), dtype=np.int64)


def scene_of(
    width: int,
    height: int,
    *,
    domains: tuple[tuple[Split, Rect], ...] | None = None,
    frame: OutputFrame | None = None,
    annotations: AnnotationTable | None = None,
    tissue: TissueMask | None = None,
    options: SamplingOptions = OPTIONS,
) -> CoverageScene:
    """A stored image of width x height output px, at scale 1 unless the frame says otherwise."""
    return CoverageScene(
        width_out_px=width,
        height_out_px=height,
        domains=domains or ((Split.TRAIN, rect(width, height)),),
        frame=frame or frame_of(),
        annotations=annotations or AnnotationTable.empty(),
        tissue=tissue or all_tissue(width, height),
        options=options,
    )


def chunks_of(origins_out: Sequence[tuple[int, int]], *, scene: CoverageScene) -> BoolImage:
    """Paint the windows pixel by pixel and look which chunks hold paint."""
    rows, columns = math.ceil(scene.height_out_px / 128), math.ceil(scene.width_out_px / 128)
    painted = np.zeros((rows * 128, columns * 128), dtype=np.bool_)
    for x, y in set(origins_out):
        painted[y : y + scene.frame.patch_h_out_px, x : x + scene.frame.patch_w_out_px] = True
    return np.array(painted.reshape(rows, 128, columns, 128).any(axis=(1, 3)), dtype=np.bool_)


def chunks_by_chunk(allowed: BoolImage, *, first_xy: tuple[int, int], scene: CoverageScene) -> BoolImage:
    """Look, for each chunk, at all origins whose window touches it; the map's first origin is first_xy."""
    rows, columns = math.ceil(scene.height_out_px / 128), math.ceil(scene.width_out_px / 128)
    found = np.zeros((rows, columns), dtype=np.bool_)
    for row in range(rows):
        for column in range(columns):
            x0 = column * 128 - scene.frame.patch_w_out_px + 1 - first_xy[0]
            y0 = row * 128 - scene.frame.patch_h_out_px + 1 - first_xy[1]
            x1, y1 = column * 128 + 128 - first_xy[0], row * 128 + 128 - first_xy[1]
            found[row, column] = allowed[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)].any()
    return found


def anchor_origins(centre: float, *, lo: int, hi: int, size: int, scale: float, options: SamplingOptions) -> list[int]:
    """Try every origin of one axis of a domain against the definition."""
    margin, jitter = options.min_margin_px, round(options.jitter_fraction * size)
    return [
        origin
        for origin in range(lo, hi - size + 1)
        if margin <= (centre - origin * scale) / scale < size - margin
        and abs(origin - (math.floor(centre / scale) - size // 2)) <= jitter
    ]


def brute_anchors(scene: CoverageScene) -> BoolImage:
    frame, options = scene.frame, scene.options
    wanted = {Role.HARD_NEGATIVE: options.shares[1] > 0, Role.TARGET: options.shares[2] > 0}
    origins: list[tuple[int, int]] = []
    for _, domain in scene.domains:
        s_x, s_y = int(frame.scale.x), int(frame.scale.y)
        for (x, y), role in zip(scene.annotations.centres_l0.tolist(), scene.annotations.role.tolist(), strict=True):
            if not (wanted.get(Role(role)) and domain.x0 <= x < domain.x1 and domain.y0 <= y < domain.y1):
                continue
            all_x = anchor_origins(
                x, lo=-(-domain.x0 // s_x), hi=domain.x1 // s_x, size=frame.patch_w_out_px, scale=s_x, options=options
            )
            all_y = anchor_origins(
                y, lo=-(-domain.y0 // s_y), hi=domain.y1 // s_y, size=frame.patch_h_out_px, scale=s_y, options=options
            )
            origins += [(x_out, y_out) for x_out in all_x for y_out in all_y]
    return chunks_of(origins, scene=scene)


def brute_tissue(scene: CoverageScene) -> BoolImage:
    frame = scene.frame
    rule = TissueRule(
        frame=frame,
        tissue=scene.tissue,
        min_tissue_fraction=scene.options.min_tissue_fraction,
        unwanted_l0=np.empty((0, 2), dtype=np.float64),
    )
    found = np.zeros((math.ceil(scene.height_out_px / 128), math.ceil(scene.width_out_px / 128)), dtype=np.bool_)
    for _, domain in scene.domains:
        s_x, s_y = int(frame.scale.x), int(frame.scale.y)
        x = np.arange(-(-domain.x0 // s_x), domain.x1 // s_x - frame.patch_w_out_px + 1)
        y = np.arange(-(-domain.y0 // s_y), domain.y1 // s_y - frame.patch_h_out_px + 1)
        if len(x) and len(y):
            every = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
            allowed = has_tissue(every, rule=rule).reshape(len(y), len(x))
            found |= chunks_by_chunk(allowed, first_xy=(int(x[0]), int(y[0])), scene=scene)
    return found


@st.composite
def scenes(draw: st.DrawFn) -> CoverageScene:
    """Slides of a few chunks: bounds that begin anywhere, one domain or two halves, any patch, sparse tissue."""
    s_x, s_y = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 1, 2, 4]))
    width, height = draw(st.integers(100, 620)), draw(st.integers(100, 620))
    x0, y0 = draw(st.integers(0, 60)) * s_x // 2, draw(st.integers(0, 60)) * s_y // 2
    bounds = rect(width * s_x - draw(st.integers(0, 30)), height * s_y - draw(st.integers(0, 30)), x0=x0, y0=y0)
    whole = ((Split.TEST, bounds),)
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    blobs = rng.random((12, 12)) < draw(st.sampled_from([0.02, 0.1, 0.5, 0.95]))
    n = draw(st.integers(0, 3))
    centres = np.floor(rng.uniform(0, 1, (2 * n, 2)) * [width * s_x, height * s_y] * 2) / 2
    return scene_of(
        width,
        height,
        domains=draw(st.sampled_from([whole, half_domains(bounds, guard_px=draw(st.integers(0, 40)))])),
        frame=frame_of(draw(st.integers(16, 300)), draw(st.integers(16, 300)), sx=float(s_x), sy=float(s_y)),
        annotations=table_of(centres, roles=[Role.TARGET] * n + [Role.HARD_NEGATIVE] * n),
        tissue=TissueMask(mask=blobs, l0_per_mask_px=Scale(x=width * s_x / 12, y=height * s_y / 12)),
        options=replace(
            OPTIONS,
            shares=draw(st.sampled_from([(0.1, 0.4, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)])),
            jitter_fraction=draw(st.sampled_from([0.0, 0.1, 0.5])),
            min_margin_px=draw(st.integers(0, 7)),
            min_tissue_fraction=draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])),
        ),
    )


@given(scene=scenes())
def test_anchor_coverage_is_what_all_origins_of_all_anchors_touch(scene: CoverageScene) -> None:
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.ANCHORS, scene=scene)
    assert np.array_equal(found, brute_anchors(scene))


@settings(max_examples=60)
@given(scene=scenes())
def test_tissue_coverage_is_what_all_origins_on_tissue_and_around_anchors_touch(scene: CoverageScene) -> None:
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene)
    assert np.array_equal(found, brute_tissue(scene) | brute_anchors(scene))


@given(scene=scenes(), data=st.data())
def test_planned_patches_are_in_every_coverage(scene: CoverageScene, data: st.DataObject) -> None:
    last_x = max(0, scene.width_out_px - scene.frame.patch_w_out_px)
    last_y = max(0, scene.height_out_px - scene.frame.patch_h_out_px)
    origins = data.draw(st.lists(st.tuples(st.integers(0, last_x), st.integers(0, last_y)), max_size=4))
    if last_x == 0 or last_y == 0:
        origins = []
    planned = np.array(origins, dtype=np.int64).reshape(-1, 2)
    found = [needed_chunks(planned, coverage=coverage, scene=scene) for coverage in Coverage]
    without = [needed_chunks(NONE_PLANNED, coverage=coverage, scene=scene) for coverage in Coverage]
    expected = chunks_of(origins, scene=scene)
    assert not without[0].any()
    for with_planned, others in zip(found, without, strict=True):
        assert np.array_equal(with_planned, expected | others)


@pytest.mark.parametrize(
    ("origin", "columns", "rows"),
    [
        pytest.param((0, 0), [0, 1], [0, 1], id="flush with chunks"),
        pytest.param((1, 128), [0, 1, 2], [1, 2], id="one pixel further"),
        pytest.param((127, 0), [0, 1, 2], [0, 1], id="last pixel of a chunk"),
        pytest.param((744, 644), [5, 6, 7], [5, 6, 7], id="at the corner, in chunks that reach beyond the image"),
    ],
)
def test_a_patch_needs_the_chunks_it_touches(origin: tuple[int, int], columns: list[int], rows: list[int]) -> None:
    found = needed_chunks(np.array([origin]), coverage=Coverage.PLANNED, scene=scene_of(1000, 900))
    assert found.shape == (8, 8)
    assert np.argwhere(found).tolist() == [[row, column] for row in rows for column in columns]


@pytest.mark.parametrize(
    ("centre", "first", "last"),
    [
        pytest.param(1022, 5, 9, id="windows from 767 to 1278"),
        pytest.param(1023, 6, 9, id="windows from 768 to 1279"),
        pytest.param(1024, 6, 9, id="windows from 769 to 1280"),
        pytest.param(1025, 6, 10, id="windows from 770 to 1281"),
    ],
)
def test_an_anchor_needs_all_its_windows(centre: int, first: int, last: int) -> None:
    scene = scene_of(3000, 3000, annotations=table_of([(centre, centre)], roles=[Role.TARGET]))
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.ANCHORS, scene=scene)
    span = range(first, last + 1)
    assert np.argwhere(found).tolist() == [[row, column] for row in span for column in span]


def test_kinds_without_a_share_have_no_anchors() -> None:
    annotations = table_of([(300, 300)], roles=[Role.HARD_NEGATIVE])
    for shares, is_needed in (((0.5, 0.0, 0.5), False), ((0.0, 1.0, 0.0), True)):
        scene = scene_of(3000, 3000, annotations=annotations, options=replace(OPTIONS, shares=shares))
        found = needed_chunks(NONE_PLANNED, coverage=Coverage.ANCHORS, scene=scene)
        assert found.any() == is_needed


@pytest.mark.parametrize("origin", [(128, 256), (129, 257), (127, 255), (333, 402), (742, 641), (0, 5)])
def test_a_single_admissible_origin_is_found_and_nothing_else(origin: tuple[int, int]) -> None:
    """Tissue of a patch's size and shape, of which a patch must hold all."""
    mask = np.zeros((900, 1000), dtype=np.bool_)
    mask[origin[1] : origin[1] + 128, origin[0] : origin[0] + 128] = True
    scene = scene_of(
        1000,
        900,
        frame=frame_of(128, 128),
        tissue=mask_of(mask, l0_per_px=1.0),
        options=replace(OPTIONS, min_tissue_fraction=1.0),
    )
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene)
    assert np.array_equal(found, chunks_of([origin], scene=scene))


def test_between_the_halves_nothing_is_needed() -> None:
    scene = scene_of(
        1500,
        2048,
        domains=half_domains(rect(1500, 2048), guard_px=128),
        annotations=scattered(50, 50, width=1500, height=2048),
    )
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene)
    assert found.all(axis=1).tolist() == [True] * 7 + [False] * 2 + [True] * 7
    assert not found[7:9].any()


def test_glass_needs_nothing() -> None:
    glass = mask_of(np.zeros((100, 100), dtype=np.bool_))
    assert not needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene_of(1600, 1600, tissue=glass)).any()
    without_mask = mask_of(np.zeros((0, 0), dtype=np.bool_))
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene_of(1600, 1600, tissue=without_mask))
    assert not found.any()


def test_nothing_is_left_out_where_all_tissue_is_close_to_the_threshold() -> None:
    """Tissue full of fine holes: the search ends early there."""
    rng = np.random.default_rng(5)
    tissue = mask_of(rng.random((375, 375)) < 0.9)
    options = replace(OPTIONS, min_tissue_fraction=0.92)
    scene = scene_of(6000, 6000, tissue=tissue, options=options)
    found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene)
    rule = TissueRule(
        frame=scene.frame, tissue=tissue, min_tissue_fraction=0.92, unwanted_l0=np.empty((0, 2), dtype=np.float64)
    )
    tried: IntArray = rng.integers(0, 6000 - 256 + 1, (400_000, 2))
    admissible = tried[has_tissue(tried, rule=rule)]
    assert 1000 < len(admissible) < 200_000
    corners = (0, 255)
    for dx in (*corners, 127):
        for dy in (*corners, 127):
            assert found[(admissible[:, 1] + dy) // 128, (admissible[:, 0] + dx) // 128].all()


def test_the_largest_slides_need_little_memory() -> None:
    """100,000 px square, 10,000 anchors: the answer alone is 782 x 782 chunks."""
    rng = np.random.default_rng(1)
    blobs = np.kron(rng.random((40, 40)) < 0.4, np.ones((50, 50), dtype=np.bool_)).astype(np.bool_)
    scene = scene_of(
        100_000,
        100_000,
        annotations=scattered(5000, 5000, width=100_000, height=100_000),
        tissue=mask_of(blobs, l0_per_px=50.0),
    )
    tracemalloc.start()
    try:
        found = needed_chunks(NONE_PLANNED, coverage=Coverage.TISSUE, scene=scene)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (782, 782)
    assert 0.4 < found.mean() < 0.9
    assert peak_bytes < 200e6


@pytest.mark.parametrize("scale", [(2.001, 1.0), (1.0, 0.5)])
def test_broken_scales_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"whole number of level-0 px per output px, got {scale[0]} x {scale[1]}"):
        scene_of(1000, 1000, frame=frame_of(sx=scale[0], sy=scale[1]))


@pytest.mark.parametrize("domain", [rect(1001, 900), rect(1000, 901), rect(900, 900, x0=-1)])
def test_domains_beyond_the_image_are_refused(domain: Rect) -> None:
    with pytest.raises(ValueError, match="domains must lie in the stored image of 1000 x 900 output px"):
        scene_of(1000, 900, domains=((Split.VAL, domain),))


@pytest.mark.parametrize("origin", [(745, 0), (0, 645), (-1, 0)])
def test_planned_patches_beyond_the_image_are_refused(origin: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got one at x {origin[0]}, y {origin[1]}"):
        needed_chunks(np.array([(0, 0), origin]), coverage=Coverage.PLANNED, scene=scene_of(1000, 900))
