from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_fit import CostModel, MeasuredWork, Work, fit_cost, held_out_error, relative_errors, slope
from benchmarks.projection import CCMCT_SLIDES, ccmct_scenarios, project

WORKS = [
    Work(store=store, n_slides=slides, slide_mpx=slide_mpx, n_patches=patches, mpx=mpx, n_workers=2)
    for store in ("png", "zarr")
    for slides, slide_mpx, patches, mpx in (
        (10, 1920.0, 1000, 500.0),
        (10, 480.0, 1000, 450.0),
        (1, 192.0, 2000, 130.0),
        (1, 192.0, 8000, 131.0),
        (3, 576.0, 24_000, 393.0),
    )
]
MODEL = CostModel(
    start_s=2.0,
    start_per_slide_s=0.01,
    per_slide_s=0.3,
    per_slide_mpx_s=0.001,
    per_patch_s={"png": 0.0009, "zarr": 0.0004},
    per_mpx_s=0.004,
    finish_s=0.2,
    finish_per_patch_s=0.00001,
)


def measured_by(model: CostModel, work: Work) -> MeasuredWork:
    started_s, working_s, finishing_s = model.phases_s(work)
    return MeasuredWork(work=work, started_s=started_s, working_s=working_s, finishing_s=finishing_s)


@given(st.tuples(*[st.floats(0.001, 1)] * 6), st.floats(0.001, 1))
def test_a_model_is_found_again(numbers: tuple[float, ...], zarr: float) -> None:
    model = CostModel(
        start_s=numbers[0],
        start_per_slide_s=numbers[1] / 10,
        per_slide_s=numbers[2],
        per_slide_mpx_s=numbers[5] / 1000,
        per_patch_s={"png": numbers[3] / 1000, "zarr": zarr / 1000},
        per_mpx_s=numbers[4] / 100,
        finish_s=numbers[5],
        finish_per_patch_s=numbers[0] / 10_000,
    )
    found = fit_cost([measured_by(model, work) for work in WORKS])
    for work in WORKS:
        assert found.wall_s(work) == pytest.approx(model.wall_s(work), rel=1e-6)
    assert found.per_patch_s == pytest.approx(model.per_patch_s, rel=1e-3, abs=1e-9)


@given(st.lists(st.floats(0.5, 20), min_size=len(WORKS), max_size=len(WORKS)))
def test_no_cost_is_negative_whatever_was_measured(seconds: list[float]) -> None:
    measured = [
        MeasuredWork(work=work, started_s=s, working_s=2 * s, finishing_s=s / 2)
        for work, s in zip(WORKS, seconds, strict=True)
    ]
    values = asdict(fit_cost(measured))
    assert min(*values.pop("per_patch_s").values(), *values.values()) >= 0


def test_jobs_that_do_not_differ_tell_nothing() -> None:
    with pytest.raises(ValueError, match="vary them more"):
        fit_cost([measured_by(MODEL, WORKS[0])] * 8)


def test_the_largest_jobs_are_predicted_from_the_others() -> None:
    works = [
        *WORKS,
        *(
            Work(store=s, n_slides=12, slide_mpx=2304.0, n_patches=100_000, mpx=1500.0, n_workers=2)
            for s in ("png", "zarr")
        ),
    ]
    measured = [measured_by(MODEL, work) for work in works]
    assert held_out_error(measured) == pytest.approx(0, abs=1e-6)
    slower = [
        each
        if each.work.n_patches < 100_000
        else MeasuredWork(
            work=each.work, started_s=each.started_s, working_s=1.5 * each.working_s, finishing_s=each.finishing_s
        )
        for each in measured
    ]
    assert held_out_error(slower) < -0.25
    assert max(map(abs, relative_errors(MODEL, measured))) < 1e-9


def test_slope_ignores_an_outlier() -> None:
    assert slope([1, 2, 3, 4, 5], [10, 20, 30, 40, 999]) == pytest.approx(10)
    with pytest.raises(ValueError, match="two places"):
        slope([1, 1], [2, 3])


def test_more_cores_share_the_work_but_not_start_and_finish() -> None:
    dense = next(each for each in ccmct_scenarios(["png"], bytes_per_mpx=240e3) if "50 %" in each.name)
    assert dense.work.n_slides == CCMCT_SLIDES
    assert dense.work.n_patches == pytest.approx(4.6e6, rel=0.05)

    def wall_s(n_workers: int, *, dispatch_s_per_patch: float = 1e-6) -> float:
        found = project(
            MODEL,
            dense,
            n_workers=n_workers,
            patch_bytes={"png": 137e3},
            dispatch_s_per_patch=dispatch_s_per_patch,
        )
        return found.wall_s

    start_s, _, finish_s = MODEL.phases_s(dense.work)
    assert wall_s(64) - start_s - finish_s == pytest.approx((wall_s(16) - start_s - finish_s) / 4)
    assert wall_s(64, dispatch_s_per_patch=1.0) == pytest.approx(start_s + dense.work.n_patches + finish_s)


def test_scattered_patches_touch_more_than_they_hold() -> None:
    scattered = next(each for each in ccmct_scenarios(["zarr"], bytes_per_mpx=240e3) if "anchored" in each.name)
    assert scattered.work.n_patches == 3200
    assert scattered.work.slide_mpx == pytest.approx(44e9 / 240e3)
    assert 3200 * 0.256**2 < scattered.work.mpx < 3200 * 9 * 0.24**2
