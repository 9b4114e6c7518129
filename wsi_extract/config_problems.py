"""What is wrong with settings, in a few short lines: whatever the settings hold, the message can be read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from wsi_extract.printable import as_one_line

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_PROBLEMS_SHOWN = 20
N_SHOWN = 80
"""Characters of a value, or of the name of a setting."""
LONGEST_PROBLEM = 600
"""Characters; the longest list of choices has some 100."""


def describe_problems(
    problems: Iterable[ErrorDetails], *, origin: Mapping[str, str], known: Collection[str]
) -> list[str]:
    """Return a line for each problem that pydantic found, for so many that they can be read, and how many more.

    Parameters
    ----------
    origin
        Where a setting was given, by its name; else it comes from the config file.
    known
        Names of settings.
    """
    found = dict.fromkeys(_describe(problem, origin=origin, known=known) for problem in problems)
    lines = [as_one_line(shortened(problem, most=LONGEST_PROBLEM)) for problem in found]
    n_more = len(lines) - MAX_PROBLEMS_SHOWN
    return [*lines[:MAX_PROBLEMS_SHOWN], *([f"and {n_more:,} more"] if n_more > 0 else [])]


def shortened(text: str, *, most: int = N_SHOWN) -> str:
    """Return the beginning of a text.

    >>> shortened("abcdefgh", most=6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _describe(problem: ErrorDetails, *, origin: Mapping[str, str], known: Collection[str]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    where = shortened(origin.get(key, f"extraction.{key}" if key else "extraction"))
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(key[:N_SHOWN], known, n=1, cutoff=0.5)
            return f"{where}: unknown key" + (f"; did you mean '{near[0]}'?" if near else "")
        case "missing" if len(problem["loc"]) == 1:
            return f"--{key} is required (or '{key}' in the config file's extraction object)"
        case "value_error" if not key:
            return str(problem["ctx"]["error"])
        case "json_invalid":
            return f"{where}: text that is not Unicode"
    got = shortened(json.dumps(problem["input"]))
    return f"{where}: {problem['msg'].lower().replace('input should', 'should')}, got {got}"
