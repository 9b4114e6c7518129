"""A node that works for another one: it may come early, late, in vain or in the wrong version, and always ends well."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import Client, get_worker

import wsi_extract
from tests.cluster.helpers_two_nodes import MEMORY_BYTES, first_node, start_follower, two_nodes
from tests.helpers_cluster import make_tls
from tests.helpers_nodes import ROOT, Node, free_port
from wsi_extract.cluster.node_follower import DOUBLE, _describe_failed
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


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """The node of rank 0: this process."""

    client: Client
    port: int


@pytest.fixture(scope="module")
def first() -> Iterator[First]:
    port = free_port()
    with first_node(port=port) as client:
        yield First(client=client, port=port)


def wait_until_alone(client: Client) -> None:
    until_s = time.monotonic() + 60
    while len(client.scheduler_info()["workers"]) > 1:
        assert time.monotonic() < until_s, "workers of another node are still there"
        time.sleep(0.05)


def test_a_node_that_comes_late_takes_its_share_and_leaves_no_process_when_told_to_stop(
    first: First, tmp_path: Path
) -> None:
    ranks: list[object] = []

    def tasks() -> Iterator[Task]:
        until_s = time.monotonic() + 120
        for index in itertools.count():
            if ranks.count(1) >= 5:
                return
            assert time.monotonic() < until_s, "it never came"
            yield task_of(index)

    said: list[str] = []
    with dask_executor(
        first.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True, say=said.append
    ) as executor:
        ranks.extend(result.value for result in executor.run(task_of(index) for index in range(5)))
        assert ranks == [HOME] * 5
        follower = start_follower(tmp_path, port=first.port)
        try:
            for result in executor.run(tasks()):
                ranks.append(result.value)
            assert executor.n_workers == 2
            os.kill(follower.process.pid, signal.SIGTERM)
            assert follower.wait() == 0
        finally:
            follower.kill()
    assert said == ["node 1 works with 1 workers"]
    assert follower.log.splitlines()[-2:] == [
        "node 1 of 2: told to stop; the run goes on without this node",
        "node 1 of 2: done",
    ]
    wait_until_alone(first.client)


def test_nodes_prove_who_they_are(tmp_path: Path) -> None:
    tls = make_tls(tmp_path / "tls")
    (tmp_path / "stranger").mkdir()
    with (
        two_nodes(tmp_path, n_workers=1, tls=tls) as both,
        dask_executor(both.client, worker_memory_bytes=MEMORY_BYTES, report_path=None, has_nodes=True) as executor,
    ):
        assert str(both.client.scheduler_info()["address"]).startswith("tls://")
        stranger = start_follower(tmp_path / "stranger", port=both.port)
        try:
            assert {result.value for result in executor.run(map(task_of, range(20)))} == {HOME, 1}
            stranger.wait_for("does not answer")
            assert len(both.client.scheduler_info()["workers"]) == 2
        finally:
            stranger.kill()
    assert "joined" not in stranger.log
    assert both.follower.log.splitlines()[-2:] == ["node 1 of 2: the run has ended", "node 1 of 2: done"]


def test_who_does_not_fit_is_not_let_in_and_who_does_not_come_is_not_waited_for(first: First, tmp_path: Path) -> None:
    group = NodeGroup(n_nodes=3, rank=HOME, master_host="127.0.0.1", port=first.port, start_timeout_s=1)
    said: list[str] = []
    follower = start_follower(tmp_path, port=first.port, version="0.0.1")
    assert follower.wait() == 0
    reason = f"wsi_extract 0.0.1 on node 1, {wsi_extract.__version__} on node 0"
    assert f"not fit for this run: {reason}" in follower.log
    assert len(first.client.scheduler_info()["workers"]) == 1
    wait_for_nodes(first.client, group, say=said.append)
    assert said == [
        f"node 1 is not fit for this run and takes no part: {reason}",
        "waits up to 1 s for the other 2 nodes, so that each fetches its share",
        "begins without 1 of 3 nodes (2); they may still join",
    ]
    assert not call_roll(first.client).refusals, "they are told once"


def test_a_node_that_comes_after_the_end_ends_well(tmp_path: Path) -> None:
    follower = start_follower(tmp_path, port=free_port(), join_timeout_s=1)
    assert follower.wait() == 0
    assert follower.log.splitlines()[1:] == [
        "node 1 of 2: there was no scheduler for 1 s: nothing to do",
        "node 1 of 2: done",
    ]


def test_a_second_process_of_a_node_says_the_same_however_often_it_is_turned_away() -> None:
    answers = [
        ValueError(f"Unexpected response from register: {{'message': 'name taken, node-1-0', 'time': {time_s}}}")
        for time_s in (1795311490.68, 1795311497.98)
    ]
    assert {_describe_failed([answer]) for answer in answers} == {DOUBLE}


def test_a_port_that_is_taken_is_told(first: First) -> None:
    with pytest.raises(EnvironmentFaultError, match=f"port {first.port}"), first_node(port=first.port):
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
        assert follower.wait() == 0
    finally:
        first.kill()
        follower.kill()
    assert len(follower.log.splitlines()) == 4, follower.log
    assert not [line for line in follower.log.splitlines() if not line.startswith("node 1 of 2: ")]
