"""The audit of one output folder, in order.

Memory holds the records of one slide or the document of one split at a time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsi_extract.model import Split
from wsi_extract.state.layout import MANIFEST, STATE
from wsi_extract.verify.digest import check_content
from wsi_extract.verify.entries import check_entries, check_slide_ids
from wsi_extract.verify.findings import AuditReport, Check, Findings
from wsi_extract.verify.folder import check_folder
from wsi_extract.verify.index import check_index_digest
from wsi_extract.verify.leakage import check_fingerprints, check_groups
from wsi_extract.verify.manifest import check_manifest, read_manifest
from wsi_extract.verify.slides import check_slides
from wsi_extract.verify.split import check_split
from wsi_extract.verify.tables import check_tables
from wsi_extract.verify.zarr_documents import check_store_groups


def audit(output_dir: Path) -> AuditReport:
    """Audit a finished data set from scratch; damage of any kind becomes a problem, never an exception.

    Parameters
    ----------
    output_dir
        An output folder of this program.

    Returns
    -------
    A report; `AuditReport.is_sound` tells whether all is well.
    """
    findings = Findings()
    # Damaged numbers may be too large to calculate with; infinity and NaN then fail the checks quietly.
    with np.errstate(all="ignore"), findings.reading(Check.FOLDER, output_dir):
        _audit(output_dir, findings=findings)
    return findings.report()


def _audit(output_dir: Path, *, findings: Findings) -> None:
    findings.done.add(Check.FOLDER)
    if not output_dir.is_dir():
        findings.add(Check.FOLDER, output_dir, "there is no such folder")
        return
    if not check_entries(output_dir, findings=findings):
        return
    if not (output_dir / MANIFEST).exists():
        findings.add(Check.FOLDER, output_dir, _why_no_manifest(output_dir))
        return
    manifest = read_manifest(output_dir, findings=findings)
    if manifest is None:
        return
    slide_ids = [slide.slide_id for slide in manifest.slides]
    if not check_slide_ids(slide_ids, path=manifest.path, findings=findings):
        return
    check_folder(output_dir, manifest, findings=findings)
    check_manifest(manifest, findings=findings)
    check_groups(manifest, findings=findings)
    check_fingerprints(manifest, findings=findings)
    check_tables(output_dir, manifest, findings=findings)
    check_slides(output_dir, manifest, findings=findings)
    check_store_groups(output_dir, manifest, findings=findings)
    check_index_digest(output_dir, manifest, findings=findings)
    check_content(output_dir, manifest, findings=findings)
    for split in Split:
        check_split(output_dir, split, manifest=manifest, findings=findings)


def _why_no_manifest(output_dir: Path) -> str:
    if (output_dir / STATE).is_dir():
        return f"there is no {MANIFEST}: the run did not finish; run the same command again"
    return f"not an output folder of wsi_extract: it holds neither {MANIFEST} nor {STATE}"
