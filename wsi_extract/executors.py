"""What runs the tasks of a run, chosen by its settings: this process, a cluster on this machine, or an existing one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wsi_extract import machine
from wsi_extract.blocks import WORKER_MEMORY_USE, least_worker_bytes
from wsi_extract.cluster.node_group import HOME, NODES, NodeGroup, node_group
from wsi_extract.config import RunConfig
from wsi_extract.disk.files import write_atomically
from wsi_extract.disk.scratch import local_scratch
from wsi_extract.errors import ConfigError
from wsi_extract.hang_watch import AGAIN, WITH_WORKERS
from wsi_extract.interrupts import held
from wsi_extract.printable import as_one_line
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.state.fault_records import have_workers_died
from wsi_extract.state.folder_lock import ended_hard
from wsi_extract.state.layout import DASK_REPORT
from wsi_extract.tasks import ElasticExecutor, Executor, SerialExecutor, keep_to_one_thread

if TYPE_CHECKING:
    from wsi_extract.cluster.clusters import TlsFiles


class Announcer(Protocol):
    """Shows what becomes of a cluster."""

    def show_dashboard(self, link: str | None) -> None:
        """Show where the dashboard is; ``None`` is a cluster without one."""

    def note(self, text: str) -> None:
        """Show a line."""


@contextmanager
def open_executor(config: RunConfig, *, announcer: Announcer) -> Iterator[Executor]:
    """Yield what runs the tasks: this process, a cluster on this machine, of the job's nodes, or an existing one.

    Unless the number of workers is given, it is this process first, and a cluster only if that takes a while, or if the
    last run died, or a slide is known to kill its reader: whatever it did to that process, it shall not do to this one.
    """
    n_workers = machine.n_cores() if config.workers is None else config.workers
    memory_bytes = machine.memory_per_worker_bytes(n_workers, asked_mb=config.worker_memory_mb)
    if config.scheduler is None:
        _refuse_starved_workers(n_workers, memory_bytes=memory_bytes)
    group = node_group(os.environ)
    if group is None:
        _refuse_idle_certificates(config)
    else:
        _refuse_unfit_for_nodes(config)
        with _open_nodes(
            config, group, n_workers=n_workers, memory_bytes=memory_bytes, announcer=announcer
        ) as executor:
            yield executor
        return
    if config.workers or config.scheduler is not None:
        with open_cluster(config, n_workers=n_workers, memory_bytes=memory_bytes, announcer=announcer) as executor:
            yield executor
        return
    reason = _why_isolate(config.output_dir)
    if reason:
        _say_what_killed(config, reason)
    keep_to_one_thread()
    with SlideCache() as slides:
        if config.workers == 0:
            yield SerialExecutor(slides=slides, worker_memory_bytes=memory_bytes, task_timeout_s=config.task_timeout_s)
            return
        with ElasticExecutor(
            slides=slides,
            n_workers=max(1, n_workers),
            worker_memory_bytes=memory_bytes,
            open_cluster=partial(
                open_cluster, config, n_workers=max(1, n_workers), memory_bytes=memory_bytes, announcer=announcer
            ),
            isolate=bool(reason),
            task_timeout_s=config.task_timeout_s,
            hang_advice=WITH_WORKERS if config.dry_run else AGAIN,  # a dry run leaves no mark
        ) as elastic:
            yield elastic


def _why_isolate(output_dir: Path) -> str:
    """Return why no slide should be read in this process, after what happened to earlier runs; empty when any may."""
    if ended_hard(output_dir):
        return f"the last run in {output_dir} died without coming to an end"
    return f"a slide has killed its reader in an earlier run in {output_dir}" if have_workers_died(output_dir) else ""


def _say_what_killed(config: RunConfig, what: str) -> None:
    if config.workers == 0:
        _warn(f"{what}; if one slide is the cause, leave --workers 0 out: then it costs that slide only")
    else:
        _warn(f"{what}; slides are read in worker processes from the beginning, in case one of them is the cause")


def _warn(text: str) -> None:
    if text:
        print(f"warning: {as_one_line(text)}", file=sys.stderr, flush=True)


def _refuse_starved_workers(n_workers: int, *, memory_bytes: int) -> None:
    """Refuse before thousands of processes start; what the slides need is checked once they are known.

    Raises
    ------
    ConfigError
        When a worker would have less memory than any slide takes.
    """
    allowed, needed = memory_bytes * WORKER_MEMORY_USE, least_worker_bytes()
    if allowed < needed:
        raise ConfigError(
            f"each of {max(1, n_workers)} workers may use {allowed / 1e6:.0f} MB ({WORKER_MEMORY_USE:.0%} of its "
            f"{memory_bytes / 1e6:.0f} MB), but needs at least {needed / 1e6:.0f} MB.",
            "Use fewer --workers, or a larger --worker_memory_mb.",
        )


def _refuse_idle_certificates(config: RunConfig) -> None:
    if config.scheduler is None and config.tls_cert is not None:
        raise ConfigError(
            "--tls_ca_file, --tls_cert and --tls_key are of no use on one machine.",
            "They belong to --scheduler tls://HOST:8786, and to the nodes of a job.",
        )


def _refuse_unfit_for_nodes(config: RunConfig) -> None:
    """Refuse settings that say otherwise where the work is done.

    Raises
    ------
    ConfigError
        With what to leave out.
    """
    if config.workers == 0:
        raise ConfigError(f"--workers 0 runs in one process, but {NODES} is set.", "Leave one of them out.")
    if config.scheduler is not None:
        raise ConfigError(
            f"--scheduler {config.scheduler} is an existing cluster, but {NODES} is set.", "Leave one of them out."
        )


def follow_if_follower(config: RunConfig, *, stamp: Callable[[], str] = str) -> int | None:
    """Work for the node that carries out the run, and return the exit code; ``None`` when this is that node itself.

    Parameters
    ----------
    stamp
        Returns what the lines of a node begin with that works for another.

    Raises
    ------
    ConfigError
        When the environment tells of several nodes in a way that makes no sense.
    """
    group = node_group(os.environ)
    if group is None or group.rank == HOME:
        return None
    with held():
        from wsi_extract.cluster.node_follower import follow  # noqa: PLC0415

    n_workers = config.workers or machine.n_cores()
    return follow(
        group,
        n_workers=n_workers,
        memory_bytes=machine.memory_per_worker_bytes(n_workers, asked_mb=config.worker_memory_mb),
        tls=_tls_files(config),
        stamp=stamp,
    )


@contextmanager
def _open_nodes(
    config: RunConfig, group: NodeGroup, *, n_workers: int, memory_bytes: int, announcer: Announcer
) -> Iterator[Executor]:
    """Yield the workers of this node, and of the others as they come."""
    with held():
        from wsi_extract.cluster import schedule  # noqa: PLC0415

    tls = _tls_files(config)
    if tls is None:
        _warn(schedule.warning_about(f"tcp://{group.master_host}:{group.port}"))
    _warn(schedule.warning_about(config.dashboard_address))
    cluster = schedule.node_cluster(
        group, n_workers=n_workers, memory_bytes=memory_bytes, dashboard_address=config.dashboard_address, tls=tls
    )
    with cluster as client, dask_report(config) as report_path:
        announcer.show_dashboard(client.dashboard_link)
        if not config.dry_run:  # which reads little, and is to be over soon
            schedule.wait_for_nodes(client, group, say=announcer.note)
        with schedule.dask_executor(
            client,
            worker_memory_bytes=memory_bytes,
            report_path=report_path,
            task_timeout_s=config.task_timeout_s,
            has_nodes=True,
            say=announcer.note,
        ) as executor:
            yield executor


@contextmanager
def open_cluster(config: RunConfig, *, n_workers: int, memory_bytes: int, announcer: Announcer) -> Iterator[Executor]:
    """Yield the workers of a new cluster on this machine, or of an existing one, and say where the dashboard is."""
    with held():
        from wsi_extract.cluster import schedule  # noqa: PLC0415

    _warn(schedule.warning_about(config.scheduler or config.dashboard_address))
    known_memory: int | None = memory_bytes
    if config.scheduler is not None:
        cluster = schedule.existing_cluster(config.scheduler, tls=_tls_files(config))
        if config.worker_memory_mb is None:
            known_memory = None
    else:
        cluster = schedule.local_cluster(
            n_workers=n_workers, memory_bytes=memory_bytes, dashboard_address=config.dashboard_address
        )
    with cluster as client, dask_report(config) as report_path:
        announcer.show_dashboard(client.dashboard_link)
        with schedule.dask_executor(
            client,
            worker_memory_bytes=known_memory,
            report_path=report_path,
            task_timeout_s=config.task_timeout_s,
        ) as executor:
            yield executor


def _tls_files(config: RunConfig) -> TlsFiles | None:
    from wsi_extract.cluster.clusters import TlsFiles  # noqa: PLC0415

    if config.tls_ca_file is None or config.tls_cert is None or config.tls_key is None:
        return None
    return TlsFiles(ca_file=config.tls_ca_file, cert=config.tls_cert, key=config.tls_key)


@contextmanager
def dask_report(config: RunConfig) -> Iterator[Path | None]:
    """Yield where Dask may write its report, and bring it into the output folder of a run that came to its end."""
    if config.dry_run:
        yield None
        return
    folder = local_scratch(avoid=(config.output_dir, config.wsi_dir))
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        report = Path(scratch) / DASK_REPORT
        yield report
        try:
            if report.is_file():
                write_atomically(config.output_dir / DASK_REPORT, report.read_bytes())
        except OSError as error:  # of no worth beside the data set, which is finished
            _warn(f"Dask's report could not be kept: {error}")
