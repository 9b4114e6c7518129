"""Search names for a user's regular expression within a time limit.

Some expressions, such as ``(a+)+$``, take a time that doubles with every character, and nothing can stop `re` while it
searches but the end of its process: so it has one of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from wsi_extract.errors import SplitError

LONGEST_S = 20.0
"""100,000 names take less than a second."""

PROGRAM = """
import json, re, sys
regex, names = json.load(sys.stdin)
pattern = re.compile(regex)
matches = map(pattern.search, names)
json.dump([match and match.group(1 if pattern.groups else 0) for match in matches], sys.stdout)
"""


def search_names(regex: str, names: Sequence[str], *, setting: str) -> list[str | None]:
    """Return what the regex finds in each name: its first capture group, or else the whole match; ``None`` for nothing.

    Raises
    ------
    SplitError
        When it is no regular expression, or takes longer than `LONGEST_S`; the message names the setting it came from.
    """
    try:
        re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise SplitError(f"{setting} {regex!r} is not a regular expression: {error}.") from error
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            input=json.dumps([regex, list(names)]).encode(),
            capture_output=True,
            timeout=LONGEST_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise SplitError(
            f"{setting} {regex!r} takes more than {LONGEST_S:.0f} s on the names of {len(names)} slides.",
            "Write it without repeats inside of repeats, such as (a+)+.",
        ) from error
    found: list[str | None] = json.loads(done.stdout)
    return found
