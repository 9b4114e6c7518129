"""From ``python submit_job.py`` to the data set: real programs, real library, an emulated service and its nodes."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import submit_job
from tests.azure import fake_az
from tests.azure.emulator import EmulatedJob
from tests.azure.fake_node import FakeCluster
from tests.azure.https_emulator import ServedAzure, served_azure
from tests.azure.in_process import without_waits, write_settings
from tests.azure.repositories import write_program
from tests.helpers_run import Inputs, extract, make_inputs, read_manifest
from wsi_extract.verify import audit, compare

# All of these start processes by the dozen: one after the other.
pytestmark = [pytest.mark.xdist_group("dask"), pytest.mark.timeout(900)]

EXTRACTION: dict[str, Any] = {"patches_per_slide": 10, "patch_size": 128, "train_val_split": 0.75, "seed": 7}
ANNOTATIONS = "databases/MITOS_WSI_CCMCT_HEAEL.json"
TIME = r"[\d-]+ [\d:]+Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A user's machine, the service, and the cluster."""

    program: Path
    served: ServedAzure
    cluster: FakeCluster
    az_calls: Path

    def submit(self, *arguments: str, timeout_s: float = 600, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``python submit_job.py --auth cli ARGUMENTS`` with nothing but ``az`` to log in with."""
        environment = {
            "PATH": f"{self.az_calls.parent}:/usr/bin:/bin",
            "HOME": str(self.program),
            **self.served.environment,
            **variables,
        }
        return subprocess.run(
            [sys.executable, str(self.program / "submit_job.py"), "--auth", "cli", *arguments],
            cwd=self.program.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def job(self) -> EmulatedJob:
        """The only job."""
        (job,) = self.served.service.jobs.values()
        return job

    @property
    def output(self) -> Path:
        """Where its data set is, or would be."""
        return self.cluster.output(self.job.name)

    @property
    def log(self) -> str:
        """What its first node has said."""
        return self.job.logs[min(self.job.logs)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Slides and annotations, laid out as in the data asset."""
    inputs = make_inputs(tmp_path_factory.mktemp("asset"), n_slides=3, counts=lambda uid: {2: 3 * uid, 7: 3})
    target = inputs.folder / ANNOTATIONS
    target.parent.mkdir()
    inputs.coco.rename(target)
    return inputs


@pytest.fixture
def data(made: Inputs, tmp_path: Path) -> Path:
    """A data asset that a test may damage."""
    return Path(shutil.copytree(made.folder, tmp_path / "data"))


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path, data=data) as site:
        yield site


@contextmanager
def open_site(folder: Path, *, data: Path, **job: object) -> Iterator[Site]:
    program = write_program(folder / "program", job=job, extraction=EXTRACTION)
    cluster = FakeCluster(folder=folder / "nodes", data=data, datastore=folder / "datastore")
    az_calls = fake_az.install_az(folder / "bin")
    with served_azure(folder / "service", on_job=cluster.start) as served:
        cluster.service = served.service
        yield Site(program=program, served=served, cluster=cluster, az_calls=az_calls)
        cluster.wait()


def content_of(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def content_digest(out: Path) -> str:
    return str(read_manifest(out)["content_sha256"])


@pytest.fixture(scope="module")
def local(made: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that the same settings give on this machine."""
    out = tmp_path_factory.mktemp("local") / "out"
    extract(made, out, annotation_json=str(made.folder / ANNOTATIONS), **EXTRACTION)
    return out


def test_a_job_makes_the_data_set_of_a_local_run(site: Site, data: Path, local: Path) -> None:
    before = content_of(data)
    done = site.submit("--wait")
    assert done.returncode == 0, done.stdout + done.stderr + site.log
    assert site.job.status == "Completed"
    assert site.job.name in done.stdout
    lines = site.log.splitlines()
    assert "START" in lines
    assert lines[-1] == "DONE"
    assert [line for line in lines if re.fullmatch(rf"{TIME} COMPLETE: 3 of 3 slides, .*", line)]
    assert " COMPLETE: 3 of 3 slides" in done.stdout  # streamed
    assert "warning: " not in done.stderr
    assert content_digest(site.output) == content_digest(local)
    assert compare(site.output, local).is_sound
    report = audit(site.output)
    assert report.is_sound
    assert report.is_complete
    assert unfinished(site.output) == []
    assert content_of(data) == before
    assert fake_az.read_calls(site.az_calls)


def unfinished(out: Path) -> list[str]:
    """Return the files of a data set that belong to a run in progress."""
    return [
        path.name
        for path in out.rglob("*")
        if path.is_file() and (".partial" in path.name or path.suffix == ".tmp" or "lock" in path.name)
        if path.stat().st_size
    ]


def test_a_slide_that_cannot_be_read_costs_only_itself(site: Site, data: Path) -> None:
    (data / "WSI" / "slide_2.svs").write_bytes(b"II*\0 no slide")
    done = site.submit("--wait", "--set", "extraction.workers=0")
    assert done.returncode == 0, done.stdout + done.stderr + site.log
    told = [line for line in site.log.splitlines() if not line.startswith("+ ") and line not in ("DONE", "")]
    assert re.match(rf"{TIME} INCOMPLETE: 1 of 3 slides failed", told[-1])
    assert done.stderr.splitlines()[-1].startswith("warning: INCOMPLETE: 1 of 3 slides failed")
    assert (site.output / "errors.jsonl").is_file()
    assert "slide_2" in (site.output / "errors.jsonl").read_text(encoding="utf-8")
    report = audit(site.output)
    assert report.is_sound
    assert not report.is_complete


def test_a_node_that_fails_leaves_nothing(site: Site, data: Path) -> None:
    (data / ANNOTATIONS).unlink()
    done = site.submit("--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    assert site.job.status == "Failed"
    assert site.cluster.exit_codes[site.job.name] == [2]
    assert "DONE" not in site.log.splitlines()
    assert not site.output.exists()
    assert site.job.name in done.stdout
    assert "Traceback" not in done.stderr


def test_files_of_a_mounted_output_survive_a_failure(data: Path, tmp_path: Path) -> None:
    (data / "WSI" / "slide_2.svs").write_bytes(b"II*\0 no slide")
    with open_site(tmp_path, data=data, output={"mode": "rw_mount"}) as site:
        done = site.submit("--wait", "--set", "extraction.workers=1")
        assert done.returncode == 1, done.stdout + done.stderr + site.log  # here an incomplete data set is a failure
        assert site.cluster.exit_codes[site.job.name] == [3]
        assert audit(site.output).is_sound


@pytest.mark.filterwarnings("ignore::marshmallow.warnings.Marshmallow4Warning")
def test_a_certificate_that_nobody_knows_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where no time passes between the attempts of Azure's library."""
    without_waits(monkeypatch)
    fake_az.install_az(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    config = write_settings(tmp_path / "config.json")
    with served_azure(tmp_path / "service", is_trusted=False) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        assert submit_job.main(["--auth", "cli", "--config", str(config)]) == 4
        assert "REQUESTS_CA_BUNDLE" in capsys.readouterr().err
        assert served.service.requests == []


def free_port() -> int:
    """Return a port below those that Linux hands out by itself: nobody else gets it until the scheduler opens it."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_two_nodes_make_the_data_set_of_one(data: Path, local: Path, tmp_path: Path) -> None:
    with open_site(tmp_path, data=data, nodes=2, trusted_network=True) as site:
        site.cluster.starts_after_s = {0: 1.0}  # the follower is first, and waits for the scheduler
        site.cluster.platform = {"WSI_EXTRACT_SCHEDULER_PORT": str(free_port())}
        done = site.submit("--wait", "--set", "extraction.workers=1")
        logs = "\n".join(site.job.logs.values())
        assert done.returncode == 0, done.stdout + done.stderr + logs
        assert site.cluster.exit_codes[site.job.name] == [0, 0]
        assert audit(site.output).is_sound
        assert unfinished(site.output) == []
        assert content_digest(site.output) == content_digest(local)
