"""Clusters: who can reach them, and what happens when a scheduler, or all workers, go."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from threading import Thread

import psutil  # type: ignore[import-untyped]  # it comes without
import pytest
import yaml

from tests.helpers_cluster import ROOT, Started, other_cluster, refusal, start_scheduler, start_worker
from wsi_extract.cluster.clusters import DASK_SETTINGS
from wsi_extract.cluster.schedule import dask_executor, existing_cluster, local_cluster, warning_about
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task, TaskResult

pytestmark = pytest.mark.xdist_group("dask")
SOON_S = 60.0
"""A busy machine takes that long for what takes 2 s; a scheduler that hangs is noticed after 150."""


def take_a_while(item: int, slides: SlideCache) -> tuple[int, int]:
    time.sleep(0.02)
    return item, os.getpid()


def tasks_for(n: int) -> list[Task]:
    return [
        Task(stage="extract", slide_ordinal=0, slide_id="s", index=i, function=take_a_while, item=i) for i in range(n)
    ]


def listeners() -> set[tuple[int, str, int]]:
    """Process, address and port of everything this process and those it started listen at."""
    me = psutil.Process()
    return {
        (process.pid, connection.laddr.ip, connection.laddr.port)
        for process in [me, *me.children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_local_cluster_is_reached_from_this_machine_only_and_takes_another_port_without_a_word(
    recwarn: pytest.WarningsRecorder,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = listeners()
        with local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address=f"127.0.0.1:{port}") as client:
            found = listeners() - before
            pids = {os.getpid(), *client.run(os.getpid).values()}
            assert f":{port}/" not in client.dashboard_link
    assert {pid for pid, _, _ in found} >= pids
    assert {ip for _, ip, _ in found} <= {"127.0.0.1"}
    assert [str(warning.message) for warning in recwarn if "in use" in str(warning.message)] == []


def test_another_service_at_the_address_is_no_scheduler(other_process: Executor) -> None:
    """As is the dashboard, whose port is easily mistaken; it takes what Dask says for a request."""

    def answer(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=answer, args=(server,), daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert "no Dask scheduler answers" in refusal(other_process, address, None, patience_s=2)
        server.shutdown(socket.SHUT_RDWR)


def test_nobody_listens_there() -> None:
    began_s = time.monotonic()
    with (
        pytest.raises(EnvironmentFaultError, match=r"at .*: (nobody listens or answers there|.*refused)\. Start one"),
        existing_cluster("tcp://127.0.0.1:1", patience_s=1),
    ):
        pass
    assert time.monotonic() - began_s < SOON_S


def test_a_dashboard_listens_where_it_is_told_to_and_nothing_is_written_to_the_folder_a_run_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listeners()
    with local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="0.0.0.0:0") as client:
        assert {ip for _, ip, _ in listeners() - before if ip != "127.0.0.1"} == {"0.0.0.0"}
        list(client.run(os.getcwd))
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://127.0.0.1:8786", ""),
        ("tcp://127.8.9.1:8786", ""),
        ("tcp://localhost:8786", ""),
        ("tcp://[::1]:8786", ""),
        ("tls://node7:8786", ""),
        ("tcp://node7:8786", "can run code"),
        ("tcp://10.0.0.4:8786", "can run code"),
        ("tcp://localhost.example.org:8786", "can run code"),
        ("tcp://127.0.0.1.example.org:8786", "can run code"),
        ("127.0.0.1:8787", ""),
        ("localhost:8787", ""),
        (":8787", "no login"),
        ("0.0.0.0:8787", "no login"),
        ("[::]:8787", "no login"),
        ("node7:8787", "no login"),
    ],
)
def test_addresses_that_others_reach_are_warned_about(address: str, words: str) -> None:
    warning = warning_about(address)
    assert (words in warning) if words else not warning


def take_some(results: Iterable[TaskResult], n: int) -> None:
    for _, _ in zip(range(n), results, strict=False):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_scheduler_that_goes_ends_the_run_within_seconds(
    tmp_path: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    def run_until_it_goes(scheduler: Started) -> None:
        with (
            existing_cluster(scheduler.address) as client,
            dask_executor(client, worker_memory_bytes=None, report_path=tmp_path / "report.html") as executor,
        ):
            results = executor.run(tasks_for(500))
            take_some(results, 5)
            scheduler.process.send_signal(number)
            went_s.append(time.monotonic())
            for _ in results:
                pass

    went_s: list[float] = []
    with other_cluster(tmp_path / "scratch") as (scheduler, _):
        with caplog.at_level(logging.WARNING), pytest.raises(EnvironmentFaultError, match="has gone"):
            run_until_it_goes(scheduler)
        assert time.monotonic() - went_s[0] < SOON_S
    assert not caplog.records
    assert not (tmp_path / "report.html").exists()


def test_a_run_goes_on_when_all_workers_are_replaced(tmp_path: Path) -> None:
    scheduler = start_scheduler(tmp_path)
    started = [scheduler]
    try:
        first = start_worker(scheduler.address, tmp_path)
        started.append(first)
        with (
            existing_cluster(scheduler.address) as client,
            dask_executor(client, worker_memory_bytes=None, report_path=None) as executor,
        ):
            results = executor.run(tasks_for(100))
            values = [next(results).value for _ in range(5)]
            first.kill()
            started.append(start_worker(scheduler.address, tmp_path))
            values += [result.value for result in results]
    finally:
        for process in reversed(started):
            process.kill()
    pairs = [value for value in values if isinstance(value, tuple)]
    assert sorted(item for item, _ in pairs) == list(range(100))
    assert len({pid for _, pid in pairs}) == 2


def test_a_worker_of_several_threads_that_joins_later_gets_no_slide(tmp_path: Path) -> None:
    with (
        other_cluster(tmp_path) as (scheduler, _),
        existing_cluster(scheduler.address) as client,
        dask_executor(client, worker_memory_bytes=None, report_path=None) as executor,
    ):
        later = start_worker(scheduler.address, tmp_path, n_threads=2)
        try:
            client.wait_for_workers(2, timeout=120)
            with pytest.raises(EnvironmentFaultError, match="several threads"):
                list(executor.run(tasks_for(50)))
        finally:
            later.kill()


def test_a_scheduler_that_cannot_load_the_tasks_is_refused_first(tmp_path: Path) -> None:
    """It loads what tasks consist of, and another version of the package may not have it."""
    package = tmp_path / "wsi_extract"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '0.0.0'\n")
    scheduler = start_scheduler(tmp_path, packages=tmp_path)
    try:
        worker = start_worker(scheduler.address, tmp_path)
        try:
            with (
                pytest.raises(EnvironmentFaultError, match="cannot import this package"),
                existing_cluster(scheduler.address),
            ):
                pass
        finally:
            worker.kill()
    finally:
        scheduler.kill()


def test_the_settings_for_other_clusters_are_those_of_our_own() -> None:
    """Except for what only a driver beside its workers needs."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    told = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    flat = {
        f"distributed.{part}.{key}": value for part, keys in told["distributed"].items() for key, value in keys.items()
    }
    for part in ("memory", "profile"):
        flat |= {
            f"distributed.worker.{part}.{key}": value for key, value in flat.pop(f"distributed.worker.{part}").items()
        }
    environment = flat["distributed.nanny.pre-spawn-environ"]
    assert environment.pop("MALLOC_TRIM_THRESHOLD_") is None
    assert flat.pop("distributed.scheduler.allowed-failures") == 3
    ours = dict(DASK_SETTINGS)
    assert ours.pop("distributed.scheduler.allowed-failures") == 0
    assert ours.pop("distributed.deploy.lost-worker-timeout") == "1000 days"
    assert flat == ours
