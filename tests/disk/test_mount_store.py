"""Runs into a real mount with the manners of an object store, chosen by its file system alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.test_mount_kills import damage_one_patch
from tests.faults import kills
from tests.faults.clusters import START_S, wait_for_file
from tests.faults.plans import Plan
from tests.faults.shop import COMPLETE, RESUMABLE, Shop
from tests.helpers_store_mount import StoreMount, mounted, why_impossible
from wsi_extract.disk.mounts import COMMIT_VARIABLE, CommitForm, commit_form
from wsi_extract.storage import Store
from wsi_extract.verify import audit

pytestmark = pytest.mark.skipif(bool(why_impossible()), reason=why_impossible())


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreMount]:
    with mounted(tmp_path_factory.mktemp("store")) as mount:
        yield mount


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mount: StoreMount) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(COMMIT_VARIABLE, raising=False)
        folder = tmp_path_factory.mktemp("shop")
        with Shop(folder=folder, n_slides=2, patches_per_slide=8, is_direct=True, out_root=mount.place) as shop:
            yield shop


@pytest.fixture(autouse=True)
def fresh_log(mount: StoreMount) -> Iterator[None]:
    os.truncate(mount.log, 0)
    yield
    assert mount.refused() == []


@pytest.mark.parametrize("store", list(Store))
def test_a_run_into_a_store_gives_what_a_disk_gives(shop: Shop, mount: StoreMount, store: Store) -> None:
    out = shop.new_folder()
    assert commit_form(out) is CommitForm.DIRECT
    assert commit_form(shop.folder) is CommitForm.RENAME
    end = shop.run(out, store=store)
    assert end.code == COMPLETE, end.text
    done = mount.operations()
    n_files = sum(path.is_file() for path in out.rglob("*"))
    assert done["upload"] == done["create"] == n_files + 1  # the note is gone
    assert done["overwrite"] == 0
    verdict = shop.oracle(store).judge_finished(out)
    assert verdict.problems == []


def test_runs_killed_at_random_times_are_resumed(shop: Shop) -> None:
    for outcome in kills.signals_at_random(shop, Store.BOTH, signal_number=signal.SIGKILL, n=2, seed=7):
        assert outcome.verdict.problems == []


def test_what_is_damaged_in_a_store_is_mended(shop: Shop) -> None:
    out = shop.new_folder()
    assert shop.run(out, store=Store.PNG).code == COMPLETE
    damage_one_patch(out)
    assert not audit(out).is_sound
    argv = ["verify", str(out), "--repair", "--workers", "0"]
    end = shop.forker.run(Plan(output_dir=str(out)), argv, program="wsi_extract")
    assert end.code == COMPLETE, end.text
    assert shop.oracle(Store.PNG).judge_finished(out).problems == []


def test_a_store_is_filled_anew(shop: Shop) -> None:
    out = shop.new_folder()
    assert shop.run(out, store=Store.PNG).code == COMPLETE
    end = shop.forker.run(Plan(output_dir=str(out)), [*shop.argv(out, store=Store.ZARR), "--fresh"])
    assert end.code == COMPLETE, end.text
    assert shop.oracle(Store.ZARR).judge_finished(out).problems == []


def test_two_runs_at_once_are_one_too_many(shop: Shop) -> None:
    out = shop.new_folder()
    pid = shop.forker.start(Plan(output_dir=str(out)), shop.argv(out, store=Store.PNG))
    wait_for_file(out / ".wsi_extract" / "claim")
    os.kill(pid, signal.SIGSTOP)
    with Shop(folder=shop.folder / "second", n_slides=1) as other:
        end = other.forker.run(Plan(output_dir=str(out)), shop.argv(out, store=Store.PNG))
    os.kill(pid, signal.SIGCONT)
    assert (end.code, f"being written by process {pid}" in end.text) == (RESUMABLE, True)
    assert shop.forker.wait().code == COMPLETE
    assert shop.oracle(Store.PNG).judge_finished(out).problems == []


def test_a_store_that_dies_is_mounted_again_and_the_run_goes_on(shop: Shop, tmp_path: Path) -> None:
    with mounted(tmp_path) as first:
        out = first.place / "out"
        shop.forker.start(Plan(output_dir=str(out)), shop.argv(out, store=Store.PNG))
        give_up_s = time.monotonic() + START_S
        while first.operations()["upload"] < 30:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        first.server.kill()
        end = shop.forker.wait()
        assert end.code == RESUMABLE, end.text
        assert "Traceback" not in end.text
    with mounted(tmp_path):
        outcome = shop.resume("the store died", out, end, store=Store.PNG)
        assert outcome.verdict.problems == []


def test_the_store_does_refuse_what_a_disk_allows(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "rename")
    with mounted(tmp_path) as mount, Shop(folder=tmp_path / "shop", n_slides=1) as other:
        end = other.run(mount.place / "out", store=Store.PNG)
        assert end.code != COMPLETE
        assert mount.refused()
        path = mount.place / "file"
        path.write_bytes(b"whole")
        for change in (
            lambda: path.rename(mount.place / "other"),
            lambda: path.open("ab").close(),
            lambda: path.open("r+b").close(),
            lambda: path.chmod(0o600),
            lambda: os.utime(path, (1, 1)),
            lambda: os.link(path, mount.place / "other"),
            lambda: os.truncate(path, 2),
        ):
            with pytest.raises(OSError, match=r"not supported|not permitted"):
                change()
        assert path.read_bytes() == b"whole"
        (mount.place / "folder").mkdir()
        (mount.place / "folder" / "file").write_bytes(b"")
        (mount.place / "folder" / "file").unlink()
        time.sleep(1.1)  # what the kernel remembers of names
        assert not (mount.place / "folder").exists()
    shutil.rmtree(tmp_path / "objects")
