"""Programs of the start step: time limits, patience, and errors that say what failed and what to do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from wsi_extract.node_start.commands import Commands, SetupError

NO_NETWORK = "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution"
NO_NETWORK_WITH_PIP = (
    f"Collecting numpy>=2.0\nWARNING: Retrying: {NO_NETWORK}\nERROR: No matching distribution found for numpy>=2.0"
)


def commands(said: list[str], *, seconds: float = 250, pauses_s: Sequence[float] = (0.01, 0.01)) -> Commands:
    return Commands(os.environ, time.monotonic() + seconds, said.append, None, tuple(pauses_s))


def failing(output: str, *, counter: Path, succeeds_at: int = 99) -> list[str]:
    script = (
        "import sys; counter = open(sys.argv[1], 'a+'); counter.write('x'); counter.seek(0);"
        "n = len(counter.read()); print(sys.argv[2]); sys.exit(n < int(sys.argv[3]))"
    )
    return [sys.executable, "-S", "-c", script, str(counter), output, str(succeeds_at)]


@pytest.mark.parametrize(
    ("output", "n_attempts", "told"),
    [
        pytest.param(NO_NETWORK_WITH_PIP, 3, ["at numpy>=2.0", "PIP_INDEX_URL"], id="network"),
        pytest.param("error: dns error\nerror sending request for url", 3, ["UV_PYTHON_INSTALL_MIRROR"], id="uv"),
        pytest.param("HTTP error 503 while getting x", 3, ["PIP_INDEX_URL"], id="index in trouble"),
        pytest.param(
            "Collecting a\nOSError: [Errno 28] No space left on device", 1, ["WSI_EXTRACT_ENV_DIR"], id="disk"
        ),
        pytest.param("connection broken: CERTIFICATE_VERIFY_FAILED", 1, ["PIP_CERT"], id="certificate"),
        pytest.param("ERROR: No matching distribution found for zarr>=9", 1, ["at zarr>=9", "image"], id="no such one"),
        pytest.param("Downloading a.whl (500 kB)\nERROR: a is broken", 1, ["image"], id="a size is no status"),
        pytest.param("status server error (503 Service Unavailable)", 3, ["PIP_INDEX_URL"], id="uv, index in trouble"),
    ],
)
def test_only_what_may_pass_is_tried_again(tmp_path: Path, output: str, n_attempts: int, told: list[str]) -> None:
    said: list[str] = []
    with pytest.raises(SetupError) as caught:
        commands(said).insist(failing(output, counter=tmp_path / "n"), what="installing")
    assert (tmp_path / "n").read_text() == "x" * n_attempts
    assert len(said) == n_attempts - 1
    for text in ["installing failed", f"  | {output.splitlines()[-1]}", 'job.setup to "never"', *told]:
        assert text in str(caught.value)


def test_a_network_that_comes_back_is_good_enough(tmp_path: Path) -> None:
    said: list[str] = []
    command = failing(NO_NETWORK, counter=tmp_path / "n", succeeds_at=3)
    assert commands(said).insist(command, what="installing").strip() == NO_NETWORK
    assert len(said) == 2


def test_no_attempt_is_made_that_has_no_time(tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        commands([], pauses_s=(600, 600)).insist(failing(NO_NETWORK, counter=tmp_path / "n"), what="installing")
    assert (tmp_path / "n").read_text() == "x"


def test_what_takes_too_long_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    before_s = time.monotonic()
    with pytest.raises(SetupError, match="time for making an environment is over") as caught:
        commands([], seconds=2).run(["sh", "-c", "echo at numpy; sleep 240; :"])
    assert time.monotonic() - before_s < 200  # the output is at its end only when "sleep" has gone as well
    assert "  | at numpy" in str(caught.value)


def test_a_limit_of_one_program_is_a_result() -> None:
    assert commands([]).run(["sleep", "60"], limit_s=0.2).code == 124


def test_a_program_that_is_not_there_is_a_result(tmp_path: Path) -> None:
    finished = commands([]).run([str(tmp_path / "nothing")])
    assert (finished.is_good, "No such file" in finished.output) == (False, True)


def test_passwords_are_not_shown() -> None:
    links = "https://me:se@cret@index.example/simple https://x/y?sv=1&sig=secret%3D&se=2"
    script = f"print('Looking in {links}'); raise SystemExit(1)"
    with pytest.raises(SetupError) as caught:
        commands([]).insist([sys.executable, "-S", "-c", script], what="installing")
    assert "cret" not in str(caught.value)
    assert "https://****@index.example/simple" in str(caught.value)
