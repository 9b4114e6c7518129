"""The whole program on two nodes: the same command on each, one data set, two good ends."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.conftest import LongRun
from tests.helpers_nodes import Job, Node
from tests.helpers_run import Inputs, content_of, make_config, make_inputs
from wsi_extract.console.reporters import SilentReporter
from wsi_extract.errors import ConfigError
from wsi_extract.executors import follow_if_follower, open_executor

pytestmark = pytest.mark.xdist_group("several_nodes")
STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ node 1 of 2: ")
FIRST_ADDRESS, SECOND_ADDRESS = "10.213.77.1", "10.213.77.2"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=1)


def job_in(folder: Path, long_run: LongRun, **environment: str) -> Job:
    return Job(
        folder=folder,
        inputs=long_run.inputs,
        settings={name: str(value) for name, value in long_run.settings.items()},
        environment=environment,
    )


def n_records(node: Node) -> int:
    return len(list((node.out / ".wsi_extract" / "records").rglob("*.json")))


def test_the_second_node_may_come_first(long_run: LongRun, tmp_path: Path) -> None:
    with job_in(tmp_path, long_run) as job:
        second = job.start(1)
        second.wait_for("waits for the scheduler")
        first = job.start(0)
        assert (first.wait(), second.wait()) == (0, 0), first.log + second.log
        assert content_of(first.out) == long_run.alone
        assert not second.out.exists()
        assert json.loads((first.out / "manifest.json").read_bytes())["run"]["n_workers"] == 2
        assert "node 1 works with 1 workers" in first.log
        assert "Traceback" not in first.log + second.log
        assert "distributed" not in first.log + second.log
        assert not list((tmp_path / "node-1-0" / "tmp").rglob("task-*"))
        assert all(STAMPED.match(line) for line in second.log.splitlines())
        assert "the run has ended" in second.log


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two networks of one line each, which can be cut; where the system lets us make them."""
    first, second = (f"wsi-{uuid4().hex[:8]}" for _ in range(2))
    lines = [
        f"ip netns add {first}",
        f"ip netns add {second}",
        f"ip link add line netns {first} type veth peer name line netns {second}",
        f"ip -n {first} addr add {FIRST_ADDRESS}/24 dev line",
        f"ip -n {second} addr add {SECOND_ADDRESS}/24 dev line",
        *(f"ip -n {each} link set {device} up" for each in (first, second) for device in ("lo", "line")),
    ]
    try:
        for line in lines:
            try:
                subprocess.run(line.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespaces here: {error}")
        yield first, second
    finally:
        for each in (first, second):
            subprocess.run(["ip", "netns", "del", each], check=False, capture_output=True)


def test_a_line_that_is_cut_costs_only_what_was_on_it(
    long_run: LongRun, tmp_path: Path, namespaces: tuple[str, str]
) -> None:
    first_net, second_net = namespaces
    environment = {
        "MASTER_ADDR": FIRST_ADDRESS,
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",  # no less does: a second for each of its probes
        "WSI_EXTRACT_JOIN_TIMEOUT_S": "3",
    }
    with job_in(tmp_path, long_run, **environment) as job:
        first = job.start(0, prefix=("ip", "netns", "exec", first_net))
        first.wait_for("waits up to 300 s for the other node")
        second = job.start(1, prefix=("ip", "netns", "exec", second_net))
        until_s = time.monotonic() + 60
        while n_records(first) < 8:
            assert time.monotonic() < until_s, first.log
            time.sleep(0.01)
        subprocess.run(["ip", "-n", second_net, "link", "set", "line", "down"], check=True)
        assert (first.wait(), second.wait()) == (0, 0), first.log + second.log
        assert content_of(first.out) == long_run.alone
        assert "node 1 has gone" in first.log
        assert "the node of rank 0 is out of reach" in second.log
        assert "Traceback" not in first.log + second.log


TWO = {"WSI_EXTRACT_NODES": "2", "MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"workers": 0}, "--workers 0 runs in one process", id="serial"),
        pytest.param({"scheduler": "tcp://127.0.0.1:1"}, "--scheduler tcp://127.0.0.1:1 is an existing", id="existing"),
    ],
)
def test_settings_that_say_otherwise_are_refused(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], message: str
) -> None:
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    config = make_config(inputs, tmp_path / "out", **settings)
    with pytest.raises(ConfigError, match=message), open_executor(config, announcer=SilentReporter()):
        pass


def test_the_first_node_and_the_only_one_do_not_follow(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(inputs, tmp_path / "out")
    assert follow_if_follower(config) is None
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert follow_if_follower(config) is None
