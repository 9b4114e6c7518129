"""The command line of the main job, as users and schedulers see it."""

from __future__ import annotations

import contextlib
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
from wsi_extract import machine, tasks
from wsi_extract.config import RunConfig
from wsi_extract.tasks import ElasticExecutor
from wsi_extract.verify import audit

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 250
"""For what takes seconds, unless the machine is busy with other things."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"), n_slides=3)


@pytest.fixture(scope="module")
def serial_content(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the user's job gives without a cluster."""
    out = tmp_path_factory.mktemp("serial") / "out"
    assert run_extraction.main(job(inputs, out, "--workers", "0")) == 0
    return content_of(out)


def job(inputs: Inputs, out: Path, *more: str) -> list[str]:
    """Return the user's job, with small patches."""
    return [
        "--wsi_dir", str(inputs.wsi_dir), "--annotation_json", str(inputs.coco), "--output_dir", str(out),
        "--patches_per_slide", "12", "--patch_size", "128", "--train_val_split", "0.8", "--seed", "42", *more,
    ]  # fmt: skip


def start(*arguments: str, cwd: Path = ROOT, start_new_session: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run_extraction.py"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def run_main(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run_extraction.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_users_job_runs_from_any_folder(inputs: Inputs, tmp_path: Path) -> None:
    process = start(*job(inputs, tmp_path / "out", "--workers", "0"), cwd=tmp_path)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "36 of 36 planned patches" in output
    assert "3 of 3 slides" in output
    assert read_manifest(tmp_path / "out")["status"] == "complete"


@pytest.mark.xdist_group("dask")
def test_a_local_cluster_prints_its_dashboard_and_leaves_a_report(
    inputs: Inputs, tmp_path: Path, serial_content: dict[str, bytes]
) -> None:
    process = start(*job(inputs, tmp_path / "out", "--workers", "2", "--dashboard_address", "127.0.0.1:0"))
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "dashboard: http://127.0.0.1:" in output
    assert (tmp_path / "out" / "dask-report.html").stat().st_size > 1000
    assert content_of(tmp_path / "out") == serial_content


def test_a_small_job_starts_no_cluster(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = run_main(*job(inputs, tmp_path / "out", "--dry_run"), capsys=capsys)
    assert code == 0
    assert "36 PNG files" in output
    assert "dashboard" not in output


def test_the_manifest_tells_how_many_processes_worked(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "n_cores", lambda: 2)
    monkeypatch.setattr(ElasticExecutor.__init__, "__kwdefaults__", {"patience_s": 600.0})
    code, output, _ = run_main(*job(inputs, tmp_path / "out"), capsys=capsys)
    assert code == 0
    assert "dashboard" not in output
    assert read_manifest(tmp_path / "out")["run"]["n_workers"] == 1


@pytest.mark.xdist_group("dask")
def test_a_job_that_takes_a_while_gets_a_cluster(
    inputs: Inputs,
    tmp_path: Path,
    serial_content: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "n_cores", lambda: 2)
    monkeypatch.setattr(ElasticExecutor.__init__, "__kwdefaults__", {"patience_s": 0.05})
    monkeypatch.setattr(tasks, "CLUSTER_START_S", 0.0)
    address = ["--dashboard_address", "127.0.0.1:0"]
    code, output, _ = run_main(*job(inputs, tmp_path / "out", *address), capsys=capsys)
    assert code == 0
    assert output.index("describe:") < output.index("dashboard: http://127.0.0.1:")
    assert (tmp_path / "out" / "dask-report.html").stat().st_size > 1000
    assert read_manifest(tmp_path / "out")["run"]["n_workers"] == 2
    assert content_of(tmp_path / "out") == serial_content


def is_loading_dask(pid: int) -> bool:
    return "tornado" in Path(f"/proc/{pid}/maps").read_text()


def has_started_workers(pid: int) -> bool:
    """Whether there are two processes besides Python's own helper."""
    children = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            children += (thread / "children").read_text().split()
    return len(children) >= 3


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a program does, as long as it lives."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.mark.xdist_group("dask")
@pytest.mark.parametrize("is_there", [is_loading_dask, has_started_workers])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_cluster_starts_is_one_line(
    inputs: Inputs, tmp_path: Path, number: signal.Signals, code: int, is_there: Callable[[int], bool]
) -> None:
    """Ctrl-C reaches every process of the terminal, those that are being started too."""
    arguments = job(inputs, tmp_path / "out", "--workers", "2", "--dashboard_address", "127.0.0.1:0")
    process = start(*arguments, start_new_session=True)
    wait_until(lambda: is_there(process.pid), process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, errors
    assert errors == "interrupted; give the same command again to resume\n"


def test_workers_without_memory_are_refused_before_they_start(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in (("--workers", "4000"), ("--workers", "2", "--worker_memory_mb", "200")):
        code, output, errors = run_main(*job(inputs, tmp_path / "out", *flags), capsys=capsys)
        assert (code, output) == (2, "")
        assert "Use fewer --workers" in errors


def test_an_encoder_that_is_not_installed_is_refused_at_once(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fpng", None)
    flags = ("--png_encoder", "fpng", "--workers", "0", "--dry_run")
    code, output, errors = run_main(*job(inputs, tmp_path / "out", *flags), capsys=capsys)
    assert (code, output) == (2, "")
    assert "pip install fpng" in errors


def test_hyphens_are_underscores(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        f"--{argument[2:].replace('_', '-')}" if argument.startswith("--") else argument
        for argument in job(inputs, tmp_path / "out", "--workers", "0", "--dry_run")
    ]
    assert run_main(*arguments, capsys=capsys)[0] == 0


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_extraction.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in RunConfig.model_fields if f"--{name}" not in text] == []


def test_help_loads_nothing_heavy() -> None:
    script = "import sys, run_extraction; run_extraction.build_parser().format_help(); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"numpy", "cv2", "dask", "distributed", "openslide", "PIL", "rich"} & set(output.split())


def test_several_wrong_flags_are_named_at_once(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = run_main(
        *job(inputs, tmp_path / "out", "--jitter", "2", "--sampling", "gird", "--workers", "-1"), capsys=capsys
    )
    assert code == 2
    for named in ("--jitter", "--sampling", "'gird'", "--workers"):
        assert named in errors
    assert not (tmp_path / "out").exists()


def test_config_file_with_unknown_keys(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"extraction": {"patch_sizes": 3, "seed": "42"}, "subscription_id": "any"}))
    code, _, errors = run_main("--config", str(config), *job(inputs, tmp_path / "out")[:6], capsys=capsys)
    assert code == 2
    assert "did you mean 'patch_size'?" in errors
    assert "extraction.seed" in errors


def test_names_with_brackets_are_shown_as_they_are(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, _ = run_main(*job(inputs, tmp_path / "o[/b][final]", "--workers", "0"), capsys=capsys)
    assert code == 0
    assert "o[/b][final]" in output.replace("\n", "")


def test_flags_win_over_the_config_file(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"extraction": {"patches_per_slide": 5, "seed": 7}}))
    arguments = job(inputs, tmp_path / "out", "--workers", "0", "--config", str(config))
    assert run_main(*arguments, capsys=capsys)[0] == 0
    settings = read_manifest(tmp_path / "out")["settings"]
    assert (settings["patches_per_slide"], settings["seed"]) == (12, 42)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        pytest.param({"--wsi_dir": "/nowhere"}, 2, "/nowhere", id="no slide folder"),
        pytest.param({"--annotation_json": "/nowhere.json"}, 2, "/nowhere.json", id="no annotation file"),
        pytest.param({"--annotation_json": str(ROOT / "README.md")}, 2, "README.md", id="not an annotation file"),
        pytest.param({"--test_slides": "nobody.svs"}, 2, "nobody.svs", id="unknown test slide"),
        pytest.param({"--category_map": "Mitosis=target"}, 2, "Mitotic figure", id="map names no class"),
        pytest.param({"--scheduler": "localhost:8786"}, 2, "--scheduler", id="scheduler without protocol"),
        pytest.param({"--output_dir": str(ROOT / "README.md")}, 2, "README.md", id="output is a file"),
        pytest.param({"--dashboard_address": "foo"}, 2, "--dashboard_address", id="dashboard without port"),
        pytest.param({"--output_dir": str(ROOT / "README.md" / "out")}, 5, "README.md", id="output below a file"),
        pytest.param({"--test_slides": ""}, 2, "empty", id="empty list"),
        pytest.param({"--level": "7"}, 2, "level", id="no such level"),
    ],
)
def test_user_mistakes_are_one_message_and_no_traceback(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], code: int, named: str
) -> None:
    arguments = job(inputs, tmp_path / "out", "--workers", "0", *(part for pair in change.items() for part in pair))
    found, output, errors = run_main(*arguments, capsys=capsys)
    assert found == code
    assert named in errors + output
    assert "Traceback" not in errors + output
    assert not (tmp_path / "out").exists()


def test_failed_slides_give_exit_code_3_or_a_warning(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "WSI"
    folder.mkdir()
    for slide in inputs.wsi_dir.iterdir():
        (folder / slide.name).write_bytes(slide.read_bytes())
    (folder / "broken.svs").write_bytes(b"no slide")
    arguments = ["--wsi_dir", str(folder), *job(inputs, tmp_path / "out", "--workers", "0")[2:]]
    code, output, _ = run_main(*arguments, capsys=capsys)
    assert code == 3
    assert "INCOMPLETE" in output
    assert "broken.svs" in output
    code, output, _ = run_main(*arguments, "--on_partial", "warn", capsys=capsys)
    assert code == 0
    assert "INCOMPLETE" in output
    assert json.loads((tmp_path / "out" / "errors.jsonl").read_text())["slide_id"] == "broken"


def test_a_split_that_stays_empty_is_said_loudly(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "WSI"
    folder.mkdir()
    for slide in inputs.wsi_dir.iterdir():
        (folder / slide.name).write_bytes(b"no slide" if slide.name == "slide_2.svs" else slide.read_bytes())
    arguments = ["--wsi_dir", str(folder), *job(inputs, tmp_path / "out", "--workers", "0")[2:]]
    code, output, _ = run_main(*arguments, "--test_slides", "slide_2.svs", capsys=capsys)
    assert code == 3
    assert "NO PATCHES in split test" in output
    document = json.loads((tmp_path / "out" / "annotations" / "instances_test2017.json").read_text())
    assert document["images"] == []
    assert audit(tmp_path / "out").problems == ()


def test_other_settings_give_exit_code_6(inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(*job(inputs, tmp_path / "out", "--workers", "0"), capsys=capsys)[0] == 0
    code, _, errors = run_main(*job(inputs, tmp_path / "out", "--workers", "0", "--seed", "1"), capsys=capsys)
    assert code == 6
    assert "settings.seed: was 42, now 1" in errors


@pytest.mark.xdist_group("dask")
def test_a_run_that_was_interrupted_twice_resumes(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without workers: see `test_interrupted_runs`."""
    more = ["--sampling", "grid", "--overlap", "0.7", "--dashboard_address", "127.0.0.1:0"]
    arguments = job(inputs, tmp_path / "out", *more)
    records = tmp_path / "out" / ".wsi_extract" / "records"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = set(records.glob("*/*.json"))
        process = start(*arguments, "--workers", "2")
        wait_until(lambda: bool(set(records.glob("*/*.json")) - before), process)  # noqa: B023  # called at once
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, errors
        assert "interrupted; give the same command again to resume\n" in errors
        assert "Traceback" not in errors
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert set(records.glob("*/*.json")) > before
    for again in (arguments, job(inputs, tmp_path / "undisturbed", *more)):
        assert run_main(*again, "--workers", "0", capsys=capsys)[0] == 0
    assert content_of(tmp_path / "out") == content_of(tmp_path / "undisturbed")


def test_certificates_without_other_machines_are_refused(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--tls_ca_file", "ca.pem", "--tls_cert", "cert.pem", "--tls_key", "key.pem")
    code, _, errors = run_main(*job(inputs, tmp_path / "out", *files), capsys=capsys)
    assert code == 2
    assert "are of no use on one machine" in errors
    assert not (tmp_path / "out").exists()
