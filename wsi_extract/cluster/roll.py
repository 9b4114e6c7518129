"""Which nodes of a job are there, when each was heard of last, and which have left because they do not fit."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client
from distributed.core import Status
from distributed.scheduler import heartbeat_interval

from wsi_extract.cluster.casualties import LOSS_S
from wsi_extract.cluster.clusters import scheduler_lost
from wsi_extract.cluster.node_group import HOME, NodeGroup, rank_of

STALE_S = 15.0
"""A worker that was not heard of for so long gets nothing to do; it is no news when it dies."""
N_HEARTBEATS = 3
"""A node is silent after so many that did not come; on a large cluster they are seconds apart."""
LOOK_S = 1.0
"""How often the run looks whether nodes that are missing have joined."""
N_SHOWN = 8
"""Nodes in a message."""
UNFIT = "unfit"
"""Where the scheduler keeps why nodes leave that do not fit, by the digits of their rank, until that was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Which nodes are there."""

    addresses: Mapping[int, tuple[str, ...]]
    """Of the workers of each node that take tasks."""
    seen_s: Mapping[int, float]
    """When each node gave its last sign of life, of `time.monotonic`."""
    loss_s: float
    """How long a node may be silent after a death before it counts as gone."""
    refusals: Mapping[int, str]
    """Why nodes have left that do not fit; of each roll those that no roll before told of."""


def call_roll(client: Client) -> Roll:
    """Ask the scheduler which workers there are, and when each was heard of last.

    Raises
    ------
    EnvironmentFaultError
        When it does not answer.
    """
    try:
        n_workers, entries, refusals = client.run_on_scheduler(_roll_of)
    except (OSError, TimeoutError, ValueError) as error:
        raise scheduler_lost(client) from error
    now_s, period_s = time.monotonic(), heartbeat_interval(n_workers)
    addresses: defaultdict[int, list[str]] = defaultdict(list)
    seen_s: dict[int, float] = {}
    for name, address, takes_tasks, silent_s in entries:
        rank = rank_of(name)
        seen_s[rank] = max(seen_s.get(rank, 0.0), now_s - silent_s)
        if takes_tasks and (rank == HOME or silent_s < STALE_S + N_HEARTBEATS * period_s):
            addresses[rank].append(address)
    return Roll(
        addresses={rank: tuple(each) for rank, each in sorted(addresses.items())},
        seen_s=seen_s,
        loss_s=LOSS_S + N_HEARTBEATS * period_s,
        refusals={int(rank): why for rank, why in sorted(refusals.items())},
    )


def wait_for_nodes(client: Client, group: NodeGroup, *, say: Callable[[str], None]) -> None:
    """Return when all nodes have joined that fit, or those that are missing were waited for long enough.

    Parameters
    ----------
    say
        Told how long that may take, who has not come, and who does not fit.

    Raises
    ------
    EnvironmentFaultError
        When the scheduler does not answer.
    """
    until_s = time.monotonic() + group.start_timeout_s
    is_told = False
    awaited = set(range(group.n_nodes))
    while True:
        roll = call_roll(client)
        tell_refusals(roll, say=say)
        awaited -= roll.refusals.keys()
        missing = sorted(awaited - roll.addresses.keys())
        if not missing:
            return
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            shown = ", ".join(map(str, missing[:N_SHOWN])) + (", ..." if len(missing) > N_SHOWN else "")
            say(f"begins without {len(missing)} of {group.n_nodes} nodes ({shown}); they may still join")
            return
        if not is_told:
            n_others = "the other node" if group.n_nodes == 2 else f"the other {group.n_nodes - 1} nodes"
            say(f"waits up to {group.start_timeout_s} s for {n_others}, so that each fetches its share")
            is_told = True
        time.sleep(min(LOOK_S, left_s))


def tell_refusals(roll: Roll, *, say: Callable[[str], None]) -> None:
    """Tell which nodes have left because they do not fit: their own logs are not what is looked at."""
    for rank, why in roll.refusals.items():
        say(f"node {rank} is not fit for this run and takes no part: {why}")


def _roll_of(dask_scheduler: Any) -> tuple[int, list[tuple[str, str, bool, float]], dict[str, str]]:
    now_s = time.time()
    workers = list(dask_scheduler.workers.values())
    entries = [
        (str(worker.name), worker.address, worker.status == Status.running, now_s - worker.last_seen)
        for worker in workers
    ]
    refusals = dask_scheduler.get_metadata(keys=[UNFIT], default={})
    dask_scheduler.set_metadata(keys=[UNFIT], value={})
    return len(workers), entries, refusals
