"""Clusters of other processes on this machine, as a user starts them, and certificates for them."""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it comes without
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wsi_extract.cluster.schedule import TlsFiles, existing_cluster
from wsi_extract.errors import EnvironmentFaultError

ROOT = Path(__file__).resolve().parent.parent
START_S = 120.0
SLACK_S = 30.0
"""What a busy machine may take longer."""


def _key_file(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key


def make_tls(folder: Path) -> TlsFiles:
    """A certificate authority, and one certificate of it that scheduler, workers and driver share."""
    folder.mkdir(parents=True)
    now = datetime.datetime.now(datetime.UTC)
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
    ca_key = _key_file(folder / "ca-key.pem")

    def sign(builder: x509.CertificateBuilder, path: Path) -> None:
        certificate = (
            builder.issuer_name(ca_name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(ca_key, hashes.SHA256())
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    authority = x509.CertificateBuilder().subject_name(ca_name).public_key(ca_key.public_key())
    sign(authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True), folder / "ca.pem")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wsi_extract")])
    own_key = _key_file(folder / "key.pem")
    sign(x509.CertificateBuilder().subject_name(name).public_key(own_key.public_key()), folder / "cert.pem")
    return TlsFiles(ca_file=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")


def _tls_flags(tls: TlsFiles | None) -> list[str]:
    if tls is None:
        return []
    return ["--tls-ca-file", str(tls.ca_file), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]


class Started:
    """A process of the command line of Dask, and what it logs."""

    def __init__(self, arguments: Sequence[str], *, ready: str, scratch: Path, packages: Path = ROOT) -> None:
        # Dask leaves the silence of a node's workers in the environment of the process that started them.
        ours = {name: value for name, value in os.environ.items() if name != "DASK_LOGGING"}
        environment = ours | {"DASK_TEMPORARY_DIRECTORY": str(scratch), "PYTHONPATH": str(packages)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd=scratch,
            text=True,
        )
        self.log: list[str] = []
        self._is_ready = threading.Event()
        self._ready = re.compile(ready)
        self.address = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._is_ready.wait(START_S):
            self.kill()
            raise AssertionError("".join(self.log))

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log.append(line)
                if not self._is_ready.is_set() and (match := self._ready.search(line)):
                    self.address = match[1]
                    self._is_ready.set()

    def kill(self) -> None:
        """End the process and all it started, at once."""
        try:
            tree = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess:
            tree = []
        for process in tree:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        self._reader.join()


def start_scheduler(scratch: Path, *, tls: TlsFiles | None = None, packages: Path = ROOT) -> Started:
    protocol = "tls" if tls is not None else "tcp"
    return Started(
        ["dask_scheduler", "--host", f"{protocol}://127.0.0.1", "--port", "0", "--no-dashboard", *_tls_flags(tls)],
        ready=rf"Scheduler at:\s+({protocol}://\S+)",
        scratch=scratch,
        packages=packages,
    )


def start_worker(address: str, scratch: Path, *, tls: TlsFiles | None = None, n_threads: int = 1) -> Started:
    return Started(
        [
            "dask_worker",
            address,
            "--nthreads",
            str(n_threads),
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            *_tls_flags(tls),
        ],
        ready=r"Registered to:\s+(\S+)",
        scratch=scratch,
    )


@contextmanager
def other_cluster(scratch: Path, *, tls: TlsFiles | None = None) -> Iterator[tuple[Started, Started]]:
    """A scheduler and one worker, both in processes of their own."""
    scratch.mkdir(parents=True, exist_ok=True)
    scheduler = start_scheduler(scratch, tls=tls)
    try:
        worker = start_worker(scheduler.address, scratch, tls=tls)
        try:
            yield scheduler, worker
        finally:
            worker.kill()
    finally:
        scheduler.kill()


def refusal(other_process: Executor, address: str, tls: TlsFiles | None, *, patience_s: float = 15.0) -> str:
    """Why the cluster at an address cannot be used, as said within the time that a scheduler may take to answer.

    It is asked for in another process: Dask leaves the socket of a handshake that failed to the collector of garbage,
    which would find it in the middle of some other test.
    """
    return other_process.submit(_refusal, address, tls, patience_s).result()


def _refusal(address: str, tls: TlsFiles | None, patience_s: float) -> str:
    began_s = time.monotonic()
    try:
        with existing_cluster(address, tls=tls, patience_s=patience_s):
            pass
    except EnvironmentFaultError as error:
        assert time.monotonic() - began_s < patience_s + SLACK_S
        return str(error)
    raise AssertionError(f"{address} was taken for a cluster")
