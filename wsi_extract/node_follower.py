"""What a node does that does not carry out the run: it works for the one that does, and always ends well.

The job fails when one of its commands fails, and which one decides is the node of rank 0. So whatever happens here, a
run that has ended before this node came, a wrong version, a cut line, is told in a line and is no failure.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, Nanny
from distributed.utils import LoopRunner, sync

from wsi_extract.clusters import TlsFiles, dask_silenced, silent_about_ports, workers_deaf_to_terminal
from wsi_extract.interrupts import held
from wsi_extract.node_cluster import nanny_options, node_security, node_settings, protocol_of, software
from wsi_extract.node_group import NodeGroup, worker_name

LOOK_S = 10.0
"""How often a node looks whether the scheduler is still there."""
REJOIN_S = 20.0
"""How long it may be out of reach before the node gives up, at most."""
PAUSE_S = 1.0
"""Between two attempts to reach it."""
ANSWER_S = 10.0
"""How long one attempt may take."""
START_S = 300.0
"""How long workers may take to start: packages may come over the network."""
CLOSE_S = 5.0
"""How long they may take to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A node that works for another, and what it works with."""

    group: NodeGroup
    n_workers: int
    memory_bytes: int
    """Memory each worker may use."""
    tls: TlsFiles | None
    """What the nodes prove who they are with."""

    @property
    def patience_s(self) -> float:
        """How long the scheduler may be out of reach, once it was there, before this node gives up."""
        return min(REJOIN_S, self.group.join_timeout_s)

    @property
    def scheduler(self) -> str:
        """Where the scheduler is."""
        host = self.group.master_host
        return f"{protocol_of(self.tls)}://{f'[{host}]' if ':' in host else host}:{self.group.port}"


def follow(group: NodeGroup, *, n_workers: int, memory_bytes: int, tls: TlsFiles | None = None) -> int:
    """Work for the node of rank 0 until its scheduler has gone; return the exit code of this process, which is 0.

    Parameters
    ----------
    n_workers
        Worker processes on this node.
    memory_bytes
        Memory each of them may use.
    tls
        What the nodes prove who they are with.
    """
    follower = Follower(group=group, n_workers=n_workers, memory_bytes=memory_bytes, tls=tls)
    try:
        with dask.config.set(node_settings()), dask_silenced():
            _follow(follower)
    except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the job
        _say(follower, f"cannot work for the run: {type(error).__name__}: {error}")
    _say(follower, "done")
    return 0


def _follow(follower: Follower) -> None:
    """Wait for the scheduler, work until the workers have ended, and come back as long as it is there."""
    _say(follower, f"waits for the scheduler at {follower.scheduler}")
    if not _wait_for_scheduler(follower.group, patience_s=follower.group.join_timeout_s):
        _say(follower, f"there was no scheduler for {follower.group.join_timeout_s} s: nothing to do")
        return
    has_worked = is_told = False
    while True:
        difference = _difference(follower)
        if difference:
            _say(follower, f"not fit for this run: {difference}")
            return
        if difference is not None:
            has_worked = _serve(follower) or has_worked
        elif not is_told:
            _say(follower, "something listens there, but does not answer; certificates belong on all nodes, or on none")
            is_told = True
        time.sleep(PAUSE_S)
        if not _wait_for_scheduler(follower.group, patience_s=follower.patience_s, leave_if_refused=True):
            _say(follower, "the scheduler has gone" if has_worked else "the scheduler has gone before it could join")
            return


def _say(follower: Follower, text: str) -> None:
    sys.stdout.write(f"node {follower.group.rank} of {follower.group.n_nodes}: {text}\n")
    sys.stdout.flush()


def _wait_for_scheduler(group: NodeGroup, *, patience_s: float, leave_if_refused: bool = False) -> bool:
    """Return whether something listens there within the time; the name of its node may become known only later."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            _knock(group)
        except OSError as error:
            if time.monotonic() >= until_s or (leave_if_refused and error.errno == errno.ECONNREFUSED):
                return False
        else:
            return True
        time.sleep(PAUSE_S)


def _knock(group: NodeGroup) -> None:
    socket.create_connection((group.master_host, group.port), timeout=ANSWER_S).close()


def _difference(follower: Follower) -> str | None:
    """Return how this node's software differs from that of the run, ``""`` when it does not, ``None`` if nobody says.

    What cannot even be asked for has another version.
    """
    try:
        client = Client(
            follower.scheduler, security=node_security(follower.tls), timeout=ANSWER_S, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError):
        return None
    try:
        theirs = client.run_on_scheduler(software)
    except (OSError, TimeoutError):
        return None
    except Exception as error:  # noqa: BLE001  # of unpickling: anything
        return f"it does not understand the scheduler: {error}"
    finally:
        client.close(timeout=CLOSE_S)
    ours = software()
    different = [name for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {ours[name]} here, {theirs.get(name)} on node 0" for name in different)


def _serve(follower: Follower) -> bool:
    """Run workers until they have ended or the scheduler has gone; return whether any has joined."""
    with held(), workers_deaf_to_terminal(), silent_about_ports():
        runner = LoopRunner()
        runner.start()
    nannies: list[Nanny] = []
    try:
        n_joined = int(sync(runner.loop, _start, follower, nannies))
        if n_joined:
            _say(follower, f"joined the run at {follower.scheduler} with {n_joined} workers")
            sync(runner.loop, _wait_for_end, follower, nannies)
        return n_joined > 0
    finally:
        with held():
            sync(runner.loop, _close, nannies)
            runner.stop()


async def _start(follower: Follower, nannies: list[Nanny]) -> int:
    """Start the workers and return how many have joined."""
    options = nanny_options(memory_bytes=follower.memory_bytes, tls=follower.tls)
    nannies += [
        Nanny(
            follower.scheduler,
            name=worker_name(follower.group.rank, index),
            death_timeout=START_S,
            **options,
        )
        for index in range(follower.n_workers)
    ]
    started = await _unless_gone(
        follower, asyncio.gather(*(nanny.start() for nanny in nannies), return_exceptions=True)
    )
    return sum(not isinstance(each, BaseException) for each in started or ())


async def _wait_for_end(follower: Follower, nannies: list[Nanny]) -> None:
    await _unless_gone(follower, asyncio.gather(*(nanny.finished() for nanny in nannies)))


async def _unless_gone(follower: Follower, work: asyncio.Future[list[Any]]) -> list[Any] | None:
    """Return what the work returns, ``None`` when the scheduler has gone before.

    A nanny that was just starting its worker anew would go on with that for ever.
    """
    silent_since_s: float | None = None
    while not (await asyncio.wait({work}, timeout=LOOK_S))[0]:
        try:
            await asyncio.to_thread(_knock, follower.group)
        except OSError as error:
            now_s = time.monotonic()
            silent_since_s = silent_since_s or now_s
            if error.errno == errno.ECONNREFUSED or now_s - silent_since_s >= follower.patience_s:
                work.cancel()
                return None
        else:
            silent_since_s = None
    return work.result()


async def _close(nannies: list[Nanny]) -> None:
    ends: list[Coroutine[Any, Any, object]] = [nanny.close(timeout=CLOSE_S) for nanny in nannies]
    await asyncio.gather(*ends, return_exceptions=True)
