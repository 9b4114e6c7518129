"""The cluster of a job of several nodes: scheduler, driver and workers on the node of rank 0, workers on the others.

The other nodes come when they are started, which may be minutes later, and may go at any time. They prove with TLS who
they are, or the network between the nodes is closed to everybody else: whoever reaches a port runs code there.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster

import wsi_extract
from wsi_extract.cluster.clusters import (
    DASK_SETTINGS,
    NETWORK_SETTINGS,
    TlsFiles,
    check_tls,
    silent_about_ports,
    workers_deaf_to_terminal,
)
from wsi_extract.cluster.node_group import HOME, NodeGroup, worker_name
from wsi_extract.disk.scratch import local_scratch
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.interrupts import held
from wsi_extract.slides.opened_slide import openslide_version

SILENCE = dict.fromkeys(("distributed", "distributed.client", "asyncio", "tornado", "tornado.application"), "critical")
"""Levels of the loggers of worker processes."""
NODE_SETTINGS: dict[str, Any] = {
    **DASK_SETTINGS,
    **NETWORK_SETTINGS,
    "distributed.nanny.pre-spawn-environ": {
        **DASK_SETTINGS["distributed.nanny.pre-spawn-environ"],
        "DASK_LOGGING": repr(SILENCE),  # nodes that go are told in a line, not in tracebacks of all who spoke to them
    },
    # A stolen task would leave the node of its slide.
    "distributed.scheduler.work-stealing": False,
    # For a node that is cut off. The event loop of a worker is never blocked that long: its tasks run beside it.
    "distributed.scheduler.worker-ttl": "60s",
}
HOME_RESOURCE = "home"
"""What workers of the node of rank 0 have, however often they were started anew: their addresses change."""
PLENTY = 1e9
EQUAL_PACKAGES = (
    "distributed",
    "dask",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "openslide-python",
    "simplejpeg",
    "isal",
    "fpng",
    "zstandard",
    "imagecodecs",
)
"""What makes pixels, files and messages: nodes that differ in it would not make one data set."""


@contextmanager
def node_cluster(
    group: NodeGroup, *, n_workers: int, memory_bytes: int, dashboard_address: str, tls: TlsFiles | None = None
) -> Iterator[Client]:
    """Start scheduler and workers on the node of rank 0, for the others to join.

    Parameters
    ----------
    n_workers
        Worker processes on this node.
    memory_bytes
        Memory each of them may use.
    dashboard_address
        ``HOST:PORT`` where the dashboard listens, which has no login.
    tls
        What the nodes prove who they are with; ``None`` leaves it to the network who comes.

    Raises
    ------
    ConfigError
        When the files for TLS cannot be used.
    EnvironmentFaultError
        When the scheduler cannot listen, or workers do not start.
    """
    security = node_security(tls)
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": listening_host(group.master_host),
            "port": group.port,
            "protocol": protocol_of(tls),
            "security": security,
            "dashboard": True,
            "dashboard_address": dashboard_address,
        },
    }
    options = {**nanny_options(memory_bytes=memory_bytes, tls=tls), "resources": {HOME_RESOURCE: PLENTY}}
    workers = {worker_name(HOME, index): {"cls": Nanny, "options": options} for index in range(n_workers)}
    with dask.config.set(node_settings()), ExitStack() as stack:
        with held(), workers_deaf_to_terminal(), silent_about_ports():
            try:
                cluster = SpecCluster(
                    scheduler=scheduler, workers=workers, security=security, silence_logs=logging.CRITICAL
                )
            except (RuntimeError, OSError) as error:
                raise EnvironmentFaultError(
                    f"the cluster could not be started on this node, port {group.port}: {str(error).rstrip('.')}.",
                    "Is another run going on there? End it, or set another port (WSI_EXTRACT_SCHEDULER_PORT).",
                ) from error
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


def node_settings() -> dict[str, Any]:
    """Return the settings of Dask on every node of the group."""
    return {**NODE_SETTINGS, "temporary-directory": str(local_scratch())}


def node_security(tls: TlsFiles | None) -> Security:
    """Return what every process of the group proves who it is with.

    Raises
    ------
    ConfigError
        When the files cannot be used.
    """
    if tls is None:
        return Security()
    check_tls(tls)
    certificate, key = str(tls.cert), str(tls.key)
    return Security(
        require_encryption=True,
        tls_ca_file=str(tls.ca_file),
        tls_client_cert=certificate,
        tls_client_key=key,
        tls_scheduler_cert=certificate,
        tls_scheduler_key=key,
        tls_worker_cert=certificate,
        tls_worker_key=key,
    )


def protocol_of(tls: TlsFiles | None) -> str:
    """Return the protocol that the nodes speak."""
    return "tcp" if tls is None else "tls"


def nanny_options(*, memory_bytes: int, tls: TlsFiles | None) -> dict[str, Any]:
    """Return what is the same for the worker processes of every node."""
    return {
        "nthreads": 1,
        "memory_limit": memory_bytes,
        "protocol": protocol_of(tls),
        "security": node_security(tls),
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
    }


def listening_host(master_host: str) -> str | None:
    """Return the address of this node that the others know it by, ``None`` when only listening everywhere will do.

    A name that this node resolves to itself alone, as some systems do with their own, is no address for others. Those
    of IPv6 are in brackets.
    """
    try:
        found = socket.getaddrinfo(master_host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, kind, _, _, place in found:
        address = str(place[0])
        is_loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        if is_loopback and master_host not in {address, "localhost"}:
            continue
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((address, 0))
        except OSError:
            continue
        return f"[{address}]" if family == socket.AF_INET6 else address
    return None


def software() -> dict[str, str]:
    """Return the versions that all nodes must have alike."""
    versions = {
        "wsi_extract": wsi_extract.__version__,
        "Python": ".".join(map(str, sys.version_info[:2])),
        "OpenSlide": openslide_version(),
    }
    for package in EQUAL_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions
