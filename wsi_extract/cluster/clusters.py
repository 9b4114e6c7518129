"""Clusters of worker processes: a new one on this machine, or one that somebody else has started.

Dask moves code and results between its processes with pickle: whoever reaches a scheduler or a worker runs code there.
What is started here listens on this machine only; what runs elsewhere is reached through TLS, or with a warning.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import signal
import ssl
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, Security

import wsi_extract
from wsi_extract.errors import ConfigError, EnvironmentFaultError
from wsi_extract.interrupts import held

ANSWER_S = 30.0
"""How long a few bytes may take from a worker or the scheduler; some workers die with theirs."""
CLOSE_S = 5.0
"""How long an orderly end may wait for a scheduler that may be gone."""

RESUME = "Start them again and give the same command again; finished work is kept."

DASK_SETTINGS: dict[str, Any] = {
    # Managed memory is near zero here, so spilling would only add a second way to fail.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.80,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.no-workers-timeout": "10 minutes",
    # The driver itself tries again what died with a worker, one task at a time; the scheduler would let it take three
    # more workers along, and all that waits at them.
    "distributed.scheduler.allowed-failures": 0,
    # A local cluster looks once whether a worker that died is back, and else gives it up for good, although its nanny
    # may be starting it again at that moment, because the same task killed it twice.
    "distributed.deploy.lost-worker-timeout": "1000 days",
    "distributed.nanny.pre-spawn-environ": {
        # Without Dask's own MALLOC_TRIM_THRESHOLD_: with it every patch is new memory of the system, page by page,
        # which costs half as much processor time again as all the work.
        "OMP_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
    },
}
"""Of the processes that are started here; those of an existing cluster have settings of their own."""
NETWORK_SETTINGS: dict[str, Any] = {
    # For clusters of several machines only: on one machine every retry talks to a process that has died.
    "distributed.comm.retry.count": 3,
    "distributed.comm.timeouts.connect": "60s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What a process of a cluster proves who it is with, and knows the others by. All PEM, the key without password."""

    ca_file: Path
    """Certificate of the authority that has signed the certificates of all processes of the cluster."""
    cert: Path
    key: Path
    """Private key of ``cert``."""


@contextmanager
def local_cluster(*, n_workers: int, memory_bytes: int, dashboard_address: str) -> Iterator[Client]:
    """Start one single-threaded worker process per core on this machine, reachable from this machine only.

    Parameters
    ----------
    n_workers
        Worker processes.
    memory_bytes
        Memory each of them may use.
    dashboard_address
        ``HOST:PORT`` where the dashboard listens, which has no login; see `warning_about`.
    """
    with dask.config.set(DASK_SETTINGS), ExitStack() as stack:
        # A signal in the middle of the start would make Dask complain at length.
        with held(), workers_deaf_to_terminal(), silent_about_ports():
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=dashboard_address,
                memory_limit=memory_bytes,
                silence_logs=logging.CRITICAL,  # what becomes of workers and their tasks is told by the run
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


@contextmanager
def silent_about_ports() -> Iterator[None]:
    """Let Dask take another port for the dashboard without four lines about it: where it listens is told anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Port \d+ is already in use", UserWarning)
        yield


@contextmanager
def workers_deaf_to_terminal() -> Iterator[None]:
    """Start processes that see neither Ctrl-C nor the end of their terminal, which reach them all: the driver decides.

    Threads inherit the mask of signals from the thread that starts them, and so do processes, from their first moment.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()  # else it would start below, and unblock Ctrl-C when it has
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warning_about(address: str) -> str:
    """Return what to tell the user about an address that others may reach, ``""`` when there is nothing to tell.

    Parameters
    ----------
    address
        Of a scheduler, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``, or of a dashboard, ``HOST:PORT``.
    """
    protocol, is_scheduler, place = address.rpartition("://")
    if protocol == "tls" or _is_of_this_machine(place.rpartition(":")[0]):
        return ""
    if is_scheduler:
        return (
            f"{address} is not encrypted and asks nobody for a password: whoever reaches that port can run code on "
            "the workers, as you. Use it in a closed network only, or tls:// (docs/cluster.md)."
        )
    return (
        f"the dashboard at {address} has no login: whoever reaches that port can watch the run. Let it listen on "
        "127.0.0.1 and come through an ssh tunnel instead (docs/cluster.md)."
    )


def _is_of_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name that is looked up, or none: every interface
        return False


@contextmanager
def existing_cluster(address: str, *, tls: TlsFiles | None = None, patience_s: float = 15.0) -> Iterator[Client]:
    """Connect to a running scheduler.

    Parameters
    ----------
    address
        ``tls://HOST:PORT``, or ``tcp://HOST:PORT`` for a scheduler without encryption.
    tls
        Needed for ``tls://``, and only there.
    patience_s
        How long the scheduler may take to answer.

    Raises
    ------
    ConfigError
        When the files for TLS are missing, unreadable or do not belong together.
    EnvironmentFaultError
        When nothing answers there, or does not accept the certificate, or scheduler or workers cannot import this
        package in this version.
    """
    security = _security(tls, address=address)
    with dask.config.set(NETWORK_SETTINGS), dask_silenced():
        client = _connect(address, security=security, patience_s=patience_s)
        try:
            _check_package(client, address=address)
            yield client
        finally:
            with suppress(OSError, TimeoutError):  # the scheduler may be gone
                client.close(timeout=CLOSE_S)


def _security(tls: TlsFiles | None, *, address: str) -> Security | None:
    is_encrypted = address.startswith("tls://")
    if is_encrypted != (tls is not None):
        raise ConfigError(
            f"{address}: certificates {'are missing' if is_encrypted else 'were given'}.",
            "Certificates and tls:// belong together.",
        )
    if tls is None:
        return None
    check_tls(tls)
    return Security(
        require_encryption=True,
        tls_ca_file=str(tls.ca_file),
        tls_client_cert=str(tls.cert),
        tls_client_key=str(tls.key),
    )


def check_tls(tls: TlsFiles) -> None:
    """Refuse files that cannot be used before Dask stumbles over them.

    Raises
    ------
    ConfigError
        When they are missing, unreadable or do not belong together.
    """
    for path in (tls.ca_file, tls.cert, tls.key):  # else nobody knows which of two is meant
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.", "Give a PEM file.") from error
    try:
        ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # as is ssl.SSLError
        raise ConfigError(
            f"{tls.ca_file} is no certificate authority: {_reason(error)}.", "Give a PEM file."
        ) from error
    try:
        # A key with a password would be asked for on the terminal, by every connection.
        ssl.create_default_context().load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        raise ConfigError(
            f"{tls.cert} and {tls.key} are no certificate and its key: {_reason(error)}.",
            "Give PEM files that belong together, the key without password.",
        ) from error


def _connect(address: str, *, security: Security | None, patience_s: float) -> Client:
    try:
        return Client(address, security=security, timeout=patience_s)
    except MemoryError:  # the first bytes of another protocol, taken for a length: HTTP/1.1 is 3 EiB
        reason = "what listens there is none"
    except (OSError, TimeoutError, ValueError) as error:  # ValueError: bytes that are no TLS
        reason = _reason(error)
    # The client that could not connect lives in the error's traceback. It closes itself when it is collected, which
    # must not happen in the middle of another one's start: Dask then waits for itself.
    gc.collect()
    hint = (
        "Check that it was started with --tls-ca-file, --tls-cert and --tls-key, that the certificates are of the "
        "same authority, and that none has expired."
        if security is not None
        else "Start one, or leave --scheduler out. One that was started with TLS is at tls://, not at tcp://."
    )
    raise EnvironmentFaultError(f"no Dask scheduler answers at {address}: {reason}.", hint)


def _reason(error: BaseException) -> str:
    """Return what went wrong first: what Dask makes of it says less."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, asyncio.CancelledError):  # which ended the last attempt
        return "nobody listens or answers there"
    return (str(error) or type(error).__name__).rstrip(".")


@contextmanager
def dask_silenced() -> Iterator[None]:
    """Let Dask, and what it stands on, log nothing: the run tells what becomes of its tasks.

    Each logger of Dask has a level of its own.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    loggers = [logging.getLogger(name) for name in (*names, "asyncio", "tornado")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def workers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of its workers now, by address.

    Raises
    ------
    EnvironmentFaultError
        When it does not answer.
    """
    if client.scheduler is None:
        raise scheduler_lost(client)
    try:
        identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S)
    except (OSError, TimeoutError) as error:
        raise scheduler_lost(client) from error
    workers: dict[str, dict[str, Any]] = identity["workers"]
    return workers


def scheduler_lost(client: Client) -> EnvironmentFaultError:
    """Return the error of a run whose tasks nobody knows any more."""
    address = "" if client.scheduler is None else f" at {client.scheduler.address}"
    return EnvironmentFaultError(f"the Dask scheduler{address} has gone, or has dropped the tasks of this run.", RESUME)


def _check_package(client: Client, *, address: str) -> None:
    """Refuse a cluster that has not this package, in this version: scheduler and workers load what tasks consist of."""
    try:
        versions = {"scheduler": client.run_on_scheduler(_package_version)}
        versions |= client.run(_package_version)
    except Exception as error:
        if "ModuleNotFoundError" not in repr(error):  # which distributed wraps into a bare Exception
            raise
        raise EnvironmentFaultError(
            f"scheduler or workers of {address} cannot import this package: {error}.",
            "Install it there (pip install .), or start them in this folder.",
        ) from error
    if len(versions) == 1:
        raise EnvironmentFaultError(f"the scheduler at {address} has no workers.", "Start some and run again.")
    different = {process: version for process, version in versions.items() if version != wsi_extract.__version__}
    if different:
        raise EnvironmentFaultError(
            f"processes of {address} run another version than {wsi_extract.__version__}: {different}.",
            "Install the same version everywhere.",
        )


def _package_version() -> str:
    return wsi_extract.__version__
