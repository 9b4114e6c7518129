"""Environments that are really made: once by two processes, again after any death, and never used half-made."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.node_start.helpers import ROOT, Ended, Project, finish, make_project, unpack_wheels, write_wheel
from wsi_extract.node_start.commands import Commands, SetupError
from wsi_extract.node_start.environment import IMPORT_ALL, LOADER, NOT_FOR_US, import_all, isolated
from wsi_extract.node_start.folder import locked, private_folder
from wsi_extract.node_start.requirements import read_requirements

MAKING = "making an environment in"
MAY_TAKE_LONG = pytest.mark.timeout(1200)  # it makes environments: seconds, but many of them on a busy machine
OLD_PYTHON = Path.home() / ".pyenv/versions/3.8.18/bin/python"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "node")


def use_good_environment(ended: Ended, project: Project) -> Path:
    """Check that a program has run in an environment of its own, and return that environment's folder."""
    assert ended.code == 7, ended.errors
    folder = Path(str(ended.told["prefix"])).parent
    assert (folder.parent / "complete").read_text() == folder.name
    assert str(ended.told["tiny"]).startswith(str(folder / "venv"))
    return folder


@MAY_TAKE_LONG
def test_two_processes_make_one_environment_and_go_on_in_it(project: Project, tmp_path: Path) -> None:
    """MLflow is in it where the job has a use for that. What is damaged is replaced, by one without if need be."""
    (tmp_path / "planted").mkdir()
    write_wheel(tmp_path / "planted", "mlflow-skinny", "3.0")
    unpack_wheels(tmp_path / "planted", tmp_path / "planted")
    (tmp_path / "planted" / "tiny_thing.py").write_text("raise SystemExit('this is of the other environment')\n")
    (tmp_path / "pins.txt").write_text("tiny-thing==0.1\n")
    environ = project.environ(
        PYTHONPATH=str(tmp_path / "planted"),
        PYTHONWARNINGS="error",
        PIP_USER="1",
        PIP_CONSTRAINT=str(tmp_path / "pins.txt"),
        PIP_TARGET=str(tmp_path / "target"),
        PIP_PYTHON=sys.executable,  # pip would install into the environment that started
        PIP_NO_DEPS="1",
    )
    write_wheel(project.folder / "index", "mlflow-skinny", "3.1")
    write_wheel(project.folder / "index", "azureml-mlflow", "1.62.1", needs="tiny-thing==1.2")
    write_wheel(project.folder / "index", "tiny-thing", "1.1")
    write_wheel(project.folder / "index", "azureml-mlflow", "1.63", needs="tiny-thing==1.1")
    arguments = ("--flag", "a b", "'\"$")
    of_job = environ | {"MLFLOW_TRACKING_URI": "azureml://x"}
    ends = [finish(process) for process in [project.start(*arguments, environ=of_job) for _ in range(2)]]
    for ended in ends:
        folder = use_good_environment(ended, project)
        assert (ended.told["argv"], ended.told["cwd"]) == (["program.py", *arguments], str(project.folder))
        check_variables(dict(ended.told["environ"]), folder, environ)  # type: ignore[call-overload]
    assert not (tmp_path / "target").exists()
    assert sum(MAKING in ended.errors for ended in ends) == 1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert packages_in(folder) == [
        "azureml_mlflow-1.62.1.dist-info",  # the newer one would change what the program needs
        "mlflow_skinny-3.1.dist-info",
        "tiny_thing-1.2.dist-info",
    ]

    other_node = folder.parent / "attempt-00000000-x"
    other_node.mkdir()
    (module,) = folder.glob("venv/lib/*/site-packages/tiny_thing.py")
    module.unlink()
    shutil.rmtree(project.folder / "index")
    project.folder.joinpath("index").mkdir()
    write_wheel(project.folder / "index", "tiny-thing", "1.2")
    ended = finish(project.start(environ=environ | {"AZUREML_RUN_ID": "x"}))
    assert use_good_environment(ended, project) != folder
    assert folder.exists()  # another process may run in it
    assert other_node.exists()  # a disk may be shared without its locks
    assert "is damaged, another is made: " in ended.errors
    assert ended.errors.count("warning: no metrics in the studio") == 1

    process = project.start(environ=environ)
    while len({attempt.parent for attempt in project.environments.glob("*/attempt-*")}) == 1:
        assert process.poll() is None  # without a use for MLflow it is another, made where that disturbs nothing
        time.sleep(0.005)
    process.kill()
    process.communicate()


def check_variables(found: dict[str, str], folder: Path, given: dict[str, str]) -> None:
    assert found["WSI_EXTRACT_SETUP"] == "done"
    assert found["PATH"].startswith(f"{folder / 'venv' / 'bin'}{os.pathsep}")
    of_the_other = {*NOT_FOR_US, "PIP_USER", "PIP_CONSTRAINT", "PIP_TARGET", "PIP_PYTHON", "PIP_NO_DEPS"}
    assert not of_the_other & set(found)
    assert found.get("TMPDIR") == given.get("TMPDIR")


def packages_in(folder: Path) -> list[str]:
    """Return what is installed in an environment besides pip and what came with it."""
    names = sorted(path.name for path in folder.glob("venv/lib/*/site-packages/*.dist-info"))
    return [name for name in names if not name.startswith(("pip-", "setuptools-"))]


MOMENTS = {
    "nothing but a folder": "*/attempt-*",
    "no pip, or half of one": "*/*/venv/pyvenv.cfg",
    "the packages": "*/*/venv/lib/*/site-packages/tiny_thing.py",
    "all of it": "*/complete",
}


@MAY_TAKE_LONG
def test_a_process_can_be_killed_at_any_moment(project: Project) -> None:
    python = str(OLD_PYTHON) if OLD_PYTHON.exists() else sys.executable
    (project.folder / "bin").mkdir()
    newer = project.folder / "bin" / f"python3.{sys.version_info.minor}"
    newer.symlink_to(os.path.realpath(sys.executable))
    environ = project.environ(PATH=f"{newer.parent}{os.pathsep}/usr/bin{os.pathsep}/bin", HOME=str(project.folder))
    for name, pattern in MOMENTS.items():
        before = set(project.environments.glob(pattern))
        process = project.start(environ=environ, python=python)
        while not set(project.environments.glob(pattern)) - before:
            assert process.poll() is None, name
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert name == "all of it" or not any(project.environments.glob("*/complete")), name
    ended = finish(project.start(environ=environ, python=python))
    use_good_environment(ended, project)
    assert MAKING not in ended.errors  # the last one was complete


@MAY_TAKE_LONG
def test_what_cannot_be_installed_is_said(project: Project) -> None:
    (project.folder / "requirements.txt").write_text("tiny-thing>=1\nunheard-of>=3\n")
    ended = finish(project.start(environ=project.environ()))
    assert (ended.code, ended.told) == (2, {})
    assert "error: installing the packages of requirements.txt failed at unheard-of>=3 (exit code 1)." in ended.errors
    assert "\n  | ERROR: No matching distribution found for unheard-of>=3\n" in ended.errors
    assert not any(project.environments.glob("*/*"))  # the room is given back


def test_a_disk_without_room_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_extract.node_start.folder.NEEDED_BYTES", 2**70)
    with pytest.raises(SetupError, match=r"GB are free, \d+\.\d GB are needed"):
        private_folder({"WSI_EXTRACT_ENV_DIR": str(tmp_path)}, digest="abc")
    complete = tmp_path / f"wsi_extract-{os.geteuid()}" / "abc" / "complete"
    complete.parent.mkdir()
    complete.touch()
    assert private_folder({"WSI_EXTRACT_ENV_DIR": str(tmp_path)}, digest="abc") == complete.parents[1]


def test_without_a_home_and_a_temporary_folder_there_are_places_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_extract.node_start.folder.NEEDED_BYTES", 2**70)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SetupError) as caught:
        private_folder({}, digest="abc")
    assert len(caught.value.message.splitlines()) == 3  # not /.cache

    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr("wsi_extract.node_start.folder.NEEDED_BYTES", 0)
    assert private_folder({}, digest="abc").parent == Path("/var/tmp")


def test_a_lock_that_is_never_released_ends_the_waiting(tmp_path: Path) -> None:
    said: list[str] = []
    lock = tmp_path / "abc.lock"
    with locked(lock, say=said.append, ends_at_s=0) as descriptor:
        assert descriptor is not None
        with (
            pytest.raises(SetupError, match="does not end"),
            locked(lock, say=said.append, ends_at_s=time.monotonic() + 0.7),
        ):
            pass
    assert said == ["another process of this node makes the environment; waiting for it"]


def test_without_locks_it_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    lock = tmp_path / "abc.lock"
    with locked(lock, say=print, ends_at_s=0) as first, locked(lock, say=print, ends_at_s=0) as second:
        assert (first, second) == (None, None)


@pytest.mark.parametrize(
    ("module", "is_good"),
    [
        pytest.param("", True, id="good"),
        pytest.param("raise ImportError('libGL.so.1: cannot open')", False, id="broken"),
        pytest.param("import os; assert 'LD_LIBRARY_PATH' not in os.environ", True, id="disturbed by other libraries"),
    ],
)
def test_packages_are_good_when_they_were_imported(tmp_path: Path, module: str, is_good: bool) -> None:
    write_wheel(tmp_path, "tiny-thing", "1.2")
    unpack_wheels(tmp_path, tmp_path)
    (tmp_path / "tiny_thing.py").write_text(module)
    environ = dict(os.environ) | {"PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": "/opt/conda/lib"}
    commands = Commands(environ, time.monotonic() + 250, print)
    environment, problem = import_all(sys.executable, ["tiny-thing"], commands=commands)
    assert (environment is not None) is is_good
    assert problem == ("" if is_good else "ImportError: libGL.so.1: cannot open")
    if environment is not None:
        assert set(LOADER) & set(environment.environ) == ({"LD_LIBRARY_PATH"} if module == "" else set())


def test_a_package_behind_another_of_its_name_is_not_good(tmp_path: Path) -> None:
    """Its version is known, but it is not what would be imported: a copy in ``PYTHONPATH`` has no version."""
    write_wheel(tmp_path, "tiny-thing", "1.2")
    unpack_wheels(tmp_path, tmp_path / "installed")
    shadow = tmp_path / "shadow" / "tiny_thing.py"
    shadow.parent.mkdir()
    shadow.touch()
    environ = dict(os.environ) | {"PYTHONPATH": f"{shadow.parent}{os.pathsep}{tmp_path / 'installed'}"}
    _, problem = import_all(sys.executable, ["tiny-thing"], commands=Commands(environ, time.monotonic() + 250, print))
    assert problem == f"ImportError: {shadow} is not of tiny-thing"


def test_the_other_environment_is_kept_out() -> None:
    environ = isolated({"PYTHONPATH": "/a", "PIP_CONSTRAINT": "/c", "PIP_INDEX_URL": "https://i", "PIP_PYTHON": "/p"})
    assert environ["PIP_INDEX_URL"] == "https://i"  # how the index is reached is the node's affair
    assert environ["PYTHONNOUSERSITE"] == "1"
    assert not {*NOT_FOR_US, "PIP_CONSTRAINT", "PIP_PYTHON"} & set(environ)


def test_modules_of_all_the_real_requirements_are_imported() -> None:
    """A check of imports is worth nothing for a package none of whose modules it finds."""
    names = [requirement.name for requirement in read_requirements(ROOT / "requirements.txt")]
    commands = Commands(os.environ, time.monotonic() + 250, print)
    finished = commands.run([sys.executable, "-c", IMPORT_ALL, *names])
    imported = dict(line.split() for line in finished.output.splitlines())
    assert (finished.code, list(imported)) == (0, names)
    assert (imported["pillow"], imported["opencv-python-headless"], imported["numpy"]) == ("PIL", "cv2", "numpy")
