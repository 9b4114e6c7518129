"""What a node does that does not carry out the run: it works for the one that does, and always ends well.

The job fails when one of its commands fails, and which one decides is the node of rank 0. So whatever happens here, a
run that has ended before this node came, a wrong version, a cut line, is told in a line and is no failure.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, Nanny
from distributed.utils import LoopRunner, sync

from wsi_extract.cluster.clusters import TlsFiles, dask_silenced, silent_about_ports, workers_deaf_to_terminal
from wsi_extract.cluster.node_cluster import (
    nanny_options,
    node_security,
    node_settings,
    protocol_of,
    software,
)
from wsi_extract.cluster.node_group import HOME, NodeGroup, worker_name
from wsi_extract.cluster.roll import UNFIT
from wsi_extract.interrupts import held

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
TAKEN = "name taken"
"""What Dask's scheduler says to a worker whose name another one has."""
DOUBLE = "another process works as this node; tries again, in case it has ended and the run has not noticed yet"
MUTE = "something listens there, but does not answer; certificates belong on all nodes, or on none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A node that works for another, and what it works with."""

    group: NodeGroup
    n_workers: int
    memory_bytes: int
    """Memory each worker may use."""
    tls: TlsFiles | None
    """What the nodes prove who they are with."""
    stamp: Callable[[], str]
    """Returns what its lines begin with."""

    @property
    def patience_s(self) -> float:
        """How long the scheduler may be out of reach, once it was there, before this node gives up."""
        return min(REJOIN_S, self.group.join_timeout_s)

    @property
    def scheduler(self) -> str:
        """Where the scheduler is."""
        host = self.group.master_host
        return f"{protocol_of(self.tls)}://{f'[{host}]' if ':' in host else host}:{self.group.port}"


def follow(
    group: NodeGroup, *, n_workers: int, memory_bytes: int, tls: TlsFiles | None = None, stamp: Callable[[], str] = str
) -> int:
    """Work for the node of rank 0 until its scheduler has gone; return the exit code of this process, which is 0.

    A signal ends it in good order, and with 0 as well: the run goes on without this node.

    Parameters
    ----------
    n_workers
        Worker processes on this node.
    memory_bytes
        Memory each of them may use.
    tls
        What the nodes prove who they are with.
    stamp
        Returns what lines begin with, as those of the run do.
    """
    follower = Follower(group=group, n_workers=n_workers, memory_bytes=memory_bytes, tls=tls, stamp=stamp)
    try:
        with dask.config.set(node_settings()), dask_silenced():
            _follow(follower)
    except KeyboardInterrupt:  # of any signal: see `wsi_extract.interrupts`
        _say(follower, "told to stop; the run goes on without this node")
    except Exception as error:  # noqa: BLE001  # whatever it is, it must not end the job
        _say(follower, f"cannot work for the run: {type(error).__name__}: {error}")
    _say(follower, "done")
    return 0


def _follow(follower: Follower) -> None:
    """Wait for the scheduler, work until the workers have ended, and come back as long as it is there."""
    _say(follower, f"waits for the scheduler at {follower.scheduler}")
    if _wait_for_scheduler(follower, patience_s=follower.group.join_timeout_s) is not None:
        _say(follower, f"there was no scheduler for {follower.group.join_timeout_s} s: nothing to do")
        return
    has_worked, told = False, ""
    while True:
        difference = _difference(follower)
        if difference:
            _say(follower, f"not fit for this run: {difference}")
            return
        trouble = MUTE if difference is None else ""
        if difference is not None:
            n_joined, trouble = _serve(follower)
            has_worked = has_worked or n_joined > 0
        if trouble and trouble != told:
            _say(follower, trouble)
            told = trouble
        time.sleep(LOOK_S if trouble else PAUSE_S)  # every attempt starts processes
        silence = _wait_for_scheduler(follower, patience_s=follower.patience_s, leave_if_refused=True)
        if silence is not None:
            _say(follower, _last_words(silence, has_worked=has_worked))
            return


def _last_words(silence: OSError, *, has_worked: bool) -> str:
    """Return what has become of the run, as far as can be told from how its scheduler does not answer."""
    if silence.errno != errno.ECONNREFUSED:  # its node has gone, too
        return "the node of rank 0 is out of reach: the run has ended, or the line is cut"
    return "the run has ended" if has_worked else "the run has ended before this node could join"


def _say(follower: Follower, text: str) -> None:
    sys.stdout.write(f"{follower.stamp()}node {follower.group.rank} of {follower.group.n_nodes}: {text}\n")
    sys.stdout.flush()


def _wait_for_scheduler(follower: Follower, *, patience_s: float, leave_if_refused: bool = False) -> OSError | None:
    """Return when something listens there, or why nothing does; the name of its node may become known only later."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            _knock(follower)
        except OSError as error:
            if time.monotonic() >= until_s or (leave_if_refused and error.errno == errno.ECONNREFUSED):
                return error
        else:
            return None
        time.sleep(PAUSE_S)


def _knock(follower: Follower) -> None:
    group = follower.group
    socket.create_connection((group.master_host, group.port), timeout=min(ANSWER_S, follower.patience_s)).close()


def _difference(follower: Follower) -> str | None:
    """Return how this node's software differs from that of the run, ``""`` when it does not, ``None`` if nobody says.

    What cannot even be asked for has another version. The scheduler is told of a difference: the log of this node is
    not the one that is looked at.
    """
    try:
        client = Client(
            follower.scheduler, security=node_security(follower.tls), timeout=ANSWER_S, set_as_default=False
        )
    except (OSError, TimeoutError, ValueError, MemoryError):  # the last two: of bytes that are of another protocol
        client = None
    if client is None:
        gc.collect()  # what could not connect closes itself then, and must not in the middle of the next one's start
        return None
    try:
        difference = _compare(client, rank=follower.group.rank)
        if difference:
            client.set_metadata([UNFIT, str(follower.group.rank)], difference)
    except (OSError, TimeoutError):
        return None
    finally:
        with suppress(OSError, TimeoutError):  # the answer is known
            client.close(timeout=CLOSE_S)
    return difference


def _compare(client: Client, *, rank: int) -> str:
    try:
        theirs = client.run_on_scheduler(software)
    except (OSError, TimeoutError):
        raise
    except Exception as error:  # noqa: BLE001  # of unpickling: anything
        return f"node {rank} and node {HOME} do not understand each other: {error}"
    ours = software()
    different = [name for name in ours if theirs.get(name) != ours[name]]
    return ", ".join(f"{name} {ours[name]} on node {rank}, {theirs.get(name)} on node {HOME}" for name in different)


def _serve(follower: Follower) -> tuple[int, str]:
    """Run workers until they have ended or the scheduler has gone; return how many have joined, and why others not."""
    with held(), workers_deaf_to_terminal(), silent_about_ports():
        runner = LoopRunner()
        runner.start()
    nannies: list[Nanny] = []
    try:
        n_joined, trouble = sync(runner.loop, _start, follower, nannies)
        if n_joined:
            _say(follower, f"joined the run at {follower.scheduler} with {n_joined} workers")
            sync(runner.loop, _wait_for_end, follower, nannies)
        return n_joined, trouble
    finally:
        with held():
            sync(runner.loop, _close, nannies)
            runner.stop()


async def _start(follower: Follower, nannies: list[Nanny]) -> tuple[int, str]:
    """Start the workers; return how many have joined, and why the first that has not did not."""
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
    work = asyncio.gather(*(nanny.start() for nanny in nannies), return_exceptions=True)
    started = await _unless_gone(follower, work) or []
    failed = [each for each in started if isinstance(each, BaseException)]
    return len(started) - len(failed), _describe_failed(failed)


def _describe_failed(failed: list[BaseException]) -> str:
    if not failed:
        return ""
    error = failed[0]
    while error.__cause__ is not None:  # what Dask makes of it says less
        error = error.__cause__
    if TAKEN in str(error):  # and what time it is, so that it would be told each time
        return DOUBLE
    return f"{len(failed)} workers have not started: {type(error).__name__}: {error}"


async def _wait_for_end(follower: Follower, nannies: list[Nanny]) -> None:
    await _unless_gone(follower, asyncio.gather(*(nanny.finished() for nanny in nannies)))


async def _unless_gone(follower: Follower, work: asyncio.Future[list[Any]]) -> list[Any] | None:
    """Return what the work returns, ``None`` when the scheduler has gone before.

    A nanny that was just starting its worker anew would go on with that for ever.
    """
    silent_since_s: float | None = None
    while not (await asyncio.wait({work}, timeout=_pause_s(follower, is_silent=silent_since_s is not None)))[0]:
        try:
            await asyncio.to_thread(_knock, follower)
        except OSError as error:
            now_s = time.monotonic()
            silent_since_s = silent_since_s or now_s
            if error.errno == errno.ECONNREFUSED or now_s - silent_since_s >= follower.patience_s:
                work.cancel()
                return None
        else:
            silent_since_s = None
    return work.result()


def _pause_s(follower: Follower, *, is_silent: bool) -> float:
    """Return how long to wait until the scheduler is knocked at again."""
    return PAUSE_S if is_silent else min(LOOK_S, follower.patience_s)


async def _close(nannies: list[Nanny]) -> None:
    ends: list[Coroutine[Any, Any, object]] = [nanny.close(timeout=CLOSE_S) for nanny in nannies]
    await asyncio.gather(*ends, return_exceptions=True)
