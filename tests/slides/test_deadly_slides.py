"""A slide that ends the process that reads it: the run after that one survives it, and so do all others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers_run import Inputs, make_inputs, read_manifest
from wsi_extract.cluster.schedule import dask_executor, local_cluster
from wsi_extract.gather import read_all_series
from wsi_extract.state.folder_lock import ended_hard

ROOT = Path(__file__).resolve().parents[2]
DEADLY = """
import os, signal, sys
def on_event(event, arguments):
    if event == "open" and str(arguments[0]).endswith("slide_1.svs"):
        frame = sys._getframe(1)
        while frame:
            if frame.f_code.co_name == os.environ["DEADLY_IN"]:
                os.kill(os.getpid(), signal.SIGSEGV)
            frame = frame.f_back
sys.addaudithook(on_event)
"""
"""Loaded by every Python process that finds it, also by workers."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("input"))


def run(inputs: Inputs, out: Path, *, deadly_in: str) -> int:
    folder = out.parent / "site"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(DEADLY)
    job = [
        "--wsi_dir", str(inputs.wsi_dir), "--annotation_json", str(inputs.coco), "--output_dir", str(out),
        "--patches_per_slide", "4", "--patch_size", "128", "--train_val_split", "0.8",
        "--dashboard_address", "127.0.0.1:0",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder), "DEADLY_IN": deadly_in}
    return subprocess.run(
        [sys.executable, str(ROOT / "run_extraction.py"), *job],
        env=environment, capture_output=True, timeout=250, check=False,
    ).returncode  # fmt: skip


@pytest.mark.timeout(900)  # three runs, with processes of their own to start
@pytest.mark.xdist_group("dask")
def test_it_costs_one_run_and_then_only_itself(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(inputs, out, deadly_in="describe") == -11  # the first slide is always read by the run itself
    assert ended_hard(out)
    for _ in range(2):  # the second time there is no mark any more, but it is remembered
        assert run(inputs, out, deadly_in="describe") == 3
        assert not ended_hard(out)
    rows = {row["slide_id"]: row["status"] for row in read_manifest(out)["slides"]}
    assert rows == {"slide_1": "failed", "slide_2": "complete", "slide_3": "complete", "slide_4": "complete"}


@pytest.mark.xdist_group("dask")
def test_dicom_files_are_opened_where_slides_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends the process that opens it ends no other."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DEADLY.replace("slide_1.svs", "deadly.dcm"))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("DEADLY_IN", "read_series")
    slides = tmp_path / "WSI"
    slides.mkdir()
    for name in ("deadly.dcm", "whole.dcm"):
        (slides / name).write_bytes(b"no slide")
    with (
        local_cluster(n_workers=1, memory_bytes=10**9, dashboard_address="127.0.0.1:0") as client,
        dask_executor(client, worker_memory_bytes=10**9, report_path=None) as executor,
    ):
        series = read_all_series(sorted(slides.iterdir()), executor=executor)
    assert series == {slides / "deadly.dcm": None, slides / "whole.dcm": None}
