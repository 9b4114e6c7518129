"""Nodes of one job, played by processes of this machine that see nothing of each other but the network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it comes without

from tests.helpers_run import Inputs

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import sys; from tests.helpers_nodes import main; sys.exit(main(sys.argv[1:]))"


def main(argv: Sequence[str]) -> int:
    """What every node runs."""
    import run_extraction  # noqa: PLC0415  # only in the processes of nodes
    from wsi_extract import blocks  # noqa: PLC0415

    blocks.MIN_BLOCK_PATCHES = 16  # as in all tests
    return run_extraction.main(argv)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(kw_only=True)
class Node:
    """A process of the job, with all that it starts."""

    process: subprocess.Popen[str]
    out: Path
    """Its own output folder."""
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait(self, timeout_s: float = 240.0) -> int:
        return self.process.wait(timeout_s)

    def wait_for(self, text: str, *, timeout_s: float = 120.0) -> None:
        until_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < until_s, self.log
            time.sleep(0.02)

    def kill(self) -> None:
        """End all its processes at once, as when the machine loses its power."""
        try:
            root = psutil.Process(self.process.pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            tree = []
        for process in tree:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@dataclass(kw_only=True)
class Job:
    """The nodes of one job, each with an output folder of its own; a context manager that leaves no process behind."""

    folder: Path
    inputs: Inputs
    settings: dict[str, str]
    n_nodes: int = 2
    n_workers: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    nodes: list[Node] = field(default_factory=list)

    def start(self, rank: int, *, prefix: Sequence[str] = (), **variables: str) -> Node:
        """Start the command on one more node."""
        folder = self.folder / f"node-{rank}-{len(self.nodes)}"
        folder.mkdir(parents=True)
        flags = {
            "wsi_dir": str(self.inputs.wsi_dir),
            "annotation_json": str(self.inputs.sqlite),
            "output_dir": str(folder / "out"),
            "patch_size": "128",
            "patches_per_slide": "20",
            "train_val_split": "0.75",
            "workers": str(self.n_workers),
            "dashboard_address": "127.0.0.1:0",
            **self.settings,
        }
        (folder / "tmp").mkdir()
        environment = {
            **os.environ,
            "WSI_EXTRACT_NODES": str(self.n_nodes),
            "WSI_EXTRACT_SCHEDULER_PORT": str(self.port),
            "MASTER_ADDR": "127.0.0.1",
            "NODE_RANK": str(rank),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(ROOT),
            **self.environment,
            **variables,
        }
        log_path = folder / "log"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-u", "-c", PROGRAM]
                + [text for name, value in flags.items() for text in (f"--{name}", value)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                text=True,
            )
        node = Node(process=process, out=folder / "out", log_path=log_path)
        self.nodes.append(node)
        return node

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
