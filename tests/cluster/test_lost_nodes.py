"""Nodes that go in the middle of a run: it goes on, blames no slide, and ends with the same data set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it comes without
import pytest

from tests.cluster.helpers_two_nodes import MEMORY_BYTES, TwoNodes, two_nodes
from tests.helpers_run import Inputs, content_of, extract, make_inputs
from wsi_extract.cluster.schedule import dask_executor

pytestmark = pytest.mark.xdist_group("several_nodes")
SETTINGS: dict[str, Any] = {"patches_per_slide": 150, "patch_size": 64}
N_DONE = 12
"""Blocks that are done when it happens."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=10)


@pytest.fixture(scope="module")
def alone(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The data set that one process makes."""
    out = tmp_path_factory.mktemp("alone") / "out"
    extract(inputs, out, **SETTINGS)
    return content_of(out)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path, n_workers=2) as both:
        yield both


def run_with(nodes: TwoNodes, inputs: Inputs, out: Path, *, happens: Callable[[], None]) -> list[str]:
    """Run the job; let something happen in the middle; return what was said of nodes."""
    said: list[str] = []
    records = out / ".wsi_extract" / "records"

    def watch() -> None:
        while len(list(records.rglob("*.json"))) < N_DONE:
            time.sleep(0.01)
        happens()

    watching = threading.Thread(target=watch)
    with dask_executor(
        nodes.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True, say=said.append
    ) as executor:
        watching.start()
        extract(inputs, out, executor=executor, **SETTINGS)
        watching.join()
    return said


def test_a_node_that_loses_its_power_costs_nothing_but_itself(
    nodes: TwoNodes, inputs: Inputs, alone: dict[str, bytes], tmp_path: Path
) -> None:
    started_s = time.monotonic()
    said = run_with(nodes, inputs, tmp_path / "out", happens=nodes.follower.kill)
    assert said == ["node 1 works with 2 workers", "node 1 has gone"]
    assert content_of(tmp_path / "out") == alone
    assert time.monotonic() - started_s < 60


@pytest.mark.parametrize("name", [pytest.param("node-1-0", id="elsewhere"), pytest.param("node-0-0", id="at-home")])
def test_a_worker_that_dies_is_replaced(
    nodes: TwoNodes, inputs: Inputs, alone: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    pids = nodes.client.run(lambda dask_worker: (str(dask_worker.name), dask_worker.monitor.proc.pid))
    (victim,) = [pid for found, pid in pids.values() if found == name]
    said = run_with(nodes, inputs, tmp_path / "out", happens=psutil.Process(victim).kill)
    assert said == ["node 1 works with 2 workers"]
    assert content_of(tmp_path / "out") == alone
