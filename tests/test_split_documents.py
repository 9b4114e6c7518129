"""All splits are written in one pass over the records, each as if it were alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_coco import block, label, patch
from wsi_extract.coco import write_coco
from wsi_extract.errors import IntegrityError
from wsi_extract.index import read_index
from wsi_extract.model import Split
from wsi_extract.split_documents import write_splits
from wsi_extract.state.layout import instances_name
from wsi_extract.state.records import BlockDocument

CATEGORIES = {1: "mitotic figure"}
SPLITS = (Split.TRAIN, Split.VAL)


def document(index: int, *, split: str, n_patches: int) -> BlockDocument:
    patches = [patch(10 * index + row, [label((1, 2, 3, 4))] * (row % 3)) for row in range(n_patches)]
    return {**block(patches, index=index), "split": split, "patch_wh_px": [64, 64]}


@settings(max_examples=8)
@given(blocks=st.lists(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 4)), max_size=6))
def test_each_split_holds_its_own_blocks_in_order(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[str, int]]
) -> None:
    out = tmp_path_factory.mktemp("out")
    documents = [document(index, split=split, n_patches=n) for index, (split, n) in enumerate(blocks)]
    counts = write_splits(out, documents, splits=SPLITS, category_names=CATEGORIES, patch_px=64)
    for split in SPLITS:
        own = [each for each in documents if each["split"] == split.value]
        description = f"wsi_extract {split.value} patches, 64 px"
        alone = write_coco(out / "alone.json", own, category_names=CATEGORIES, description=description)
        assert counts[split] == alone
        assert (out / instances_name(split)).read_bytes() == (out / "alone.json").read_bytes()
        index = read_index(out, split)
        names = [entry["file_name"] for each in own for entry in each["patches"]]
        assert [index.file_name(i) for i in range(len(index))] == names


def test_a_block_of_a_split_that_is_not_written_is_refused(tmp_path: Path) -> None:
    stray = document(3, split="test", n_patches=1)
    with pytest.raises(IntegrityError, match=re.escape("block 3 of slide s1 is of split test")):
        write_splits(tmp_path, [stray], splits=SPLITS, category_names=CATEGORIES, patch_px=64)
    assert not list((tmp_path / "annotations").iterdir())
