"""Judges an output folder between runs and after the last: what may be there, what must be, and what was done twice.

The measure is the folder of an undisturbed run. In between, every file under its final name must be whole, nothing may
open or look finished that is not; at the end everything must be there, byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.faults.roles import role_of_file
from wsi_extract.disk.files import is_temporary
from wsi_extract.model import Split
from wsi_extract.state.layout import (
    MANIFEST,
    instances_name,
    patch_shard_path,
    pixel_shard_path,
    plan_path,
    split_folder,
)
from wsi_extract.verify import audit, compare

OF_THIS_RUN = frozenset({"manifest", "report", "lock", "fault", "errors"})
"""Roles of files that hold times, or tell of the faults themselves."""
Facts = Mapping[str, tuple[int, int, int]]
"""Inode, time of change and size of files."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What is wrong with a folder, and what was lost, duplicated or done twice."""

    problems: list[str] = field(default_factory=list)
    n_lost: int = 0
    n_duplicated: int = 0
    n_redone: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.problems or self.n_lost or self.n_duplicated or self.n_redone)


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Knows the folder of the undisturbed run."""

    expected: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Every file that depends on the data alone."""
        return {
            name: path.read_bytes()
            for name, path in _files_below(self.expected)
            if role_of_file(name) not in OF_THIS_RUN
        }

    @cached_property
    def images(self) -> list[str]:
        """The patches of all splits."""
        return _images(self.expected)

    def judge_unfinished(self, out: Path, *, may_be_torn: bool = False) -> Verdict:
        """Judge a folder whose run died: nothing half-written under a final name, nothing that looks finished.

        Parameters
        ----------
        may_be_torn
            Whether files may end too early, or in zeros, as where they are written directly: they count as absent then.
        """
        verdict = Verdict()
        present = {name: path for name, path in _files_below(out) if not _is_leftover(name)}
        if may_be_torn:
            present = {name: path for name, path in present.items() if not self._is_torn(name, path)}
        if MANIFEST in present:
            self._judge_whole(out, verdict)
        for name, path in present.items():
            if role_of_file(name) in OF_THIS_RUN:
                continue
            if name not in self.files:
                verdict.problems.append(f"{name}: belongs to nobody")
            elif path.read_bytes() != self.files[name]:
                verdict.problems.append(f"{name}: half-written, or with other content")
        for name in present.keys() & self.files.keys():
            for needed in self._needed_by(name):
                if needed not in present:
                    verdict.problems.append(f"{name}: says that {needed} is done, which is not there")
        return verdict

    def _is_torn(self, name: str, path: Path) -> bool:
        """Whether a file is the beginning of what it should be; of the manifest, which tells times, whether half.

        Behind that may be zeros, for bytes that a power loss took.
        """
        data = path.read_bytes()
        if name == MANIFEST:
            return not data.endswith(b"}\n")
        whole = self.files.get(name, data)
        return data != whole and len(data) <= len(whole) and whole.startswith(data.rstrip(b"\0"))

    def _needed_by(self, name: str) -> Iterator[str]:
        """Yield what must be there before a file may."""
        role = role_of_file(name)
        if name.endswith("/zarr.json") and role in ("zarr_document", "index"):
            above = name.removesuffix("zarr.json")
            yield from (other for other in self.files if other.startswith(above))
        elif role == "survey":
            yield plan_path(Path(), slide_id=Path(name).stem).as_posix()
        elif role == "record":
            yield from _files_of_record(self.files[name], expected=self.files)
        elif role == "pixel_record":
            row, column = Path(name).stem.split("_")
            yield pixel_shard_path(Path(), slide_id=Path(name).parent.name, row=int(row), column=int(column)).as_posix()
        elif role == "slide_manifest":
            parts = {"record", "pixel_record"}
            slide_id = Path(name).stem
            yield from (n for n in self.files if role_of_file(n) in parts and Path(n).parent.name == slide_id)

    def facts_of_records(self, out: Path) -> Facts:
        """Return what tells whether finished work is done again: of records, and of their files of pixels."""
        facts: dict[str, tuple[int, int, int]] = {}
        for name, _ in _files_below(out):
            is_record = role_of_file(name) in ("record", "pixel_record")
            if is_record and name in self.files and (out / name).read_bytes() == self.files[name]:
                for each in (name, *self._needed_by(name)):
                    if (out / each).is_file():
                        facts[each] = _facts_of(out / each)
        return facts

    def judge_finished(self, out: Path, *, before: Facts | None = None) -> Verdict:
        """Judge a folder whose run reported success.

        Parameters
        ----------
        before
            `facts_of_records` as the last run found the folder: none of these files may have been written again.
        """
        verdict = Verdict()
        self._judge_whole(out, verdict)
        if not verdict.problems or (out / MANIFEST).exists():
            found = Counter(_images(out))
            verdict.n_lost = sum(1 for name in self.images if not found[name])
            verdict.n_duplicated = found.total() - len(found) + len(set(found) - set(self.images))
        for name, facts in (before or {}).items():
            if not (out / name).is_file() or _facts_of(out / name) != facts:
                verdict.n_redone += role_of_file(name) in ("record", "pixel_record")
                verdict.problems.append(f"{name}: was complete, and was written again")
        return verdict

    def _judge_whole(self, out: Path, verdict: Verdict) -> None:
        """Add what an audit and a comparison with the undisturbed run find."""
        for report in (audit(out), compare(self.expected, out)):
            verdict.problems += [str(problem) for problem in report.problems]
        if not verdict.problems:
            ours, theirs = (json.loads((folder / MANIFEST).read_bytes()) for folder in (out, self.expected))
            if ours.get("content_sha256") != theirs.get("content_sha256"):
                verdict.problems.append("the manifest has another content_sha256")


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def _is_leftover(name: str) -> bool:
    """Whether a file is a temporary, or lies in a folder that is about to be deleted."""
    return any(is_temporary(part) for part in name.split("/"))


def _facts_of(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _images(out: Path) -> list[str]:
    names: list[str] = []
    for split in Split:
        path = out / instances_name(split)
        if path.is_file():
            names += [f"{split}/{image['file_name']}" for image in json.loads(path.read_bytes())["images"]]
    return names


def _files_of_record(data: bytes, *, expected: Mapping[str, bytes]) -> Iterator[str]:
    """Yield the files of pixels that a record tells of, in whichever stores."""
    document: Any = next(value for value in json.loads(data).values() if isinstance(value, dict))
    split = Split(document["split"])
    if "shard" in document:
        number = document["shard"]["number"]
        yield patch_shard_path(Path(), slide_id=document["slide_id"], split=split, shard=number).as_posix()
    for patch in document["patches"]:
        name = f"{split_folder(split)}/{patch['file_name']}"
        if name in expected:
            yield name
