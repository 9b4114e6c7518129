"""What must be known of a folder before anything in it is opened: a data set may come from anybody.

A pipe would make a reader wait for ever, a device has no end, and a link may lead to a file that is none of ours.
Nothing is opened here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsi_extract.model import Split
from wsi_extract.slide_names import MAX_ID_LENGTH
from wsi_extract.state.layout import MANIFEST, OWNED, STATE, instances_name, run_path
from wsi_extract.verify.findings import Check, Findings

GIB = 1 << 30
MAX_TABLE_BYTES = 4 * GIB
"""Of the manifest, ``run.json``, tables and COCO documents: some ten million boxes."""
MAX_DOCUMENT_BYTES = GIB // 4
"""Of every other document, each of which is about one block, one slide or one array."""
MAX_PIXELS_BYTES = 16 * GIB
"""Of a shard or a patch."""
TABLES = frozenset({MANIFEST, run_path(Path()).as_posix(), *(instances_name(split) for split in Split)})
DOCUMENT_ENDINGS = (".json", ".npz", "lock")
SLIDE_ID = re.compile(r"[A-Za-z0-9._-]+")


def check_entries(output_dir: Path, *, findings: Findings) -> bool:
    """Report what cannot be opened without danger, and tell whether the rest can."""
    problems = list(find_unsafe_entries(output_dir))
    for path, message in problems:
        findings.add(Check.FOLDER, path, f"{message}; nothing was opened")
    return not problems


def check_slide_ids(slide_ids: Iterable[str], *, path: Path, findings: Findings) -> bool:
    """Report slide ids that would lead out of the folder as part of a path, and tell whether all are sound."""
    problems = [slide_id for slide_id in slide_ids if not is_slide_id(slide_id)]
    for slide_id in problems:
        findings.add(Check.MANIFEST, path, f"{slide_id[:MAX_ID_LENGTH]!r} cannot be the id of a slide")
    return not problems


def is_slide_id(text: str) -> bool:
    """Tell whether a text can be the id of a slide: the name of one folder or file, on every system.

    >>> is_slide_id("case_7__scan.1"), is_slide_id("../../etc"), is_slide_id(".."), is_slide_id("")
    (True, False, False, False)
    """
    return len(text) <= MAX_ID_LENGTH and SLIDE_ID.fullmatch(text) is not None and bool(text.strip("."))


def find_unsafe_entries(output_dir: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, what is wrong) of entries of an output folder that must not be opened.

    Links within the folder are accepted, and so are further names of one file (hard links): whatever is written here
    is written beside and renamed, so that no other name of a file ever sees a change.
    """
    root = output_dir.resolve()
    for name in OWNED:
        top = output_dir / name
        pending = [] if not os.path.lexists(top) else [top]
        while pending:
            path = pending.pop()
            try:
                message, is_folder = _judge(path, name=path.relative_to(output_dir).as_posix(), root=root)
                if message:
                    yield path, message
                elif is_folder:
                    pending.extend(sorted(path.iterdir(), reverse=True))
            except OSError as error:
                yield path, f"cannot be looked at: {error.strerror}"


def _judge(path: Path, *, name: str, root: Path) -> tuple[str, bool]:
    """Return what is wrong with an entry, an empty text when nothing is, and whether it is a folder to look into."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        try:
            target = path.resolve()
        except RuntimeError:  # a link to itself
            return "is a link that leads nowhere", False
        return ("" if target.is_relative_to(root) else f"is a link that leads out of the folder, to {target}"), False
    if stat.S_ISDIR(status.st_mode):
        return "", True
    if not stat.S_ISREG(status.st_mode):
        return "is no file but a pipe, a socket or a device", False
    limit = _most_bytes(name)
    return (f"has {status.st_size:,} bytes, more than {limit:,}" if status.st_size > limit else ""), False


def _most_bytes(name: str) -> int:
    if name in TABLES or name.endswith((".csv", ".jsonl", ".html")):
        return MAX_TABLE_BYTES
    return MAX_DOCUMENT_BYTES if name.endswith(DOCUMENT_ENDINGS) or name.startswith(f"{STATE}/") else MAX_PIXELS_BYTES
