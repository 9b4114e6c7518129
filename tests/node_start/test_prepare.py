"""The first step on a node, where no environment is made: it goes on, or says in one message what is missing."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.node_start.helpers import MODULES, ROOT, Project, finish, make_project, unpack_wheels
from wsi_extract.node_start.commands import Commands
from wsi_extract.node_start.interpreters import candidates, pip_environ, uv_environ
from wsi_extract.node_start.requirements import read_requirements

READ_BY_OLD_PYTHONS = ["run_extraction.py", *(f"wsi_extract/{name}.py" for name in MODULES)]
READ_BY_THE_OLDEST = [
    "run_extraction.py",
    *(f"wsi_extract/{name}.py" for name in ("__init__", "node_start/__init__", "node_start/prepare")),
]
PYENV = Path.home() / ".pyenv" / "versions"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "node")


@pytest.mark.parametrize("name", READ_BY_OLD_PYTHONS)
def test_old_pythons_can_read_it(name: str) -> None:
    ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name, feature_version=(3, 8))


@pytest.mark.parametrize("name", READ_BY_THE_OLDEST)
def test_the_oldest_pythons_can_read_what_tells_them_so(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name, feature_version=(3, 7))
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not futures  # Python 3.6 knows no annotations from there


@pytest.mark.parametrize("version", ["3.6.15", "3.7.16", "3.8.18", "3.9.18", "3.10.13"])
def test_a_python_that_is_too_old_is_one_message(version: str) -> None:
    python = PYENV / version / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no Python {version} here")
    environ = {"PATH": "/usr/bin:/bin", "WSI_EXTRACT_SETUP": "never"}
    command = [str(python), "-B", "run_extraction.py", "--help"]
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert f"Python {version}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_good_environment_is_used_as_it_is(project: Project, tmp_path: Path) -> None:
    unpack_wheels(project.folder / "index", tmp_path / "here")
    environ = project.environ(PYTHONPATH=str(tmp_path / "here"))
    for variables in (environ, environ | {"WSI_EXTRACT_SETUP": "never"}):
        ended = finish(project.start("a b", environ=variables))
        assert (ended.code, ended.errors) == (7, "")
        assert ended.told["tiny"] == str(tmp_path / "here" / "tiny_thing.py")
        assert ended.told["environ"] == variables | {"LC_CTYPE": "C.UTF-8"} or ended.told["environ"] == variables
    assert not project.environments.exists()


def test_what_is_missing_is_said_at_once(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("tiny-thing>=1\nother-thing\npip>=999\n")
    environ = project.environ()
    del environ["WSI_EXTRACT_SETUP"]
    before_s = time.monotonic()
    ended = finish(project.start(environ=environ))
    assert time.monotonic() - before_s < 60  # 0.1 s where nothing else runs, minutes where a network is waited for
    assert (ended.code, ended.told) == (2, {})
    lines = ended.errors.splitlines()
    assert lines[:3] == [
        "error: this environment lacks what the program needs:",
        "  tiny-thing is missing, needed >=1",
        "  other-thing is missing",
    ]
    assert f"pip install -r {project.folder / 'requirements.txt'}" in lines[-1]
    assert "job.setup" in lines[-1]


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"WSI_EXTRACT_NODES": "3", "NODE_RANK": "2"}, 0),
        ({"WSI_EXTRACT_NODES": "3", "RANK": "1"}, 0),
        ({"WSI_EXTRACT_NODES": "3", "NODE_RANK": "", "RANK": "1"}, 0),
        ({"WSI_EXTRACT_NODES": "", "NODE_RANK": "1"}, 2),
        ({"WSI_EXTRACT_NODES": "3", "NODE_RANK": "0", "RANK": "1"}, 2),
        ({"WSI_EXTRACT_NODES": "1", "NODE_RANK": "1"}, 2),
        ({"NODE_RANK": "1"}, 2),
        ({"WSI_EXTRACT_NODES": "x", "NODE_RANK": "1"}, 2),
    ],
)
@pytest.mark.parametrize("setup", ["auto", "never"])
def test_a_node_that_follows_fails_nothing_but_loudly(
    project: Project, variables: dict[str, str], code: int, setup: str
) -> None:
    """A follower that ended otherwise would end the job."""
    (project.folder / "requirements.txt").write_text("-e unreadable\n" if setup == "auto" else "not-there\n")
    ended = finish(project.start(environ=project.environ(WSI_EXTRACT_SETUP=setup, **variables)))
    assert (ended.code, ended.told) == (code, {})
    assert ended.errors.startswith("error: ")
    assert ("THIS NODE TAKES NO PART IN THE JOB" in ended.errors) is (code == 0)


@pytest.mark.parametrize(("rank", "code"), [("0", 7), ("1", 0)])
def test_a_node_that_follows_ends_well_whatever_comes_later(project: Project, rank: str, code: int) -> None:
    unpack_wheels(project.folder / "index", project.folder)
    ended = finish(project.start(environ=project.environ(WSI_EXTRACT_NODES="2", NODE_RANK=rank)))
    assert (ended.code, ended.errors) == (code, "")
    assert ended.told["argv"] == ["program.py"]  # what it has printed is not lost


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("rank", "code"), [("0", 2), ("1", 0)])
def test_a_message_that_nobody_can_read_changes_nothing(
    project: Project, redirection: str, rank: str, code: int
) -> None:
    environ = project.environ(WSI_EXTRACT_SETUP="never", WSI_EXTRACT_NODES="2", NODE_RANK=rank)
    command = ["sh", "-c", f'"$0" program.py {redirection}', sys.executable]
    assert subprocess.run(command, cwd=project.folder, env=environ, check=False).returncode == code


def test_an_editor_of_windows_may_have_written_the_requirements(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes(b"\xef\xbb\xbftiny-thing>=1.0\r\n# x\r\n\r\nother  # y\r\n")
    found = read_requirements(tmp_path / "r.txt")
    assert [(requirement.name, requirement.wanted()) for requirement in found] == [
        ("tiny-thing", ">=1.0"),
        ("other", ""),
    ]


def test_where_others_can_write_nothing_is_used(project: Project) -> None:
    project.environments.mkdir(mode=0o755)
    project.environments.chmod(0o755)
    ended = finish(project.start(environ=project.environ()))
    assert ended.code == 2
    assert f"{project.environments}: not a folder that belongs to this user alone" in ended.errors
    assert "WSI_EXTRACT_ENV_DIR" in ended.errors
    assert not list(project.environments.iterdir())


def test_a_link_to_somewhere_else_is_not_followed(project: Project, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    project.environments.symlink_to(tmp_path / "elsewhere")
    ended = finish(project.start(environ=project.environ()))
    assert ended.code == 2
    assert "not a folder that belongs to this user alone" in ended.errors
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_is_checked_where_the_package_is_installed(project: Project) -> None:
    (project.folder / "requirements.txt").unlink()
    ended = finish(project.start(environ=project.environ()))
    assert ended.code == 1
    assert "No module named 'tiny_thing'" in ended.errors


def test_what_uv_writes_stays_in_our_folder(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.touch()
    given = {"PIP_CERT": str(certificates), "PIP_PROXY": "http://proxy:3128", "UV_PYTHON_CACHE_DIR": "/elsewhere"}
    environ = uv_environ(given, own_folder=tmp_path)
    written = {name: value for name, value in environ.items() if name.endswith("_DIR")}
    assert set(written) == {"UV_PYTHON_INSTALL_DIR", "UV_PYTHON_BIN_DIR", "UV_CACHE_DIR"}
    assert all(Path(value).is_relative_to(tmp_path) for value in written.values())
    assert (environ["SSL_CERT_FILE"], environ["HTTPS_PROXY"]) == (str(certificates), "http://proxy:3128")


def test_settings_for_uv_win_over_those_of_pip(tmp_path: Path) -> None:
    own = {"SSL_CERT_FILE": "/mine.pem", "https_proxy": "http://mine", "UV_PYTHON_INSTALL_MIRROR": "http://mirror"}
    environ = uv_environ(own | {"PIP_PROXY": "http://proxy:3128"}, own_folder=tmp_path)
    assert own.items() <= environ.items()
    assert "HTTPS_PROXY" not in environ


def test_pip_keeps_of_its_files_how_the_index_is_reached_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://general/simple\nproxy = http://p:1\nextra-index-url =\n  https://a\n  https://b\n"
        "[install]\nindex-url = https://special/simple\ntarget = /opt/conda\nuser = true\nconstraint = /pins.txt\n"
    )
    given = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_PROXY": "http://mine:1", "PATH": "/bin"}
    environ = pip_environ(Commands(given, time.monotonic() + 250, print), temporary_folder=tmp_path / "tmp")
    expected = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://special/simple",
        "PIP_EXTRA_INDEX_URL": "https://a https://b",
        "PIP_PROXY": "http://mine:1",
    }
    assert expected.items() <= environ.items()
    assert not {"PIP_TARGET", "PIP_USER", "PIP_CONSTRAINT"} & set(environ)
    assert environ["TMPDIR"] == str(tmp_path / "tmp")


@pytest.mark.parametrize("conda", ["/conda", "conda", "/opt/conda/bin/conda", "/"])
def test_leftovers_of_conda_do_no_harm(conda: str) -> None:
    assert all(Path(path).exists() for path in candidates({"CONDA_EXE": conda, "PATH": "/bin"}))


def test_the_program_itself_finds_this_environment_good() -> None:
    python = shutil.which(sys.executable) or sys.executable
    result = subprocess.run([python, "run_extraction.py", "--help"], cwd=ROOT, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
