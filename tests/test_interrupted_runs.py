"""Runs that are stopped in each of their phases, or lose their reader, and what is there when they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import run_extraction
from tests.helpers_run import Inputs, content_of, make_inputs, read_manifest
from wsi_extract import machine
from wsi_extract.config import RUN_FIELDS
from wsi_extract.state.folder_lock import ended_hard, locked
from wsi_extract.state.layout import lock_path

ROOT = Path(__file__).resolve().parents[1]
SIGNALLED = """
import os, runpy, sys
from wsi_extract import blocks
blocks.MIN_BLOCK_PATCHES = 16  # as in all tests
number, event_name, pattern = int(sys.argv[1]), sys.argv[2], sys.argv[3]
left = [1]
def on_event(event, arguments):
    if left and event == event_name and pattern in str(arguments[0]):
        left.clear()
        os.kill(os.getpid(), number)
sys.addaudithook(on_event)
del sys.argv[:4]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The program sends itself a signal when it opens, or renames, the first file whose path holds a pattern."""
RESUME = "interrupted; give the same command again to resume\n"


def run_signalled(
    number: signal.Signals, event: str, pattern: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    program = ["-c", SIGNALLED, str(number.value), event, pattern, str(ROOT / "run_extraction.py")]
    return subprocess.run(
        [sys.executable, *program, *arguments], capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=3)


def job(inputs: Inputs, out: Path, *more: str) -> list[str]:
    return [
        "--wsi_dir", str(inputs.wsi_dir), "--annotation_json", str(inputs.coco), "--output_dir", str(out),
        "--patches_per_slide", "20", "--patch_size", "128", "--train_val_split", "0.8", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """Return what an undisturbed run with a store gives."""
    known: dict[str, dict[str, bytes]] = {}

    def content(store: str) -> dict[str, bytes]:
        if store not in known:
            out = tmp_path_factory.mktemp("undisturbed") / "out"
            assert run_extraction.main([*job(inputs, out, "--workers", "0"), "--store", store]) == 0
            known[store] = content_of(out)
        return known[store]

    return content


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(("open", "annotations.json", "png"), id="gather"),
        pytest.param(("open", "run.json.", "png"), id="claim"),
        pytest.param(("open", "plans/slide_2.npz.", "png"), id="survey"),
        pytest.param(("os.rename", "train2017/slide_1/", "png"), id="a patch gets its name"),
        pytest.param(("os.rename", "records/slide_2/000000.json.", "png"), id="a record gets its name"),
        pytest.param(("open", "zarr.json.", "zarr"), id="publish"),
        pytest.param(("os.rename", "pixels.zarr/slide_2/0/c/", "pixels"), id="a shard of pixels gets its name"),
        pytest.param(("open", "instances_val2017.json.", "png"), id="finish"),
        pytest.param(("os.rename", "manifest.json.", "png"), id="the manifest gets its name"),
    ],
)
def test_a_run_stopped_anywhere_resumes(
    inputs: Inputs, tmp_path: Path, undisturbed: Callable[[str], dict[str, bytes]], moment: tuple[str, str, str]
) -> None:
    out = tmp_path / "out"
    event, pattern, store = moment
    arguments = job(inputs, out, "--workers", "0", "--store", store)
    result = run_signalled(signal.SIGTERM, event, pattern, *arguments)
    assert (result.returncode, result.stderr) == (143, RESUME)
    assert not ended_hard(out)
    assert run_extraction.main(arguments) == 0
    assert content_of(out) == undisturbed(store)
    assert lock_path(out).read_bytes() == b""


def test_a_killed_run_resumes_and_is_known_to_have_been_killed(
    inputs: Inputs, tmp_path: Path, undisturbed: Callable[[str], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    arguments = job(inputs, out, "--workers", "0")
    result = run_signalled(signal.SIGKILL, "os.rename", "records/slide_2/000000.json.", *arguments)
    assert (result.returncode, result.stderr) == (-9, "")
    assert ended_hard(out)
    assert run_extraction.main(arguments) == 0
    assert content_of(out) == undisturbed("png")
    assert not ended_hard(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_other_signals_do_the_same(inputs: Inputs, tmp_path: Path, number: signal.Signals, code: int) -> None:
    arguments = job(inputs, tmp_path / "out", "--workers", "0")
    result = run_signalled(number, "open", "records/slide_1/", *arguments)
    assert (result.returncode, result.stderr) == (code, RESUME)


def test_a_closed_terminal_stops_the_run_in_good_order(inputs: Inputs, tmp_path: Path) -> None:
    """What is written to it fails from then on, which must not hide why the run ended."""
    driver, terminal = os.openpty()
    out = tmp_path / "out"
    arguments = job(inputs, out, "--workers", "0", "--sampling", "grid", "--overlap", "0.9")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_extraction.py"), *arguments],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    deadline_s = time.monotonic() + 250
    while not list(out.glob(".wsi_extract/records/*/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        os.read(driver, 10_000)
    os.close(driver)
    process.send_signal(signal.SIGHUP)  # sent by the system only to a session that the terminal belongs to
    assert process.wait(timeout=250) == 129
    assert lock_path(out).read_bytes() == b""
    assert not (out / "manifest.json").exists()


def test_a_run_whose_reader_ends_goes_on_to_its_end(inputs: Inputs, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run_extraction.py"), *job(inputs, tmp_path / "out", "--workers", "0")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=250) == 0
    assert read_manifest(tmp_path / "out")["status"] == "complete"


def test_a_folder_that_is_being_written_is_refused_at_once(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "out", command="convert"):
        code = run_extraction.main(job(inputs, tmp_path / "out", "--workers", "2"))
        captured = capsys.readouterr()
        assert (code, captured.out) == (5, "")
        assert f"is being written by process {os.getpid()}" in captured.err


@pytest.mark.xdist_group("dask")
def test_after_a_hard_end_no_slide_is_read_in_the_program_itself(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on one core, where there is no cluster otherwise."""
    monkeypatch.setattr(machine, "n_cores", lambda: 1)
    lock_path(tmp_path / "out").parent.mkdir(parents=True)
    lock_path(tmp_path / "out").write_text("{}")
    assert run_extraction.main(job(inputs, tmp_path / "out", "--dashboard_address", "0.0.0.0:0")) == 0
    captured = capsys.readouterr()
    assert captured.out.index("dashboard: ") < captured.out.index("describe: 3 of 3")
    died, watched = captured.err.splitlines()
    assert died.startswith(f"warning: the last run in {tmp_path / 'out'} died")
    assert watched.startswith("warning: the dashboard at 0.0.0.0:0 has no login")
    assert not ended_hard(tmp_path / "out")


def test_serial_stays_serial_after_a_hard_end_and_says_what_would_help(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock_path(tmp_path / "out").parent.mkdir(parents=True)
    lock_path(tmp_path / "out").write_text("{}")
    assert run_extraction.main(job(inputs, tmp_path / "out", "--workers", "0")) == 0
    captured = capsys.readouterr()
    assert "dashboard" not in captured.out
    assert "leave --workers 0 out" in captured.err


def test_resuming_asks_only_for_settings_that_the_output_depends_on(
    inputs: Inputs, tmp_path: Path, undisturbed: Callable[[str], dict[str, bytes]]
) -> None:
    out = tmp_path / "out"
    assert run_extraction.main(job(inputs, out, "--workers", "0", "--reader", "openslide")) == 0
    (out / "manifest.json").unlink()
    first = {path: path.stat().st_mtime_ns for path in out.glob("*2017/*/*.png")}
    other = ["--reader", "auto", "--on_partial", "warn", "--task_timeout_s", "99", "--worker_memory_mb", "900"]
    assert run_extraction.main(job(inputs, out, "--workers", "0", *other)) == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    settings = json.loads((out / ".wsi_extract" / "run.json").read_bytes())["settings"]
    assert set(settings) & RUN_FIELDS == set()


def test_certificates_that_are_none_are_refused_in_one_message(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pem = tmp_path / "not.pem"
    pem.write_text("no certificate")
    flags = [part for name in ("tls_ca_file", "tls_cert", "tls_key") for part in (f"--{name}", str(pem))]
    arguments = job(inputs, tmp_path / "out", "--scheduler", "tls://127.0.0.1:9", *flags)
    assert run_extraction.main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {pem} is no certificate authority")
    assert errors.count("\n") == 1


def test_a_missing_package_is_one_line(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name in {"distributed", "wsi_extract.cluster.schedule"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delattr("wsi_extract.cluster.schedule", raising=False)
    assert run_extraction.main(job(inputs, tmp_path / "out", "--workers", "2")) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: the package distributed is missing: ")
    assert "pip install -r requirements.txt\n" in errors
    assert errors.count("\n") == 1
