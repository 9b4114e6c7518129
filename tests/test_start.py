"""What goes wrong in the first moments of a program, before it can handle anything, is one line as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsi_extract.start import Imports, describe_missing

ROOT = Path(__file__).resolve().parents[1]
GUARDED = """
from wsi_extract.start import Imports, run_program
with Imports(__name__):
    import os, signal, sys
    {imports}
def main():
    {body}
    return 7
sys.exit(run_program(main))
"""


def run_script(*, imports: str = "pass", body: str = "pass", before: str = "") -> subprocess.CompletedProcess[str]:
    script = before + GUARDED.format(imports=imports, body=body)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=250
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["imports", "body"])
def test_a_signal_is_a_plain_death_without_a_traceback(number: signal.Signals, place: str) -> None:
    result = run_script(**{place: f"os.kill(os.getpid(), {number.value})"})
    assert (result.returncode, result.stdout, result.stderr) == (-number, "", "")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert run_script(before=before, imports="os.kill(os.getpid(), signal.SIGINT)").returncode == 7


@pytest.mark.parametrize(
    ("imports", "named"),
    [
        pytest.param("sys.modules['numpy'] = None; import numpy.linalg", "numpy", id="a package that is not there"),
        pytest.param("raise ModuleNotFoundError('no shared library')", "no shared library", id="what a package needs"),
        pytest.param("raise ImportError('libGL.so.1: cannot open', name='cv2.gapi')", "libGL", id="a library of it"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_one_line(imports: str, named: str) -> None:
    result = run_script(imports=imports)
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith("pip install -r requirements.txt\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'x'", name="wsi_extract.disk.files"),
        ModuleNotFoundError("No module named 'wsi_extract.filez'", name="wsi_extract.filez"),
        ModuleNotFoundError("No module named '_sqlite3'", name="_sqlite3"),
    ],
)
def test_what_is_no_missing_package_is_a_bug(error: ImportError) -> None:
    assert describe_missing(error) == ""


def test_nothing_happens_when_the_module_is_imported() -> None:
    before = signal.getsignal(signal.SIGINT)
    missing = ModuleNotFoundError("No module named 'numpy'", name="numpy")
    with Imports("run_extraction"):
        assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ModuleNotFoundError), Imports("run_extraction"):
        raise missing


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_program_goes_on_when_nobody_reads_it(tmp_path: Path, stream: str) -> None:
    """As with ``program | head -1``."""
    body = f"[print(i, file=sys.{stream}) for i in range(100_000)]; open({str(tmp_path / 'end')!r}, 'w').close()"
    read_end, write_end = os.pipe()
    os.close(read_end)
    script = GUARDED.format(imports="pass", body=body)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write_end}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, **streams)  # type: ignore[call-overload]
    os.close(write_end)
    output, errors = process.communicate(timeout=250)
    assert (process.returncode, output or "", errors or "") == (7, "", "")
    assert (tmp_path / "end").exists()


def test_a_reader_that_is_slow_loses_nothing() -> None:
    """Whoever else has the pipe may have set it not to block: then a full one is an error, and no reason to end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    body = "[print('x' * 99) for _ in range(3000)]"  # more than a pipe holds
    script = GUARDED.format(imports="pass", body=body)
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read(1) == b"x"
        time.sleep(0.3)  # the pipe fills up
        output = b"x" + pipe.read()
    _, errors = process.communicate(timeout=250)
    assert (process.returncode, errors) == (7, "")
    assert output == (b"x" * 99 + b"\n") * 3000


def test_output_that_finds_no_room_is_said_and_costs_the_output_only() -> None:
    script = GUARDED.format(imports="pass", body="[print('x' * 100) for _ in range(3)]")
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert result.returncode == 7
    assert result.stderr == (
        b"warning: the output is lost from here on: No space left on device; the program goes on\n"
    )


def test_files_never_get_the_place_of_a_closed_standard_stream(tmp_path: Path) -> None:
    """Libraries in C write to descriptor 2 whatever they complain about."""
    body = f"print('hello'); file = open({str(tmp_path / 'pixels')!r}, 'wb'); sys.exit(file.fileno())"
    before = "import os; [os.close(descriptor) for descriptor in (0, 1, 2)]"
    assert run_script(before=before, body=body).returncode > 2


def test_text_that_the_output_cannot_show_is_shown_as_far_as_possible() -> None:
    result = run_script(before="import sys; sys.stdout.reconfigure(encoding='ascii')", body=r"print('\u00b5m')")
    assert (result.returncode, result.stdout) == (7, "\\xb5m\n")


def test_the_guard_loads_nothing_that_takes_time() -> None:
    script = "import sys; before = set(sys.modules); import wsi_extract.start; print(*set(sys.modules) - before)"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"argparse", "pydantic", "numpy", "tempfile", "logging", "threading"} & set(output.split())
