"""What requirements.txt asks for, and what of it the running Python has.

It runs before anything is installed, on Python 3.8 and newer, so it knows the standard library alone. It loads no
package; it reads what the installers have written down.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

LEAST_PYTHON = (3, 11)
OPENSLIDE = "openslide-bin"
SYSTEM_OPENSLIDE = ("libopenslide.so.1", "libopenslide.1.dylib")
"""OpenSlide 4 where the system, or conda, has installed it. openslide-python uses it when openslide-bin is missing."""
SAME = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "mlflow-skinny": ("mlflow",),
}
"""Packages that offer the same modules, so that environments made for training need no second copy."""
LINE = re.compile(r"([A-Za-z0-9][\w.-]*)\s*((?:(?:>=|<|==)\s*[\w.+!-]+\s*,?\s*)*)")
CONDITION = re.compile(r"(>=|<|==)\s*([\w.+!-]+)")


@dataclass(frozen=True)
class Requirement:  # slots and kw_only need Python 3.10
    """One line of requirements.txt."""

    name: str
    conditions: tuple[tuple[str, str], ...]
    """Operator (``>=``, ``<`` or ``==``) and version; all of them must hold."""

    def accepts(self, found: str) -> bool:
        """Tell whether a version is good enough."""
        return all(_holds(found, operator, version) for operator, version in self.conditions)

    def wanted(self) -> str:
        """Return the conditions as text, ``""`` for none."""
        return ",".join(f"{operator}{version}" for operator, version in self.conditions)


def _holds(found: str, operator: str, version: str) -> bool:
    if operator == "<":
        return is_below(found, version)
    return not is_below(found, version) and (operator == ">=" or not is_below(version, found))


def read_requirements(path: Path) -> tuple[Requirement, ...]:
    """Read the requirements of a file.

    Raises
    ------
    ValueError
        When a line is more than a name with ``>=``, ``<`` and ``==``: what cannot be checked is not to be passed over.
    OSError
        When it cannot be read.
    """
    requirements = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        line = text.partition("#")[0].strip()
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}, line {number}: {line!r} is not a package name with >=, < or == and versions")
        requirements.append(Requirement(match[1], tuple(CONDITION.findall(match[2]))))
    return tuple(requirements)


def is_below(found: str | None, least: str) -> bool:
    """Tell whether a version comes before another; only the numbers at its beginning count.

    >>> is_below("4.0.0", "4.0.1"), is_below("4.1", "4.0.1"), is_below("12.3", "12.3.0"), is_below(None, "1")
    (True, False, False, False)
    """
    return found is not None and _numbers(found) < _numbers(least)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [] if match is None else [int(part) for part in match[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def installed(name: str) -> tuple[str, str] | None:
    """Return name and version of an installed package, or of one that offers the same modules; ``None`` if absent."""
    for candidate in (name, *SAME.get(name, ())):
        try:
            # What an interrupted installer leaves may be a folder without a version: None, or an error by the backport
            # of this library, which takes over as soon as anybody has imported it.
            version: str | None = Distribution.from_name(candidate).metadata["Version"]
        except (PackageNotFoundError, KeyError):
            continue
        if version:
            return candidate, version
    return None


def find_problems(requirements: tuple[Requirement, ...]) -> list[str]:
    """Return one line per requirement that is missing or has another version, and one if this Python is too old."""
    problems = []
    if sys.version_info < LEAST_PYTHON:
        running, least = (".".join(map(str, numbers)) for numbers in (sys.version_info[:3], LEAST_PYTHON))
        problems.append(f"Python {running}, needed >={least}")
    for requirement in requirements:
        found = installed(requirement.name) or (_system_openslide() if requirement.name == OPENSLIDE else None)
        wanted = f", needed {requirement.wanted()}" if requirement.conditions else ""
        if found is None:
            problems.append(f"{requirement.name} is missing{wanted}")
        elif not requirement.accepts(found[1]):
            problems.append(f"{found[0]} {found[1]}{wanted}")
    return problems


def _system_openslide() -> tuple[str, str] | None:
    for library in SYSTEM_OPENSLIDE:
        try:
            get_version = ctypes.CDLL(library).openslide_get_version
        except (OSError, AttributeError):
            continue
        get_version.restype = ctypes.c_char_p
        return "OpenSlide library", get_version().decode()
    return None
