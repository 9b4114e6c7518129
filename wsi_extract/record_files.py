"""Small JSON documents on disk. Records carry the digest of their own content; their existence means done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi_extract.errors import IntegrityError
from wsi_extract.files import canonical_json, sha256_of


def encode_record(document: Mapping[str, Any], *, kind: str) -> bytes:
    """Return the bytes of a record: canonical JSON with the digest of its content in front.

    Parameters
    ----------
    kind
        What is recorded: the key under which the document stands.
    """
    body = canonical_json(document)
    return canonical_json({"sha256": sha256_of(body)})[:-1] + f',"{kind}":'.encode() + body + b"}\n"


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
    try:
        envelope: Mapping[str, Any] = json.loads(data)
        document: dict[str, Any] = envelope[kind]
        is_whole = sha256_of(canonical_json(document)) == envelope["sha256"] and document["schema"] == schema
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"the record {path} is damaged: {error}.", "Delete it and run again.") from error
    if not is_whole:
        raise IntegrityError(f"the record {path} does not match its own digest.", "Delete it and run again.")
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
