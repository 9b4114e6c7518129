"""Which file system a folder lies on, as the table of mounts says, and how files are committed there."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disk.test_mount_inputs import can_mount
from wsi_extract.disk.mounts import COMMIT_VARIABLE, CommitForm, Mount, commit_form, form_on, mount_of
from wsi_extract.errors import ConfigError

TABLE = r"""
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /mnt/batch rw,nosuid master:3 propagate_from:2 - fuse blobfuse2 rw,user_id=0
31 22 0:27 / /mnt/with\040blank\134and\011tab rw - fuse.sshfs me@host:/x rw
32 22 0:28 / /mnt/nfs rw - nfs4 server:/share rw
33 22 0:29 / /mnt/hidden rw - ext4 /dev/sdb rw
34 33 0:30 / /mnt/hidden rw - fuse.rclone remote: rw
35 30 0:31 / /mnt/batch/local rw - xfs /dev/sdc rw
36 22 0:32 / /mnt/over/inner rw - fuse old rw
37 22 0:33 / /mnt/over rw - ext4 /dev/sdd rw
38 22 0:34 / /mnt/twice rw - fuse first rw
39 22 0:35 / /mnt/twice rw - xfs /dev/sde rw
40 35 0:36 /out /mnt/batch/local/x/bound rw - fuse blobfuse2 rw
a line of another kind
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE.lstrip())
    return path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/nowhere/at/all", "ext4"),
        ("/mnt/batch", "fuse"),
        ("/mnt/batch/out/train2017", "fuse"),
        ("/mnt/batches", "ext4"),  # a longer name, not a folder below
        ("/mnt/batch/local/x", "xfs"),  # the longest place counts
        ("/mnt/with blank\\and\ttab/x", "fuse.sshfs"),
        ("/mnt/nfs/x", "nfs4"),
        ("/mnt/hidden/x", "fuse.rclone"),  # the last mount on a place hides the others
        ("/mnt/twice/x", "xfs"),
        ("/mnt/over/inner/x", "ext4"),  # a mount further up hides those below
        ("/mnt/batch/local/x/bound/y", "fuse"),  # a part of a store, bound elsewhere
    ],
)
def test_a_folder_belongs_to_the_innermost_mount(table: Path, folder: str, kind: str) -> None:
    mount = mount_of(Path(folder), table=table)
    assert mount is not None
    assert mount.kind == kind


def test_links_are_followed_and_an_unknown_system_says_nothing(tmp_path: Path, table: Path) -> None:
    (tmp_path / "link").symlink_to("/mnt/nfs")
    mount = mount_of(tmp_path / "link" / "below", table=table)
    assert mount is not None
    assert (mount.kind, mount.source, mount.place) == ("nfs4", "server:/share", "/mnt/nfs")
    assert mount_of(tmp_path, table=tmp_path / "no table") is None
    assert form_on(None) is CommitForm.RENAME


def test_in_a_jail_the_root_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_text("33 32 0:29 / /jail rw - fuse blobfuse2 rw\n35 33 0:31 / /jail/local rw - xfs /dev/sdc rw\n")
    found = [mount_of(Path(place), table=path) for place in ("/jail/x", "/jail/local/x", "/elsewhere")]
    assert [mount and mount.kind for mount in found] == ["fuse", "xfs", None]


@pytest.mark.skipif(not can_mount(), reason="this user may not mount")
def test_mounts_of_the_kernel_are_told_apart(tmp_path: Path) -> None:
    """Compare with the kernel's own answer: the number of the mount of an open folder."""
    script = f"""
cd {tmp_path} && mkdir -p over/inner/deep bound twice && mount -t tmpfs a over/inner && mkdir over/inner/deep &&
mount --bind over/inner bound && mount -t tmpfs b over && mkdir -p over/inner/deep &&
mount -t tmpfs c twice && mount -t ramfs d twice && mkdir twice/x && ln -s bound link && exec {sys.executable} -c "
import os
from pathlib import Path
from wsi_extract.disk.mounts import mount_of
for name in ('over', 'over/inner/deep', 'bound/deep', 'twice/x', 'link/deep', '.', '/', '/proc', '/sys', '/dev/shm'):
    descriptor = os.open(name, os.O_RDONLY)
    facts = Path(f'/proc/self/fdinfo/{{descriptor}}').read_text().split()
    mount = mount_of(Path(name).absolute() / 'missing')
    print(name, facts[facts.index('mnt_id:') + 1], mount and mount.number)
"
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    end = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert end.returncode == 0, end.stderr
    rows = [line.split() for line in end.stdout.splitlines()]
    assert len(rows) == 10
    assert [row for row in rows if row[1] != row[2]] == []


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_any_name_of_a_place_is_read_back(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in name)
    path = tmp_path_factory.mktemp("table") / "mountinfo"
    path.write_bytes(os.fsencode(f"1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / /m{escaped} rw - fuse.x b rw\n"))
    mount = mount_of(Path(f"/m{name}/x"), table=path)
    assert mount is not None
    assert (mount.place, mount.kind) == (f"/m{name}", "fuse.x")


@pytest.mark.parametrize(
    ("kind", "source", "form"),
    [
        ("fuse", "blobfuse", CommitForm.DIRECT),
        ("fuse", "blobfuse2", CommitForm.DIRECT),
        ("fuse.blobfuse2", "blobfuse2", CommitForm.DIRECT),
        ("fuse", "rslex", CommitForm.DIRECT),
        ("fuse.rslex-fuse", "none", CommitForm.DIRECT),
        ("fuse.s3fs", "s3fs", CommitForm.DIRECT),
        ("fuse.gcsfuse", "bucket", CommitForm.DIRECT),
        ("fuse", "bucket", CommitForm.DIRECT),  # goofys names the bucket
        ("fuse", "mountpoint-s3", CommitForm.DIRECT),
        ("fuse.rclone", "remote:path", CommitForm.DIRECT),
        ("fuse.alluxio-fuse", "alluxio", CommitForm.DIRECT),
        ("fuse.unheard-of", "x", CommitForm.DIRECT),
        ("fuseblk", "/dev/sda1", CommitForm.RENAME),
        ("fuse.fuse-overlayfs", "fuse-overlayfs", CommitForm.RENAME),
        ("fuse", "fuse-overlayfs", CommitForm.RENAME),
        ("fuse.mergerfs", "a:b", CommitForm.RENAME),
        ("fuse.sshfs", "me@host:", CommitForm.RENAME),
        ("fuse.juicefs", "JuiceFS:x", CommitForm.RENAME),
        ("fuse.glusterfs", "host:/v", CommitForm.RENAME),
        ("fuse.ceph-fuse", "ceph-fuse", CommitForm.RENAME),
        ("ext4", "/dev/sda1", CommitForm.RENAME),
        ("overlay", "overlay", CommitForm.RENAME),
        ("nfs4", "server:/x", CommitForm.RENAME),
        ("cifs", "//server/x", CommitForm.RENAME),
        ("9p", "x", CommitForm.RENAME),
        ("fusectl", "fusectl", CommitForm.RENAME),
    ],
)
def test_stores_and_unknown_fuse_are_written_directly(kind: str, source: str, form: CommitForm) -> None:
    assert form_on(Mount(place="/m", kind=kind, source=source)) is form


def test_the_environment_decides_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    assert commit_form(tmp_path) is CommitForm.RENAME
    for form in CommitForm:
        monkeypatch.setenv(COMMIT_VARIABLE, form.value)
        assert commit_form(tmp_path) is form
    monkeypatch.setenv(COMMIT_VARIABLE, "")
    assert commit_form(tmp_path) is CommitForm.RENAME
    monkeypatch.setenv(COMMIT_VARIABLE, "directly")
    with pytest.raises(ConfigError, match="'directly'") as caught:
        commit_form(tmp_path)
    assert "rename or direct" in caught.value.remedy


def test_the_question_costs_nothing_beside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    commit_form(tmp_path)
    assert min(timeit.repeat(lambda: commit_form(tmp_path), number=1000, repeat=5)) / 1000 < 50e-6
