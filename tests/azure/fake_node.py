"""Nodes of a compute cluster: they run a submitted job with what the service has of it, and nothing else.

Shaped as on Azure: the snapshot in ``exe/wd``, the input in ``cap/data-capability/wd/INPUT_<name>``, read-only, the
output beside it. Every node has folders of its own; where the machine allows private mounts (Linux, root), they have
the same path on all of them, as on a cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from tests.azure.emulator import AzureEmulator, EmulatedJob

_END = re.compile(r"Cancel")


@cache
def has_private_mounts() -> bool:
    """Return whether this process may give its children mounts of their own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    trial = ["unshare", "-m", "sh", "-c", "mount --bind /tmp /tmp && mount -o remount,ro,bind /tmp"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@dataclass(kw_only=True)
class FakeCluster:
    """A cluster on this machine; `start` is what an `AzureEmulator` calls for each job."""

    folder: Path
    """Work space of the nodes."""
    data: Path
    """The folder of the data asset."""
    datastore: Path
    """Where outputs go: ``<datastore>/<job>/<output>``."""
    platform: Mapping[str, str] = field(default_factory=dict)
    """Further variables that the cluster sets on all nodes."""
    starts_after_s: Mapping[int, float] = field(default_factory=dict)
    """How late nodes are, by rank."""
    interpreter: Path = Path(sys.executable)
    has_mounts: bool = field(default_factory=has_private_mounts)
    """Whether nodes see their folders through mounts of their own; else at different paths, with links for mounts."""
    exit_codes: dict[str, list[int]] = field(default_factory=dict)
    """Per job, of every node."""
    service: AzureEmulator | None = None
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, job: EmulatedJob) -> None:
        """Run a job in the background."""
        job.statuses[:] = ["Running"]
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, timeout_s: float = 300) -> None:
        """Wait for all jobs."""
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "a job is still running"

    def output(self, job: str, name: str = "patch_dataset") -> Path:
        """Return the folder in the datastore where an output of a job is, or would be."""
        return self.datastore / job / name

    def _run(self, job: EmulatedJob) -> None:
        try:
            codes = self._run_nodes(job)
        except BaseException:
            job.statuses[:] = ["Failed"]
            raise
        finally:
            self._set_writable(writable=True)
        self.exit_codes[job.name] = codes
        if _END.match(job.status):
            job.statuses[:] = ["Canceled"]
        elif any(codes):
            job.statuses[:] = ["Failed"]
        else:
            self._upload(job, n_nodes=len(codes))
            job.statuses[:] = ["Completed"]

    def _run_nodes(self, job: EmulatedJob) -> list[int]:
        n_nodes = int(str(_mapping(job.properties.get("resources")).get("instanceCount", 1)))
        nodes = [self._start_node(job, rank=rank, n_nodes=n_nodes) for rank in range(n_nodes)]
        readers = [
            threading.Thread(target=_read_log, args=(node.stdout, job, _log_name(rank, n_nodes)), daemon=True)
            for rank, node in enumerate(nodes)
        ]
        for reader in readers:
            reader.start()
        waiting = set(range(n_nodes))
        while waiting:
            for rank in tuple(waiting):
                try:
                    nodes[rank].wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                waiting.discard(rank)
            # One node that fails ends the job on all of them, and so does a cancellation.
            if _END.match(job.status) or any(node.poll() for node in nodes):
                for rank in waiting:
                    _end(nodes[rank])
        for reader in readers:
            reader.join()
        return [node.returncode for node in nodes]

    def _start_node(self, job: EmulatedJob, *, rank: int, n_nodes: int) -> subprocess.Popen[str]:
        own = self.folder / job.name / f"node-{rank}"
        place = self.folder / job.name / "azureml" if self.has_mounts else own
        for folder in (own / "exe" / "wd", own / "cap" / "data-capability" / "wd", place):
            folder.mkdir(parents=True, exist_ok=True)
        assert self.service is not None, "the cluster does not know the service that holds the code"
        for name, content in self.service.snapshot(job).items():
            target = own / "exe" / "wd" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        command = str(job.properties["command"])
        mounts = [(own, place, "rw")]
        for name in _mapping(job.properties.get("inputs")):
            inside = Path("cap", "data-capability", "wd", f"INPUT_{name}")
            self._attach(own / inside)
            mounts.append((self.data, place / inside, "ro"))
            command = command.replace(f"${{{{inputs.{name}}}}}", str(place / inside))
        for name, output in _mapping(job.properties.get("outputs")).items():
            inside = Path("cap", "data-capability", "wd", name)
            if _mapping(output)["mode"] == "ReadWriteMount":
                (own / inside).symlink_to(self.output(job.name, name))
                self.output(job.name, name).mkdir(parents=True, exist_ok=True)
            else:
                (own / inside).mkdir()
            command = command.replace(f"${{{{outputs.{name}}}}}", str(place / inside))
        return subprocess.Popen(
            self._in_place(command, mounts=mounts, working=place / "exe" / "wd", rank=rank),
            cwd=own / "exe" / "wd",
            env=self._environment(job, rank=rank, n_nodes=n_nodes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def _attach(self, place: Path) -> None:
        """Make the place where the input is mounted, or stand in for a mount where there is none."""
        if self.has_mounts:
            place.mkdir()
            return
        place.symlink_to(self.data)
        self._set_writable(writable=False)

    def _set_writable(self, *, writable: bool) -> None:
        """Allow or forbid to write to the input, which stops everybody but root."""
        if self.has_mounts or not self.data.exists():
            return
        for path in (self.data, *self.data.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o200 if writable else mode & ~0o222)

    def _in_place(
        self, command: str, *, mounts: Sequence[tuple[Path, Path, str]], working: Path, rank: int
    ) -> list[str]:
        """Return the process that runs a command with its mounts; they vanish with it."""
        lines = ["set -e"]
        for source, target, mode in mounts if self.has_mounts else ():
            lines.append(f"mount --bind '{source}' '{target}'")
            if mode == "ro":
                lines.append(f"mount -o remount,ro,bind '{target}'")
        lines += [f"sleep {self.starts_after_s.get(rank, 0)}", f"cd '{working}'", 'exec /bin/sh -c "$1"']
        apart = ["unshare", "-m"] if self.has_mounts else []
        return [*apart, "/bin/sh", "-c", "\n".join(lines), "node", command]

    def _environment(self, job: EmulatedJob, *, rank: int, n_nodes: int) -> dict[str, str]:
        variables = {
            "PATH": f"{self.interpreter.parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "AZUREML_RUN_ID": job.name,
            "AZUREML_NODE_COUNT": str(n_nodes),
            "MLFLOW_RUN_ID": job.name,
            "MLFLOW_TRACKING_URI": "azureml://westeurope.api.azureml.ms/mlflow/v1.0",
        }
        if "distribution" in job.properties:
            variables |= {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "6105",
                "WORLD_SIZE": str(n_nodes),
                "NODE_RANK": str(rank),
                "RANK": str(rank),
                "LOCAL_RANK": "0",
            }
        own = _mapping(job.properties.get("environmentVariables"))
        return {**variables, **self.platform, **{name: str(value) for name, value in own.items()}}

    def _upload(self, job: EmulatedJob, *, n_nodes: int) -> None:
        """Copy outputs in mode upload to the datastore, those of all nodes into one folder."""
        for name, output in _mapping(job.properties.get("outputs")).items():
            if _mapping(output)["mode"] != "Upload":
                continue
            for rank in range(n_nodes):
                folder = self.folder / job.name / f"node-{rank}" / "cap" / "data-capability" / "wd" / name
                for path in sorted(folder.rglob("*")):
                    target = self.output(job.name, name) / path.relative_to(folder)
                    if path.is_file():
                        assert not target.exists(), f"two nodes have written {path.relative_to(folder)}"
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(path, target)


def _read_log(stream: IO[str] | None, job: EmulatedJob, name: str) -> None:
    assert stream is not None
    job.logs[name] = ""
    with stream:
        for line in stream:
            job.logs[name] += line


def _log_name(rank: int, n_nodes: int) -> str:
    return "user_logs/std_log.txt" if n_nodes == 1 else f"user_logs/std_log_process_{rank}.txt"


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _mapping(value: object) -> dict[str, object]:
    assert value is None or isinstance(value, dict)
    return value or {}
