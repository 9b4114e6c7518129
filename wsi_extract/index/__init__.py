"""The index: what is in a data set, as arrays that open in a moment, whatever store holds the pixels.

splits     patches and boxes of one split, read whole; the same content as the COCO document
writer     the same, written from block records as a stream
scenes     what sampling during training needs to know of a slide
"""

from wsi_extract.index.scenes import SlideScene, read_coverage, read_scene, write_scene
from wsi_extract.index.splits import CocoDict, IndexedSlide, SplitIndex, coco_dict, read_index
from wsi_extract.index.writer import IndexWriter, write_root

__all__ = [
    "CocoDict",
    "IndexWriter",
    "IndexedSlide",
    "SlideScene",
    "SplitIndex",
    "coco_dict",
    "read_coverage",
    "read_index",
    "read_scene",
    "write_root",
    "write_scene",
]
