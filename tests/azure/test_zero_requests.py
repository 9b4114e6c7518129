"""Help, mistakes and dry runs: nobody is asked anything, and Azure's libraries are not even imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.azure.helpers_job import EXACT_COMMAND
from tests.azure.in_process import write_settings
from tests.azure.repositories import ROOT, read_shipped

_GUARD = """
import atexit, json, os, sys

used = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "webbrowser.open"):
        used.append([event, repr(arguments)])
        raise PermissionError(f"the network is out of bounds: {event} {arguments}")

def report():
    with open(os.environ["GUARD_REPORT"], "w", encoding="utf-8") as file:
        json.dump({"used": used, "modules": sorted(sys.modules)}, file)

sys.addaudithook(watch)
atexit.register(report)
"""
"""A ``sitecustomize``: Python imports it before the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a program did."""

    exit_code: int
    stdout: str
    stderr: str
    used: list[list[str]]
    """Attempts to reach the network."""
    modules: list[str]

    def of_azure(self) -> list[str]:
        roots = {"azure", "msal", "requests", "urllib3", "marshmallow"}
        return [name for name in self.modules if name.split(".")[0] in roots]


def run_guarded(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run ``python ARGUMENTS`` where every way to the network is barred and recorded."""
    (folder / "sitecustomize.py").write_text(_GUARD, encoding="utf-8")
    report = folder / "guard.json"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "GUARD_REPORT": str(report), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    seen = json.loads(report.read_bytes())
    return Outcome(exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr, **seen)


def test_the_guard_sees_and_stops_requests(tmp_path: Path) -> None:
    text = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    outcome = run_guarded(tmp_path, "-c", text)
    assert outcome.exit_code == 1
    assert "out of bounds" in outcome.stderr
    assert outcome.used
    assert "azure.core" in run_guarded(tmp_path, "-c", "import azure.core").of_azure()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_settings(tmp_path / "config.json", **read_shipped())


SUBMIT = str(ROOT / "submit_job.py")


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        pytest.param(("--help",), 0, id="help"),
        pytest.param(("--unknown",), 2, id="bad flag"),
        pytest.param(("--dry-run", "-v", "--auth", "cli", "--wait"), 0, id="dry run with more"),
        pytest.param(("--dry_run", "--set", "job.nodse=4"), 2, id="unknown key"),
        pytest.param(("--set", "extraction.patch_size=0"), 2, id="bad value"),
        pytest.param(("--config", "no-such.json"), 2, id="no config"),
    ],
)
def test_nobody_is_asked(tmp_path: Path, config: Path, arguments: tuple[str, ...], exit_code: int) -> None:
    outcome = run_guarded(tmp_path, SUBMIT, "--config", str(config), *arguments)
    assert outcome.exit_code == exit_code, outcome.stderr
    assert outcome.used == []
    assert outcome.of_azure() == []
    assert "Traceback" not in outcome.stderr


def test_placeholders_stop_a_submission_before_anything_is_asked(tmp_path: Path, config: Path) -> None:
    write_settings(config, **{**read_shipped(), "subscription_id": "<your-subscription-id>"})
    outcome = run_guarded(tmp_path, SUBMIT, "--config", str(config))
    assert outcome.exit_code == 2
    assert "subscription_id" in outcome.stderr
    assert (outcome.used, outcome.of_azure()) == ([], [])


def test_a_dry_run_with_placeholders_shows_the_job_and_what_to_fill_in(tmp_path: Path, config: Path) -> None:
    write_settings(config, **{**read_shipped(), "subscription_id": "<your-subscription-id>"})
    outcome = run_guarded(tmp_path, SUBMIT, "--config", str(config), "--dry_run")
    assert outcome.exit_code == 2
    assert "subscription_id" in outcome.stdout
    assert EXACT_COMMAND in outcome.stdout
    assert (outcome.used, outcome.of_azure()) == ([], [])


def test_the_extraction_knows_nothing_of_azure(tmp_path: Path) -> None:
    outcome = run_guarded(tmp_path, str(ROOT / "run_extraction.py"), "--help")
    assert outcome.exit_code == 0
    assert (outcome.used, outcome.of_azure()) == ([], [])
