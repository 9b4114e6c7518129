from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_fit import CostModel
from benchmarks.cost_report import model_table
from benchmarks.document import DOCUMENT
from benchmarks.node_costs import NODES, Assumed, Measured, Node, NodeCost, main, node_cost, read_measured
from benchmarks.projection import CCMCT_BYTES, CCMCT_SLIDES, Scenario, ccmct_scenarios
from wsi_extract.errors import InputError

MODEL = CostModel(
    start_s=2.0,
    start_per_slide_s=0.01,
    per_slide_s=0.3,
    per_slide_mpx_s=0.001,
    per_patch_s={"png": 0.0012, "zarr": 0.0004},
    per_mpx_s=0.004,
    finish_s=0.5,
    finish_per_patch_s=0.00001,
)
MEASURED = Measured(model=MODEL, patch_bytes={"png": 130e3, "zarr": 190e3}, bytes_per_mpx=234e3, dispatch_s=0.005)
ASSUMED = Assumed(download_mb_per_s=100, upload_mb_per_s=100, upload_files_per_s=50, usd_per_core_hour=0.05)


def scenario_of(name: str) -> Scenario:
    return next(each for each in ccmct_scenarios(["png", "zarr"], bytes_per_mpx=234e3) if each.name == name)


def section_of(model: CostModel) -> str:
    """Return the section as `benchmarks.cost_report` writes it, with rows for the sizes of patches."""
    parts = (
        "<!-- begin cost_model -->",
        model_table(model).to_markdown(),
        "| 32 slides of CCMCT | patches | GB | 16 cores |\n| --- | --: | --: | --: |",
        "| grid, 50 % overlap, png | 4,000,000 | 520.0 | 8 min |",
        "| grid, 50 % overlap, zarr | 4,000,000 | 760.0 | 4 min |",
        "* CCMCT: 32 slides of 188 billion pixels, as their 44 GB suggest.",
        "* One task costs the scheduler 5.5 ms, the least a block can take; respected above.",
        "<!-- end cost_model -->",
    )
    return "# Performance\n\n" + "\n\n".join(parts) + "\n"


@given(
    st.tuples(*[st.floats(0.01, 10)] * 2),
    st.tuples(*[st.floats(0.0001, 0.1)] * 3),
    st.floats(1e-6, 1e-4),
    st.floats(0.001, 0.1),
)
def test_the_published_table_gives_the_model_back(
    once: tuple[float, float], per: tuple[float, float, float], finish: float, mpx: float
) -> None:
    model = CostModel(
        start_s=once[0],
        start_per_slide_s=per[0],
        per_slide_s=per[1],
        per_slide_mpx_s=per[2] / 10,
        per_patch_s={"png": mpx, "zarr": mpx / 3},
        per_mpx_s=mpx,
        finish_s=once[1],
        finish_per_patch_s=finish,
    )
    found = read_measured(section_of(model)).model
    assert found.start_s == pytest.approx(model.start_s, abs=0.0051)
    assert found.start_per_slide_s == pytest.approx(model.start_per_slide_s, abs=51e-6)
    assert found.per_slide_s == pytest.approx(model.per_slide_s, abs=51e-6)
    assert found.per_slide_mpx_s == pytest.approx(model.per_slide_mpx_s, abs=0.51e-6)
    assert found.per_patch_s == pytest.approx(model.per_patch_s, abs=0.51e-6)
    assert found.per_mpx_s == pytest.approx(model.per_mpx_s, abs=5.1e-6)
    assert found.finish_s == pytest.approx(model.finish_s, abs=0.0051)
    assert found.finish_per_patch_s == pytest.approx(model.finish_per_patch_s, abs=0.051e-6)


def test_sizes_are_read_off_the_projection() -> None:
    measured = read_measured(section_of(MODEL))
    assert measured.patch_bytes == pytest.approx({"png": 130e3, "zarr": 190e3})
    assert measured.bytes_per_mpx == pytest.approx(CCMCT_BYTES / 188e3)
    assert measured.dispatch_s == pytest.approx(0.0055)


@pytest.mark.parametrize("missing", ["survey of a slide", "patch, zarr", "billion pixels", "grid, 50 % overlap, png"])
def test_a_document_without_a_figure_is_refused(missing: str) -> None:
    with pytest.raises(InputError, match="does not state"):
        read_measured(section_of(MODEL).replace(missing, "gone"))


def test_the_document_of_this_checkout_states_the_model() -> None:
    measured = read_measured(DOCUMENT.read_text())
    assert 0 < measured.model.per_patch_s["zarr"] < measured.model.per_patch_s["png"] < 0.1
    assert 50e3 < measured.patch_bytes["png"] < measured.patch_bytes["zarr"] < 250e3


def test_the_phases_of_the_default_job_are_what_was_said() -> None:
    cost = node_cost(scenario_of("100 anchored per slide, png"), NODES[2], measured=MEASURED, assumed=ASSUMED)
    assert cost.download_s == pytest.approx(440.0)
    assert cost.upload_s == pytest.approx(3200 / 50)  # files, because 3,200 small ones take longer than their 0.4 GB
    assert cost.start_s == pytest.approx(2.0 + 32 * 0.01 + 0.5 + 3200 * 0.00001)
    assert cost.wall_s == pytest.approx(cost.start_s + cost.download_s + cost.working_s + cost.upload_s)
    assert cost.limit == "download"


def test_more_cores_shorten_the_work_alone_until_the_disk_decides() -> None:
    dense = scenario_of("grid, 50 % overlap, zarr")
    fast = replace(NODES[0], disk_mb_per_s=10**9)
    four, eight = (
        node_cost(dense, replace(fast, n_cores=n), measured=replace(MEASURED, dispatch_s=0.0), assumed=ASSUMED)
        for n in (4, 8)
    )
    assert four.working_s == pytest.approx(2 * eight.working_s)
    assert (four.start_s, four.download_s, four.upload_s) == (eight.start_s, eight.download_s, eight.upload_s)
    slow = node_cost(dense, replace(fast, n_cores=64, disk_mb_per_s=100), measured=MEASURED, assumed=ASSUMED)
    assert slow.is_disk_bound
    assert slow.working_s == pytest.approx(190e3 * dense.work.n_patches / 100e6)


def test_the_scheduler_can_be_the_limit() -> None:
    dense = scenario_of("grid, 50 % overlap, png")
    node = Node(name="huge", n_cores=10_000, disk_gib=10**6, disk_mb_per_s=10**9)
    cost = node_cost(dense, node, measured=MEASURED, assumed=ASSUMED)
    assert cost.working_s == pytest.approx(0.005 * dense.work.n_patches / 512)
    assert not cost.is_disk_bound


def test_a_slow_disk_slows_the_download() -> None:
    node = replace(NODES[0], disk_mb_per_s=50)
    cost = node_cost(scenario_of("100 anchored per slide, png"), node, measured=MEASURED, assumed=ASSUMED)
    assert cost.download_s == pytest.approx(880.0)


def test_slides_and_output_must_fit_together() -> None:
    cost = NodeCost(
        start_s=1.0, download_s=1.0, working_s=1.0, upload_s=1.0, is_disk_bound=False, disk_bytes=150 * 2**30
    )
    assert cost.fits(NODES[0])
    assert not replace(cost, disk_bytes=150 * 2**30 + 1).fits(NODES[0])


@pytest.mark.parametrize("field", ["download_mb_per_s", "upload_mb_per_s", "upload_files_per_s"])
def test_a_rate_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InputError, match="above 0"):
        replace(ASSUMED, **{field: 0.0})


def test_command_fills_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, document = tmp_path / "performance.md", tmp_path / "azure.md"
    model.write_text(section_of(MODEL))
    document.write_text("# Azure\n\n<!-- begin node_costs -->\n<!-- end node_costs -->\n\nThe end.\n")
    arguments = ["--model", str(model), "--document", str(document), "--usd-per-core-hour"]
    assert main([*arguments, "0.1"]) == 0
    once = document.read_text()
    assert capsys.readouterr().out.strip() in once
    assert once.startswith("# Azure\n\n<!-- begin node_costs -->\n\n32 slides, 44 GB (1.4 GB each).")
    assert once.endswith("<!-- end node_costs -->\n\nThe end.\n")
    assert once.count("| 100 patches per slide, PNG (default) |") == len(NODES)
    assert main([*arguments, "0.1"]) == 0
    assert document.read_text() == once
    assert main([*arguments, "0.2"]) == 0
    assert document.read_text() != once


def test_seconds_per_slide_are_those_of_all_slides() -> None:
    cost = node_cost(scenario_of("100 anchored per slide, png"), NODES[0], measured=MEASURED, assumed=ASSUMED)
    assert CCMCT_SLIDES == 32
    assert cost.wall_s / CCMCT_SLIDES == pytest.approx((cost.start_s + cost.working_s + 440 + 64) / 32)
