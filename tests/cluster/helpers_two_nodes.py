"""A cluster of two nodes whose first one is this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

import wsi_extract
from tests.helpers_nodes import ROOT, Node, free_port
from wsi_extract.cluster.clusters import TlsFiles
from wsi_extract.cluster.node_cluster import node_cluster
from wsi_extract.cluster.node_group import HOME, NodeGroup

MEMORY_BYTES = 10**9
FOLLOWER = """
import sys
import wsi_extract
from pathlib import Path
from wsi_extract.cluster.clusters import TlsFiles
from wsi_extract.interrupts import stoppable
from wsi_extract.cluster.node_follower import follow
from wsi_extract.cluster.node_group import NodeGroup
if __name__ == "__main__":
    host, port, n_workers, join_timeout_s, version, *tls = sys.argv[1:]
    wsi_extract.__version__ = version
    group = NodeGroup(n_nodes=2, rank=1, master_host=host, port=int(port), join_timeout_s=int(join_timeout_s))
    files = TlsFiles(ca_file=Path(tls[0]), cert=Path(tls[1]), key=Path(tls[2])) if tls else None
    with stoppable():
        sys.exit(follow(group, n_workers=int(n_workers), memory_bytes=10**9, tls=files))
"""


def start_follower(
    folder: Path,
    *,
    port: int,
    host: str = "127.0.0.1",
    n_workers: int = 1,
    join_timeout_s: int = 60,
    version: str = wsi_extract.__version__,
    tls: TlsFiles | None = None,
) -> Node:
    """Start the second node."""
    log_path = folder / "follower.log"
    files = [] if tls is None else [str(tls.ca_file), str(tls.cert), str(tls.key)]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-u",
                "-c",
                FOLLOWER,
                host,
                str(port),
                str(n_workers),
                str(join_timeout_s),
                version,
                *files,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            text=True,
        )
    return Node(process=process, out=folder, log_path=log_path)


@dataclass(slots=True, kw_only=True)
class TwoNodes:
    """The first one is this process."""

    client: Client
    folder: Path
    port: int
    n_workers: int
    """Of the second node."""
    tls: TlsFiles | None
    follower: Node

    def restore(self) -> None:
        """Return once all workers are there, also those that an earlier test has killed."""
        if self.follower.process.poll() is not None:
            self.follower = start_follower(self.folder, port=self.port, n_workers=self.n_workers, tls=self.tls)
        self.client.wait_for_workers(1 + self.n_workers, timeout=120)


@contextmanager
def first_node(
    *, port: int, host: str = "127.0.0.1", n_workers: int = 1, tls: TlsFiles | None = None
) -> Iterator[Client]:
    group = NodeGroup(n_nodes=2, rank=HOME, master_host=host, port=port)
    with node_cluster(
        group, n_workers=n_workers, memory_bytes=MEMORY_BYTES, dashboard_address="127.0.0.1:0", tls=tls
    ) as client:
        yield client


@contextmanager
def two_nodes(folder: Path, *, n_workers: int, tls: TlsFiles | None = None) -> Iterator[TwoNodes]:
    """Yield the cluster once all workers are there: one at home, the others on the second node."""
    port = free_port()
    follower = start_follower(folder, port=port, n_workers=n_workers, tls=tls)
    try:
        with first_node(port=port, tls=tls) as client:
            nodes = TwoNodes(client=client, folder=folder, port=port, n_workers=n_workers, tls=tls, follower=follower)
            nodes.restore()
            yield nodes
            follower = nodes.follower
        assert follower.process.poll() is not None or follower.wait() == 0, follower.log
        assert "Traceback" not in follower.log
    finally:
        follower.kill()
