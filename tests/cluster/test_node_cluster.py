"""The cluster of several nodes: where it listens, what its nodes must have alike, who is there."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from tests.cluster.helpers_two_nodes import first_node, start_follower
from tests.helpers_nodes import free_port
from wsi_extract.cluster.node_cluster import listening_host, software
from wsi_extract.cluster.node_group import HOME, NodeGroup
from wsi_extract.cluster.roll import call_roll, wait_for_nodes

pytestmark = pytest.mark.xdist_group("several_nodes")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_it_listens_where_the_others_look_for_it(address: str) -> None:
    assert listening_host(address) == address


def test_a_name_for_this_machine_alone_is_no_address_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian gives a machine's own name the address 127.0.1.1."""

    def resolve(host: str, port: int | None, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert listening_host("head-node") is None
    assert listening_host("localhost") == "127.0.1.1"


def test_an_address_of_another_machine_is_none_to_listen_at() -> None:
    assert listening_host("192.0.2.1") is None  # of a block that is kept for documents


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a first node that has two workers and is alone."""
    with first_node(port=free_port(), n_workers=2) as both:
        yield both


def test_only_the_loopback_device_is_open_on_the_loopback_device(client: Client) -> None:
    addresses = [client.scheduler_info()["address"], *client.scheduler_info()["workers"]]
    assert {address.rpartition(":")[0] for address in addresses} == {"tcp://127.0.0.1"}


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 1)) == errno.ECONNREFUSED


@pytest.mark.skipif(not has_ipv6(), reason="the kernel has no IPv6 here")
def test_its_address_may_be_of_ipv6(tmp_path: Path) -> None:
    port = free_port()
    follower = start_follower(tmp_path, port=port, host="::1")
    try:
        with first_node(port=port, host="::1") as client:
            client.wait_for_workers(2, timeout=120)
            addresses = [client.scheduler_info()["address"], *client.scheduler_info()["workers"]]
            assert {address.rpartition(":")[0] for address in addresses} == {"tcp://[::1]"}
        assert follower.wait() == 0
    finally:
        follower.kill()


def test_nodes_that_are_there_are_not_waited_for(client: Client) -> None:
    said: list[str] = []
    wait_for_nodes(client, NodeGroup(n_nodes=1, rank=HOME, master_host="127.0.0.1"), say=said.append)
    assert said == []


def test_nodes_that_are_missing_are_waited_for_and_named(client: Client) -> None:
    said: list[str] = []
    group = NodeGroup(n_nodes=3, rank=HOME, master_host="127.0.0.1", start_timeout_s=1)
    wait_for_nodes(client, group, say=said.append)
    assert said == [
        "waits up to 1 s for the other 2 nodes, so that each fetches its share",
        "begins without 2 of 3 nodes (1, 2); they may still join",
    ]


def test_the_roll_knows_the_workers_of_a_node_and_when_they_were_heard_of(client: Client) -> None:
    roll = call_roll(client)
    assert {node: len(addresses) for node, addresses in roll.addresses.items()} == {HOME: 2}
    names = {worker["name"] for worker in client.scheduler_info()["workers"].values()}
    assert names == {"node-0-0", "node-0-1"}
    assert roll.loss_s > 10
    check_silence(client)


def check_silence(client: Client) -> None:
    """A worker that stops to be heard of does not count as alive."""
    first = call_roll(client)

    def forget(dask_scheduler: object) -> None:
        for worker in dask_scheduler.workers.values():  # type: ignore[attr-defined]  # it is a scheduler
            worker.last_seen -= 100

    client.run_on_scheduler(forget)
    assert call_roll(client).seen_s[HOME] < first.seen_s[HOME] - 50


def test_nodes_tell_their_software() -> None:
    versions = software()
    assert {"wsi_extract", "Python", "OpenSlide", "numpy", "distributed"} <= versions.keys()
    assert all(versions.values())
