"""Read a JSON file of unknown origin: within the memory, every key once, numbers that are numbers.

Knows nothing of annotations.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from wsi_extract.annotations.source import MEMORY_SHARE, refuse_too_large, shortened
from wsi_extract.disk.files import sha256_of
from wsi_extract.errors import AnnotationError
from wsi_extract.input_files import read_regular
from wsi_extract.machine import memory_bytes

OBJECT_BYTES, LIST_BYTES, KEY_BYTES, ITEM_BYTES = 240, 96, 140, 56
"""What Python needs for an object, a list, a key that occurs once, and each further member with its value."""
LEAST_COPIES = 3
"""Of the file in memory: its bytes, its text, and what is in it."""


def parsed_bytes(data: bytes, *, text_bytes: int) -> int:
    """Return an upper bound of the memory that parsing takes, from what the file is made of.

    Keys count as if each occurred once, so for usual files it is two to three times too much.

    Parameters
    ----------
    text_bytes
        Size of the decoded text, which is held twice: whole, and as the texts in it.
    """
    objects, lists = OBJECT_BYTES * data.count(b"{"), LIST_BYTES * data.count(b"[")
    return 2 * text_bytes + objects + lists + KEY_BYTES * data.count(b":") + ITEM_BYTES * data.count(b",")


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Build an object; `json` itself would silently keep the last of two equal keys."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"an object holds the key {shortened(max(counts, key=counts.__getitem__))} twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path) -> tuple[object, str]:
    """Return the value a file holds, and the SHA-256 of its bytes.

    Raises
    ------
    AnnotationError
        When it is not JSON in UTF-8 (NaN and Infinity are not), holds a key twice, is nested deeper than a few hundred
        levels, holds numbers of thousands of digits, or would need more memory than there is.
    OSError
        When it cannot be read, or changes meanwhile.
    """
    memory = memory_bytes()
    data = read_regular(path, largest_bytes=int(memory * MEMORY_SHARE / LEAST_COPIES))
    sha256 = sha256_of(data)
    try:
        text = data.decode("utf-8-sig")
        needed = parsed_bytes(data, text_bytes=sys.getsizeof(text))
        refuse_too_large(path, needed_bytes=needed, memory_bytes=memory)
        del data  # the text is enough
        document: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except AnnotationError:
        raise  # it is a ValueError, too
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not valid JSON: {error}.", "Export it again.") from error
    return document, sha256
