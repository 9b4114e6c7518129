"""Audit a finished data set from scratch, trusting nothing that the run said of itself.

findings      what a check can find, and how it is collected
entries       what must not even be opened: pipes, links that lead elsewhere, files of absurd size
manifest      the manifest, and the manifest against itself
tables        slides.csv, errors.jsonl and run.json against the manifest
slides        plans, block records and tissue masks, slide by slide
labels        boxes and anchors of one slide, across its patches
documents     COCO documents: keys, ids, references, boxes
evaluation    COCO documents in the hands of pycocotools
index         the index against the COCO documents
patch_files   PNG files: there, whole, as recorded
patch_arrays  arrays of patches: they open, and hold the recorded patches
pixel_store   images of slides: they open, and hold the pixels of the coverage
scenes        what sampling during training knows of a slide
online        image and scene of one slide of the pixel store
shard_files   shards of both: there, whole, as recorded, each chunk decodable
zarr_documents  documents of the Zarr stores, for this program and for others
strays        files of pixels that belong to nobody
digest        the content digest, recomputed from what lies on disk
threads       many files at a time
audit         all of it, in order
damage        the files that are not what was recorded of them, for a repair
evidence      what a damaged data set still says of itself, for a repair
foreign       what a repair cannot make right: files of nobody, folders in the place of files
comparison    two data sets against each other
"""

from __future__ import annotations

from wsi_extract.verify.audit import audit
from wsi_extract.verify.comparison import compare
from wsi_extract.verify.findings import AuditReport, Check, Problem

__all__ = ["AuditReport", "Check", "Problem", "audit", "compare"]
