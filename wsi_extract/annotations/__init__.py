"""Annotation files: choose the reader by content, match slides, map classes, account for every annotation.

Knows nothing of patches, splits or run settings. Coordinates are level-0 px. Rater names are never read.
"""

from __future__ import annotations

from wsi_extract.annotations.bbox_convention import BboxDecision, BboxEvidence, BboxFormat
from wsi_extract.annotations.classes import ClassDecision
from wsi_extract.annotations.load import LoadedAnnotations, SourceReport, load_annotations
from wsi_extract.annotations.options import AnnotationOptions
from wsi_extract.annotations.read import read_source
from wsi_extract.annotations.reconcile import ClassCount, Reason, Reconciliation
from wsi_extract.annotations.source import SourceFile, SourceKind, SourceRows, SourceSlide

__all__ = [
    "AnnotationOptions",
    "BboxDecision",
    "BboxEvidence",
    "BboxFormat",
    "ClassCount",
    "ClassDecision",
    "LoadedAnnotations",
    "Reason",
    "Reconciliation",
    "SourceFile",
    "SourceKind",
    "SourceReport",
    "SourceRows",
    "SourceSlide",
    "load_annotations",
    "read_source",
]
