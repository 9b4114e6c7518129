"""Which node of a job of several this process runs on, as told by the environment. Knows no cluster.

Every node of such a job starts the same command. The node of rank 0 carries out the run; the others work for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from wsi_extract.errors import ConfigError

NODES = "WSI_EXTRACT_NODES"
"""How many nodes the job has; nothing here counts unless it is more than one."""
SCHEDULER_PORT = "WSI_EXTRACT_SCHEDULER_PORT"
JOIN_TIMEOUT_S = "WSI_EXTRACT_JOIN_TIMEOUT_S"
START_TIMEOUT_S = "WSI_EXTRACT_START_TIMEOUT_S"
MASTER_HOST = "MASTER_ADDR"
RANKS = ("NODE_RANK", "RANK")
"""With one process per node both are the number of the node; the first that is there counts."""
HOME = 0
"""Rank of the node that carries out the run, and the only one that writes the data set."""
DEFAULT_PORT = 8786
DEFAULT_JOIN_TIMEOUT_S = 900
"""Nodes of one job start minutes apart."""
DEFAULT_START_TIMEOUT_S = 300
"""Without the others the node of rank 0 would fetch every slide that it opens, most of them for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """The nodes of a job, and which of them this is."""

    n_nodes: int
    rank: int
    """Of this node, `HOME` or one of the others."""
    master_host: str
    """Name or address of the node of rank 0."""
    port: int = DEFAULT_PORT
    """Where its scheduler listens."""
    join_timeout_s: int = DEFAULT_JOIN_TIMEOUT_S
    """How long the other nodes wait for that scheduler."""
    start_timeout_s: int = DEFAULT_START_TIMEOUT_S
    """How long the run waits for the other nodes before it begins without those that are missing."""


def node_group(environ: Mapping[str, str]) -> NodeGroup | None:
    """Return the group that the environment tells of, ``None`` for a job of one node, or none at all.

    Raises
    ------
    ConfigError
        When a job of several nodes is announced, and what else is needed is missing or makes no sense.
    """
    if not environ.get(NODES) or (n_nodes := _number(environ, NODES, least=1, most=100_000)) == 1:
        return None
    master_host = environ.get(MASTER_HOST, "").strip().removeprefix("[").removesuffix("]")  # of IPv6
    if not master_host:
        raise ConfigError(f"{NODES} is {n_nodes}, but {MASTER_HOST} does not say where the node of rank 0 is.", _REMEDY)
    rank_name = next((name for name in RANKS if environ.get(name)), None)
    if rank_name is None:
        raise ConfigError(f"{NODES} is {n_nodes}, but neither {' nor '.join(RANKS)} says which node this is.", _REMEDY)
    return NodeGroup(
        n_nodes=n_nodes,
        rank=_number(environ, rank_name, least=0, most=n_nodes - 1),
        master_host=master_host,
        port=_number(environ, SCHEDULER_PORT, least=1, most=65_535, default=DEFAULT_PORT),
        join_timeout_s=_number(environ, JOIN_TIMEOUT_S, least=1, most=86_400, default=DEFAULT_JOIN_TIMEOUT_S),
        start_timeout_s=_number(environ, START_TIMEOUT_S, least=0, most=86_400, default=DEFAULT_START_TIMEOUT_S),
    )


_REMEDY = f"A job of several nodes sets it; unset {NODES} to run on this node alone."


def _number(environ: Mapping[str, str], name: str, *, least: int, most: int, default: int | None = None) -> int:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not least <= int(text) <= most:
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {text[:40]!r}.", _REMEDY)
    return int(text)


def worker_name(rank: int, index: int) -> str:
    """Return the name of a worker process of a node.

    >>> worker_name(3, 0), rank_of("node-3-0"), rank_of("tcp://10.0.0.4:40123")
    ('node-3-0', 3, 0)
    """
    return f"node-{rank}-{index}"


def rank_of(name: object) -> int:
    """Return the node that a worker of this name belongs to: `HOME` where the name does not tell."""
    match = re.fullmatch(r"node-(\d{1,9})-\d{1,9}", str(name))
    return HOME if match is None else int(match[1])
