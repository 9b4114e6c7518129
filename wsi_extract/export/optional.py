"""Packages that only some exports need, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from wsi_extract.errors import InputError


def import_optional(name: str, *, purpose: str) -> ModuleType:
    """Import a package that is no dependency of the program.

    Raises
    ------
    InputError
        When it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the package {name}, which cannot be imported: {error}.", f"Run: pip install {name}"
        ) from error
