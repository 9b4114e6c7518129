"""Which run an output folder belongs to, told in one small file that workers read before they write.

A worker may outlive its driver, for example on a cluster that others keep, and finish its block when the folder
belongs to another run, is gone, or lies on a disk that is no longer mounted. Before it writes, and again before its
files get their names, it looks whether the claim is still that of its own run.

The claim is a digest of the settings, not of the moment: a late worker of the same run writes the same bytes, and its
work counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsi_extract.disk.durable import fsync_after_removal
from wsi_extract.disk.files import canonical_json, sha256_of, write_atomically
from wsi_extract.errors import EnvironmentFaultError
from wsi_extract.state.layout import claim_path

SECTIONS = ("program", "libraries", "annotations", "settings", "stain_target")
"""What run.json says of a run beside its slides, which come and go from one attempt to the next."""


def without_name(section: object) -> object:
    """Return a section without the name of the stain target, which is for people: a picture may be renamed."""
    return {key: value for key, value in section.items() if key != "name"} if isinstance(section, dict) else section


def run_digest(description: Mapping[str, object]) -> str:
    """Return the digest of what run.json says of a run, without its slides."""
    return sha256_of(canonical_json({name: without_name(description.get(name)) for name in SECTIONS}))


def claim_content(description: Mapping[str, object]) -> bytes:
    """Return what the claim of a run holds."""
    return f"{run_digest(description)}\n".encode()


def write_claim(output_dir: Path, description: Mapping[str, object]) -> None:
    """Let the folder belong to a run: to be done before anything of it is written."""
    write_atomically(claim_path(output_dir), claim_content(description))


def remove_claim(output_dir: Path) -> None:
    """Let the folder belong to no run, durably: whoever still writes for the last one is to stop."""
    path = claim_path(output_dir)
    if path.exists():
        path.unlink()
        fsync_after_removal(path.parent)


def read_claim(output_dir: Path) -> str | None:
    """Return the digest of the run that the folder belongs to, ``None`` when it belongs to none, or is not there.

    Raises
    ------
    OSError
        When nobody can tell.
    """
    try:
        content = claim_path(output_dir).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content.decode("ascii", errors="replace").strip()


def require_claim(output_dir: Path) -> str:
    """Return the digest of the run that the folder belongs to, for the work that is to be handed out.

    Raises
    ------
    EnvironmentFaultError
        When the folder has gone since it was claimed.
    """
    found = read_claim(output_dir)
    if found is None:
        raise _lost(output_dir)
    return found


def check_claim(output_dir: Path, run_digest: str | None) -> None:
    """Refuse to write to a folder that does not belong to the run any more; costs one small read.

    Parameters
    ----------
    run_digest
        Of the run that wants to write; ``None`` where nobody claims folders, and nothing is refused.

    Raises
    ------
    EnvironmentFaultError
        When it belongs to another run, or has gone.
    OSError
        When nobody can tell.
    """
    if run_digest is None:
        return
    found = read_claim(output_dir)
    if found is None:
        raise _lost(output_dir)
    if found != run_digest:
        raise EnvironmentFaultError(
            f"the output folder {output_dir} has been taken over by another run, with other settings or inputs. "
            "Nothing was written.",
            "Stop this run, or give it an --output_dir of its own.",
        )


def _lost(output_dir: Path) -> EnvironmentFaultError:
    return EnvironmentFaultError(
        f"the output folder {output_dir} has gone, or has been taken over by another run: there is no "
        f"{claim_path(output_dir)} any more. Nothing was written.",
        "Is the mount still there? If the folder is to be this run's, run the same command again.",
    )
