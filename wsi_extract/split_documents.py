"""What trainers open: the COCO document and the index of every split, from block records in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from wsi_extract.coco import CocoCounts, open_coco
from wsi_extract.errors import IntegrityError
from wsi_extract.index import IndexWriter
from wsi_extract.model import Split
from wsi_extract.state.layout import instances_name
from wsi_extract.state.records import BlockDocument


def write_splits(
    output_dir: Path,
    documents: Iterable[BlockDocument],
    *,
    splits: Sequence[Split],
    category_names: dict[int, str],
    patch_px: int,
) -> dict[Split, CocoCounts]:
    """Write the COCO documents and indices of some splits in one pass over their block records; memory stays flat.

    Parameters
    ----------
    documents
        Block records of these splits, ordered by slide and block.
    splits
        Those to write; one without a record gives an empty document.
    category_names
        Name of each category id; ids are 1-based.
    patch_px
        Side of all patches.

    Raises
    ------
    IntegrityError
        When a record is of another split, or does not fit the index, see `IndexWriter.add`.
    """
    with ExitStack() as stack:
        indices = {
            split: IndexWriter(output_dir, split=split, category_names=category_names, patch_wh_px=(patch_px, patch_px))
            for split in splits
        }
        cocos = {
            split: stack.enter_context(
                open_coco(
                    output_dir / instances_name(split),
                    category_names=category_names,
                    description=f"wsi_extract {split.value} patches, {patch_px} px",
                )
            )
            for split in splits
        }
        for document in documents:
            split = Split(document["split"])
            if split not in cocos:
                raise IntegrityError(
                    f"block {document['index']} of slide {document['slide_id']} is of split {split}, which is not "
                    "part of this run.",
                    "Start over with --fresh.",
                )
            indices[split].add(document)
            cocos[split].add(document)
        for index in indices.values():
            index.finish()
    return {split: coco.counts for split, coco in cocos.items()}
