"""Splits: which slides are for training, validation and testing, and the proof that nothing leaks between them.

    names        the slide that a name given by the user means
    groups       the patient of each slide
    assignment   groups to splits; halves of a slide
    leakage      groups and pixels that are in two splits

Slides are assigned whole, and all slides of a group together. A name that matches no slide is an error, never silence.
"""

from wsi_extract.splits.assignment import SplitDecision, SplitOptions, SplitSubject, assign_splits, half_domains
from wsi_extract.splits.groups import group_slides
from wsi_extract.splits.leakage import LeakageReport, check_leakage, overlaps_between_splits
from wsi_extract.splits.names import CCMCT_TEST_SLIDES

__all__ = [
    "CCMCT_TEST_SLIDES",
    "LeakageReport",
    "SplitDecision",
    "SplitOptions",
    "SplitSubject",
    "assign_splits",
    "check_leakage",
    "group_slides",
    "half_domains",
    "overlaps_between_splits",
]
