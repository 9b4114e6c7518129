"""Libraries that are too old to be trusted with slides of strangers, or with a dashboard in a browser.

The floors are those of requirements.txt; an environment that was put together by hand, or years ago, may be below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.node_start.requirements import is_below
from wsi_extract.slides.opened_slide import openslide_version

OPENSLIDE_LIBRARY = "OpenSlide library"


class OldLibrariesError(EnvironmentFaultError):
    """Libraries with known holes are installed; nothing was begun, and running again does not help."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The first version of a library without a known hole."""

    library: str
    """Name of the Python package, or `OPENSLIDE_LIBRARY`."""
    least: str
    why: str
    """What older ones allow, and where that is described."""


FLOORS = (
    Floor(
        library=OPENSLIDE_LIBRARY,
        least="4.0.1",
        why="crafted slides overwrite memory (CVE-2026-48977), and some slides give other pixels each time "
        "(CVE-2026-54604)",
    ),
    Floor(
        library="distributed",
        least="2026.1.1",
        why="a link can run code through the dashboard behind Jupyter (CVE-2026-23528)",
    ),
    Floor(library="bokeh", least="3.8.2", why="foreign web pages can read the dashboard (CVE-2026-21883)"),
    Floor(library="tornado", least="6.5.5", why="one request can stop the dashboard (GHSA-qjxf-f2mg-c6mc)"),
    Floor(library="pillow", least="12.3.0", why="images can overwrite memory (CVE-2026-59199, CVE-2026-59205)"),
)


def check_versions() -> None:
    """Refuse to run with libraries of known holes.

    Raises
    ------
    OldLibrariesError
        With each of them: its version, the version it needs, and why.
    """
    found = {floor.library: _installed(floor.library) for floor in FLOORS}
    too_old = [floor for floor in FLOORS if is_below(found[floor.library], floor.least)]
    if too_old:
        raise OldLibrariesError(_message(too_old, found=found), _remedy(too_old))


def _installed(library: str) -> str | None:
    if library == OPENSLIDE_LIBRARY:
        return openslide_version()
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _message(too_old: Iterable[Floor], *, found: Mapping[str, str | None]) -> str:
    lines = [f"  {floor.library} {found[floor.library]}, needed {floor.least}: {floor.why}" for floor in too_old]
    return "libraries with known security holes are installed:\n" + "\n".join(lines) + "\n"


def _remedy(too_old: Iterable[Floor]) -> str:
    packages = [
        f"'{'openslide-bin' if floor.library == OPENSLIDE_LIBRARY else floor.library}>={floor.least}'"
        for floor in too_old
    ]
    return f"Install newer ones: python -m pip install --upgrade {' '.join(packages)}"
