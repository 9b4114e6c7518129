"""Clusters with TLS: tasks run, and everything that does not belong together is one clear error within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.helpers_cluster import make_tls, other_cluster, refusal
from wsi_extract.cluster.schedule import TlsFiles, dask_executor, existing_cluster
from wsi_extract.errors import ConfigError
from wsi_extract.slides.open_slides import SlideCache
from wsi_extract.tasks import Task

pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder: Path) -> TlsFiles:
    return make_tls(folder / "ours")


@pytest.fixture(scope="module")
def foreign(folder: Path) -> TlsFiles:
    return make_tls(folder / "foreign")


@pytest.fixture(scope="module")
def tls_address(folder: Path, ours: TlsFiles) -> Iterator[str]:
    with other_cluster(folder / "scratch_tls", tls=ours) as (scheduler, _):
        yield scheduler.address


@pytest.fixture(scope="module")
def plain_address(folder: Path) -> Iterator[str]:
    with other_cluster(folder / "scratch_plain") as (scheduler, _):
        yield scheduler.address


def double(item: int, slides: SlideCache) -> int:
    return 2 * item


def test_tasks_run_on_a_cluster_with_tls(tls_address: str, ours: TlsFiles) -> None:
    assert tls_address.startswith("tls://")
    tasks = [Task(stage="extract", slide_ordinal=0, slide_id="s", index=i, function=double, item=i) for i in range(20)]
    with (
        existing_cluster(tls_address, tls=ours) as client,
        dask_executor(client, worker_memory_bytes=None, report_path=None) as executor,
    ):
        values = [result.value for result in executor.run(tasks)]
        assert all(address.startswith("tls://") for address in client.scheduler_info()["workers"])
    assert sorted(value for value in values if isinstance(value, int)) == [2 * i for i in range(20)]


def test_a_scheduler_of_another_authority_is_not_trusted(
    other_process: Executor, tls_address: str, foreign: TlsFiles
) -> None:
    assert "certificate verify failed" in refusal(other_process, tls_address, foreign)


def test_a_scheduler_refuses_a_certificate_of_another_authority(
    other_process: Executor, tls_address: str, ours: TlsFiles, foreign: TlsFiles
) -> None:
    """It is the check that keeps strangers from running code."""
    assert "same authority" in refusal(other_process, tls_address, replace(foreign, ca_file=ours.ca_file))


def test_a_scheduler_without_tls_is_not_taken_for_one_with_it(
    other_process: Executor, plain_address: str, ours: TlsFiles
) -> None:
    assert "--tls-ca-file" in refusal(other_process, plain_address.replace("tcp://", "tls://"), ours)


def test_a_scheduler_with_tls_is_not_reached_without(other_process: Executor, tls_address: str) -> None:
    assert "is at tls://" in refusal(other_process, tls_address.replace("tls://", "tcp://"), None)


def test_nobody_listens_at_a_tls_address(other_process: Executor, ours: TlsFiles) -> None:
    assert "no Dask scheduler" in refusal(other_process, "tls://127.0.0.1:1", ours, patience_s=0.5)


@pytest.mark.parametrize("name", ["ca_file", "cert", "key"])
@pytest.mark.parametrize("content", [None, b"", b"not a certificate"], ids=["missing", "empty", "damaged"])
def test_files_that_cannot_be_used_are_refused_first(
    tmp_path: Path, ours: TlsFiles, name: str, content: bytes | None
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    tls = replace(ours, **{name: path})
    with pytest.raises(ConfigError, match=str(path)), existing_cluster("tls://127.0.0.1:1", tls=tls):
        pass


@pytest.mark.parametrize("name", ["ca_file", "cert", "key"])
def test_a_file_that_is_missing_is_the_one_that_is_named(tmp_path: Path, ours: TlsFiles, name: str) -> None:
    tls = replace(ours, **{name: tmp_path / "lost.pem"})
    with (
        pytest.raises(ConfigError, match=r"^\S+/lost.pem cannot be read: No such file or directory\."),
        existing_cluster("tls://127.0.0.1:1", tls=tls),
    ):
        pass


def test_a_key_of_another_certificate_is_refused(ours: TlsFiles, foreign: TlsFiles) -> None:
    with (
        pytest.raises(ConfigError, match="belong together"),
        existing_cluster("tls://127.0.0.1:1", tls=replace(ours, key=foreign.key)),
    ):
        pass


def test_a_key_with_a_password_is_refused_instead_of_asked_for(tmp_path: Path, ours: TlsFiles) -> None:
    key = serialization.load_pem_private_key(ours.key.read_bytes(), password=None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with (
        pytest.raises(ConfigError, match="without password"),
        existing_cluster("tls://127.0.0.1:1", tls=replace(ours, key=locked)),
    ):
        pass


@pytest.mark.parametrize(("address", "has_files"), [("tcp://127.0.0.1:1", True), ("tls://127.0.0.1:1", False)])
def test_certificates_and_tls_belong_together(ours: TlsFiles, address: str, has_files: bool) -> None:
    with (
        pytest.raises(ConfigError, match="certificates"),
        existing_cluster(address, tls=ours if has_files else None),
    ):
        pass
