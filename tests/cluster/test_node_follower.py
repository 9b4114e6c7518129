"""A node that works for another one: it may come early, late, in vain or in the wrong version, and always ends well."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import get_worker

import wsi_extract
from tests.cluster.helpers_two_nodes import MEMORY_BYTES, first_node, start_follower, two_nodes
from tests.helpers_cluster import make_tls
from tests.helpers_nodes import ROOT, Node, free_port
from wsi_extract.cluster.node_group import HOME, NodeGroup, rank_of
from wsi_extract.cluster.roll import call_roll, wait_for_nodes
from wsi_extract.cluster.schedule import dask_executor
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task

pytestmark = pytest.mark.xdist_group("several_nodes")

SCHEDULER = """
import sys, time
from pathlib import Path
from tests.cluster.helpers_two_nodes import first_node
if __name__ == "__main__":
    with first_node(port=int(sys.argv[1])):
        Path(sys.argv[2]).touch()
        time.sleep(600)
"""


def where(item: int, slides: SlideCache) -> int:
    time.sleep(0.02)
    return rank_of(get_worker().name)


def task_of(index: int) -> Task:
    return Task(stage="extract", slide_ordinal=index, slide_id=f"s{index}", index=0, function=where, item=index)


def test_a_node_that_comes_late_takes_its_share(tmp_path: Path) -> None:
    port = free_port()
    ranks: list[object] = []

    def tasks() -> Iterator[Task]:
        until_s = time.monotonic() + 60
        for index in itertools.count():
            if ranks.count(1) >= 5:
                return
            assert time.monotonic() < until_s, "it never came"
            yield task_of(index)

    said: list[str] = []
    with (
        first_node(port=port) as client,
        dask_executor(
            client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True, say=said.append
        ) as executor,
    ):
        follower = start_follower(tmp_path, port=port)
        ranks.extend(result.value for result in executor.run(task_of(index) for index in range(5)))
        assert ranks == [HOME] * 5
        for result in executor.run(tasks()):
            ranks.append(result.value)
        assert executor.n_workers == 2
    assert said == ["node 1 works with 1 workers"]
    assert follower.wait(30) == 0
    assert follower.log.splitlines()[-2:] == ["node 1 of 2: the run has ended", "node 1 of 2: done"]


def test_nodes_that_prove_who_they_are(tmp_path: Path) -> None:
    with (
        two_nodes(tmp_path, n_workers=1, tls=make_tls(tmp_path / "tls")) as both,
        dask_executor(both.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True) as executor,
    ):
        assert str(both.client.scheduler_info()["address"]).startswith("tls://")
        assert {result.value for result in executor.run(map(task_of, range(20)))} == {HOME, 1}


def test_a_node_without_the_certificate_stays_outside(tmp_path: Path) -> None:
    port = free_port()
    with first_node(port=port, tls=make_tls(tmp_path / "tls")) as client:
        follower = start_follower(tmp_path, port=port)
        follower.wait_for("does not answer")
        assert len(client.scheduler_info()["workers"]) == 1
        follower.kill()
    assert "joined" not in follower.log


def test_a_node_of_another_version_is_not_let_in_and_not_waited_for(tmp_path: Path) -> None:
    group = NodeGroup(n_nodes=2, rank=HOME, master_host="127.0.0.1", port=free_port(), start_timeout_s=300)
    said: list[str] = []
    with first_node(port=group.port) as client:
        follower = start_follower(tmp_path, port=group.port, version="0.0.1")
        started_s = time.monotonic()
        wait_for_nodes(client, group, say=said.append)
        assert time.monotonic() - started_s < 60
        assert follower.wait(30) == 0
        assert len(client.scheduler_info()["workers"]) == 1
        assert not call_roll(client).refusals, "they are told once"
    assert "not fit for this run: wsi_extract 0.0.1 on node 1" in follower.log
    reason = f"wsi_extract 0.0.1 on node 1, {wsi_extract.__version__} on node 0"
    assert said == [
        "waits up to 300 s for the other node, so that each fetches its share",
        f"node 1 is not fit for this run and takes no part: {reason}",
    ]


def test_a_node_that_comes_after_the_end_ends_well(tmp_path: Path) -> None:
    follower = start_follower(tmp_path, port=free_port(), join_timeout_s=1)
    assert follower.wait(30) == 0
    assert follower.log.splitlines()[1:] == [
        "node 1 of 2: there was no scheduler for 1 s: nothing to do",
        "node 1 of 2: done",
    ]


def test_a_port_that_is_taken_is_told() -> None:
    port = free_port()
    with (
        first_node(port=port),
        pytest.raises(EnvironmentFaultError, match=f"port {port}"),
        first_node(port=port),
    ):
        pass


def test_a_node_ends_when_the_first_one_dies(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SCHEDULER, str(port), str(tmp_path / "ready")], cwd=ROOT, text=True
    )
    first = Node(process=process, out=tmp_path, log_path=tmp_path / "none")
    follower = start_follower(tmp_path, port=port)
    try:
        follower.wait_for("joined the run")
        first.kill()
        started_s = time.monotonic()
        assert follower.wait(60) == 0
        assert time.monotonic() - started_s < 30
    finally:
        first.kill()
        follower.kill()
    assert len(follower.log.splitlines()) == 4, follower.log
    assert not [line for line in follower.log.splitlines() if not line.startswith("node 1 of 2: ")]


def test_a_node_that_is_told_to_stop_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    with first_node(port=port) as client:
        follower = start_follower(tmp_path, port=port)
        follower.wait_for("joined the run")
        os.kill(follower.process.pid, signal.SIGTERM)
        assert follower.wait(30) == 0
        assert follower.log.splitlines()[-2:] == [
            "node 1 of 2: told to stop; the run goes on without this node",
            "node 1 of 2: done",
        ]
        for _ in range(200):
            if len(client.scheduler_info()["workers"]) == 1:
                return
            time.sleep(0.05)
        raise AssertionError("its worker is still there")
