"""Small JSON documents on disk. Records carry the digest of their own content; their existence means done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_extract.disk.files import canonical_json, sha256_of
from wsi_extract.errors import IntegrityError

DIGEST_CHARACTERS = 64
"""Of a SHA-256 as hex."""
HEAD = b'{"sha256":"'
TAIL = b"}\n"
REMEDY = "Delete it and run again."
ALARM_REMEDY = (
    "Nothing was replaced. The slide has changed without a trace, memory is damaged, or a library does not always "
    "give the same result: run again, best on another machine. If the same comes out there, what was recorded is wrong:"
)


def encode_record(document: Mapping[str, Any], *, kind: str) -> bytes:
    """Return the bytes of a record: canonical JSON with the digest of its content in front.

    Parameters
    ----------
    kind
        What is recorded: the key under which the document stands.
    """
    body = canonical_json(document)
    return _head(sha256_of(body), kind=kind) + body + TAIL


def _head(digest: str, *, kind: str) -> bytes:
    return HEAD + f'{digest}","{kind}":'.encode()


def digest_in(record: bytes) -> str:
    """Return the digest that stands in a record made by `encode_record`: the SHA-256 of its content."""
    start = len(HEAD)
    return record[start : start + DIGEST_CHARACTERS].decode("ascii")


def read_record(path: Path, *, kind: str, schema: int) -> tuple[dict[str, Any], str] | None:
    """Return the document of the record at ``path`` and its SHA-256, ``None`` when there is none.

    Raises
    ------
    IntegrityError
        When the file is damaged, or of another kind or schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body = data[len(_head("0" * DIGEST_CHARACTERS, kind=kind)) : -len(TAIL)]
    # Over the bytes as they lie there: to encode the document once more costs as much as to read it.
    if data != _head(sha256_of(body), kind=kind) + body + TAIL:
        raise IntegrityError(f"the record {path} is damaged: it does not match its own digest.", REMEDY)
    try:
        document: dict[str, Any] = json.loads(body)
        is_known = document["schema"] == schema
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"the record {path} is damaged: {error}.", REMEDY) from error
    if not is_known:
        raise IntegrityError(f"the record {path} is of another version of this program.", REMEDY)
    return document, digest_in(data)


def determinism_alarm(what: str, *, difference: str, path: Path) -> IntegrityError:
    """Return the error of work that was done once more and came out otherwise than its record at ``path`` says.

    Parameters
    ----------
    what
        The slide and the piece of it.
    difference
        What differs, with both values.
    """
    return IntegrityError(
        f"determinism alarm: {what} was written once more after the same plan, but {difference}, says its record "
        f"{path}.",
        f"{ALARM_REMEDY} delete {path} and run again.",
    )


def read_json_object(path: Path, *, remedy: str) -> dict[str, Any] | None:
    """Return the JSON object at ``path``, ``None`` when there is no such file.

    Raises
    ------
    IntegrityError
        When the file is damaged; with the remedy.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}.", remedy) from error
    if not isinstance(document, dict):
        raise IntegrityError(f"{path} is damaged: not an object.", remedy)
    return document
