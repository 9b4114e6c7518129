from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cost_fit import fit_cost
from benchmarks.cost_model import Bench, Kind, large_kinds, measure_points, small_kinds
from benchmarks.cost_report import Point, describe
from benchmarks.jobs import GRID, Job, JobCost, cores_for, run_job
from benchmarks.processes import FailedCommandError, Look, ProcessCost
from benchmarks.scaling import (
    Overhead,
    block_seconds,
    check_same_work,
    compare_workers,
    measure_overhead,
    overhead_table,
    speed_up,
    workers_table,
)
from benchmarks.scaling import describe as describe_scaling
from wsi_extract.errors import InputError
from wsi_extract.synthetic import write_demo


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    demo = write_demo(tmp_path_factory.mktemp("demo"), n_slides=1, width_px=1600, height_px=1200)
    return Job(name="PNG", slides=demo.slides_folder, annotations=demo.coco_path, settings=(*GRID, "--overlap", "0"))


def cost_of(
    *,
    n_workers: int,
    working_s: float,
    n_patches: int = 1000,
    n_slides: int = 1,
    mpx: float = 100.0,
    driver_bytes: int = 200_000_000,
) -> JobCost:
    looks = tuple(Look(at_s=100.0 + i, cpu_s={7: 0.9 * i * max(1, n_workers)}) for i in range(int(working_s) + 3))
    process = ProcessCost(
        started_s=100.0,
        wall_s=working_s + 2.0,
        cpu_s=working_s,
        driver_cpu_s=0.5,
        driver_peak_bytes=driver_bytes,
        worker_peak_bytes=300_000_000,
        looks=looks,
    )
    return JobCost(
        process=process,
        n_patches=n_patches,
        n_slides=n_slides,
        n_blocks=4,
        mpx_touched=mpx,
        pixel_bytes=137_000 * n_patches,
        started_s=1.0,
        first_block_s=1.5,
        working_s=working_s,
        finishing_s=1.0,
        n_workers=n_workers,
    )


def test_jobs_are_run_and_their_phases_read_off(job: Job, tmp_path: Path) -> None:
    costs = compare_workers([job], scratch=tmp_path, tile_px=240, n_rounds=1, seed=0)
    assert list(costs) == [("PNG", 0)]
    (cost,) = costs["PNG", 0]
    assert cost.n_slides == 1
    assert 5 < cost.n_patches <= 7 * 5
    assert cost.n_blocks >= 1
    # Patches of a grid of 256 px touch tiles of 240 px that hold at least their own pixels, at most the slide's.
    assert cost.n_patches * 0.256**2 <= cost.mpx_touched <= 7 * 5 * 0.24**2
    assert cost.pixel_bytes > 10_000 * cost.n_patches
    assert cost.started_s + cost.working_s + cost.finishing_s == pytest.approx(cost.process.wall_s, abs=0.05)
    assert cost.started_s < cost.first_block_s <= cost.started_s + cost.working_s + 1e-6
    assert 0 < cost.cores_used < 2
    assert not (tmp_path / "out").exists()


def test_a_job_that_fails_is_no_measurement(job: Job, tmp_path: Path) -> None:
    wrong = Job(name="x", slides=job.slides, annotations=job.annotations, settings=("--patch_size", "0"))
    with pytest.raises(FailedCommandError, match="patch_size"):
        run_job(wrong, scratch=tmp_path, tile_px=240)


def test_more_cores_than_there_are_cannot_be_measured() -> None:
    with pytest.raises(RuntimeError, match="cores are needed"):
        cores_for(10_000)


def test_costs_are_compared_with_one_worker() -> None:
    costs = {
        ("PNG", 1): [cost_of(n_workers=1, working_s=20.0), cost_of(n_workers=1, working_s=22.0)],
        ("PNG", 2): [cost_of(n_workers=2, working_s=10.0), cost_of(n_workers=2, working_s=11.5)],
    }
    assert speed_up(costs, "PNG", n_workers=2, against=1) == pytest.approx((2.0 + 22 / 11.5) / 2)
    assert block_seconds(costs) == {"PNG": pytest.approx(5.25)}
    rows = workers_table(costs).rows
    assert [row[0] for row in rows] == ["PNG, 1", "PNG, 2"]
    assert rows[1][7] == "90 %"
    overhead = Overhead(n_workers=2, wall_s=0.00525, driver_cpu_s=0.004)
    assert overhead_table([overhead], block_s=block_seconds(costs)).rows == (("2", "5.25", "4.00", "0.20 %"),)
    result = describe_scaling(costs, [overhead], conditions=["Here."])
    assert "PNG, 2" in result.figures
    assert "busy" in result.to_markdown()


def test_jobs_that_do_other_work_are_not_compared() -> None:
    same = [cost_of(n_workers=1, working_s=1.0)]
    check_same_work({("a", 1): same, ("a", 2): same, ("b", 1): [cost_of(n_workers=1, working_s=1.0, n_patches=7)]})
    other = [cost_of(n_workers=2, working_s=1.0, n_patches=999)]
    with pytest.raises(RuntimeError, match=r"different numbers of patches: \[999, 1000\]"):
        check_same_work({("a", 1): same, ("a", 2): other})


def test_empty_tasks_go_through_the_programs_executor() -> None:
    overhead = measure_overhead(n_workers=1, n_tasks=20)
    assert overhead.driver_cpu_s > 0
    assert 0 < overhead.wall_s < 20


def points() -> list[Point]:
    found = []
    sizes = (
        (10, 1920.0, 1000, 500.0),
        (10, 480.0, 1000, 450.0),
        (1, 192.0, 2000, 130.0),
        (1, 192.0, 8000, 130.0),
        (3, 576.0, 24_000, 390.0),
    )
    for store, per_patch_s in (("png", 0.001), ("zarr", 0.0005)):
        for slides, slide_mpx, patches, mpx in sizes:
            cost = cost_of(
                n_workers=2,
                working_s=(0.5 * slides + 0.002 * slide_mpx + per_patch_s * patches + 0.004 * mpx) / 2,
                n_patches=patches,
                n_slides=slides,
                mpx=mpx,
                driver_bytes=200_000_000 + 100 * patches,
            )
            slide_bytes = int(240e3 * slide_mpx)
            found.append(
                Point(name=f"{patches}", store=store, slide_mpx=slide_mpx, slide_bytes=slide_bytes, costs=(cost,))
            )
    return found


def test_the_model_is_fitted_and_projected() -> None:
    result, plot = describe(points(), dispatch_s=0.005, n_cores=(16, 64), conditions=["Here."])
    assert fit_cost([point.measured for point in points()]).per_mpx_s == pytest.approx(0.004, rel=1e-3)
    text = result.to_markdown()
    assert "grows by 100 bytes per patch" in text
    assert "off by +0 %" in text or "off by -0 %" in text
    assert "183 billion pixels" in text
    assert "100 anchored per slide, zarr" in text
    assert plot.count("<circle") == 10


def test_a_disk_that_is_too_small_is_refused_at_once(tmp_path: Path) -> None:
    bench = Bench(slides=tmp_path, scratch=tmp_path, width_px=1600, height_px=1200, tile_px=240, n_workers=2)
    with pytest.raises(InputError, match="GB free"):
        measure_points(bench, largest=10**12, n_rounds=1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_jobs_differ_enough_to_tell_their_costs_apart() -> None:
    kinds = [*small_kinds(), *large_kinds(n_slides=12)]
    assert {kind.n_slides for kind in kinds} == {1, 3, 10, 12}
    assert {kind.is_small for kind in kinds} == {True, False}
    assert len({(kind.name, kind.store) for kind in kinds}) == len(kinds)
    assert [kind.n_slides for kind in large_kinds(n_slides=1)] == [2, 2]


def test_jobs_of_one_size_are_measured_in_rounds(tmp_path: Path) -> None:
    bench = Bench(slides=tmp_path, scratch=tmp_path, width_px=1000, height_px=800, tile_px=240, n_workers=0)
    kind = Kind(name="anchored", store="zarr", n_slides=2, settings=("--patches_per_slide", "20"))
    (point,) = bench.measure([kind], n_rounds=1, seed=0)
    assert point.n_patches == 40
    assert point.measured.work.slide_mpx == pytest.approx(1.6)
    assert point.slide_bytes > 10_000
    assert point.measured.wall_s == pytest.approx(point.costs[0].process.wall_s, abs=0.05)
