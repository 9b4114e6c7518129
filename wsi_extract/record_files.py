"""Small JSON documents on disk. Records carry the digest of their own content; their existence means done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_extract.errors import IntegrityError
from wsi_extract.files import canonical_json, sha256_of

DIGEST_CHARACTERS = 64
"""Of a SHA-256 as hex."""
TAIL = b"}\n"
REMEDY = "Delete it and run again."


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
    return f'{{"sha256":"{digest}","{kind}":'.encode()


def read_record(path: Path, *, kind: str, schema: int) -> dict[str, Any] | None:
    """Return the document of the record at ``path``, ``None`` when there is none.

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
    return document


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
