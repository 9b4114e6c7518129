"""The environment of a job of several nodes: understood, or refused with what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.cluster.node_group import HOME, NodeGroup, node_group, rank_of, worker_name
from wsi_extract.errors import ConfigError

TWO = {"WSI_EXTRACT_NODES": "2", "MASTER_ADDR": "10.0.0.4", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="no-job"),
        pytest.param({"MASTER_ADDR": "10.0.0.4", "NODE_RANK": "1", "WORLD_SIZE": "2"}, id="not-asked-for"),
        pytest.param({**TWO, "WSI_EXTRACT_NODES": "1"}, id="one-node"),
        pytest.param({**TWO, "WSI_EXTRACT_NODES": ""}, id="empty"),
    ],
)
def test_one_node_is_no_group(environ: dict[str, str]) -> None:
    assert node_group(environ) is None


@pytest.mark.parametrize(
    ("changes", "rank"),
    [
        pytest.param({}, 1, id="node-rank"),
        pytest.param({"RANK": "0"}, 1, id="node-rank-before-rank"),
        pytest.param({"NODE_RANK": "", "RANK": "0"}, 0, id="rank"),
    ],
)
def test_the_rank_is_that_of_the_node(changes: dict[str, str], rank: int) -> None:
    assert node_group({**TWO, **changes}) == NodeGroup(n_nodes=2, rank=rank, master_host="10.0.0.4", port=8786)


@pytest.mark.parametrize("address", ["fd00::4", "[fd00::4]"])
def test_addresses_of_ipv6_may_stand_in_brackets(address: str) -> None:
    group = node_group({**TWO, "MASTER_ADDR": address})
    assert group is not None
    assert group.master_host == "fd00::4"


def test_port_and_patience_can_be_set() -> None:
    patience = {"WSI_EXTRACT_JOIN_TIMEOUT_S": "5", "WSI_EXTRACT_START_TIMEOUT_S": "0"}
    group = node_group({**TWO, "WSI_EXTRACT_SCHEDULER_PORT": "1234", **patience})
    assert group is not None
    assert (group.port, group.join_timeout_s, group.start_timeout_s) == (1234, 5, 0)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        pytest.param({"WSI_EXTRACT_NODES": "two"}, "WSI_EXTRACT_NODES", id="no-number"),
        pytest.param({"WSI_EXTRACT_NODES": "0"}, "WSI_EXTRACT_NODES", id="no-node"),
        pytest.param({"WSI_EXTRACT_NODES": "-3"}, "WSI_EXTRACT_NODES", id="negative"),
        pytest.param({"WSI_EXTRACT_NODES": "\u0662"}, "WSI_EXTRACT_NODES", id="digits-of-another-script"),
        pytest.param({"MASTER_ADDR": " "}, "MASTER_ADDR", id="no-master"),
        pytest.param({"NODE_RANK": ""}, "NODE_RANK nor RANK", id="no-rank"),
        pytest.param({"NODE_RANK": "2"}, "NODE_RANK", id="rank-of-another-job"),
        pytest.param({"NODE_RANK": "1.0"}, "NODE_RANK", id="rank-no-whole-number"),
        pytest.param({"WSI_EXTRACT_SCHEDULER_PORT": "65536"}, "WSI_EXTRACT_SCHEDULER_PORT", id="no-port"),
        pytest.param({"WSI_EXTRACT_JOIN_TIMEOUT_S": "0"}, "WSI_EXTRACT_JOIN_TIMEOUT_S", id="no-patience"),
    ],
)
def test_nonsense_is_refused_by_name(changes: dict[str, str], culprit: str) -> None:
    with pytest.raises(ConfigError, match=culprit):
        node_group({**TWO, **changes})


@given(rank=st.integers(0, 99_999), index=st.integers(0, 9_999))
def test_the_name_of_a_worker_tells_its_node(rank: int, index: int) -> None:
    assert rank_of(worker_name(rank, index)) == rank


@pytest.mark.parametrize("name", [0, "0", "node-1", "node-x-1", "tcp://10.0.0.4:1234", "node-1-1-1", None])
def test_any_other_worker_is_at_home(name: object) -> None:
    assert rank_of(name) == HOME
