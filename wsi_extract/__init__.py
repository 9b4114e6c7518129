"""Extract patches and COCO boxes from whole-slide images, in parallel and reproducibly."""

__version__ = "0.1.0"
