"""Groups to splits: by the user's lists first, the rest at random, alike in their numbers of targets."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from wsi_extract.disk.files import canonical_json
from wsi_extract.errors import SplitError
from wsi_extract.geometry import Rect
from wsi_extract.model import Split
from wsi_extract.splits.names import CCMCT_TEST_SLIDES, NameIndex, find_slides_named, index_names, nearest_names
from wsi_extract.splits.search import search_names

PRESETS: Mapping[str, tuple[str, ...]] = {"ccmct": CCMCT_TEST_SLIDES}
"""Names that stand for a published list of test slides."""
N_TERCILES = 3
BOTH_HALVES = (Split.TRAIN, Split.VAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """How slides are divided.

    Raises
    ------
    ValueError
        When a value is out of its range.
    """

    mode: str
    """``slide``: whole slides; ``half``: the upper half of every slide for training, the lower for validation."""
    train_fraction: float
    """Share of groups for training; unused in half mode and where slides are listed."""
    seed: int
    train_slides: tuple[str, ...] = ()
    """With no ``val_slides``, all other slides are for validation; and the other way round."""
    val_slides: tuple[str, ...] = ()
    test_slides: tuple[str, ...] = ()
    """Names, or ``ccmct`` for the official test slides of that data set."""
    test_regex: str | None = None
    """Slides in whose file name it is found are for testing."""
    guard_px: int = 0
    """Half mode: width kept free on each side of the midline, level-0 px."""

    def __post_init__(self) -> None:
        if self.mode not in ("slide", "half"):
            raise ValueError(f"mode must be 'slide' or 'half', got {self.mode!r}")
        if not 0 <= self.train_fraction <= 1:
            raise ValueError(f"train_fraction must be from 0 to 1, got {self.train_fraction}")
        if self.guard_px < 0:
            raise ValueError(f"guard_px must be at least 0, got {self.guard_px}")
        if self.mode == "half" and (self.train_slides or self.val_slides):
            raise ValueError("train_slides and val_slides have no meaning when every slide is halved")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSubject:
    """One slide to assign."""

    slide_id: str
    file_name: str
    group: str
    n_targets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDecision:
    """Which splits a slide takes part in, and why."""

    slide_id: str
    group: str
    bin: int | None
    """0: group without targets; 1 to 3: tercile of its number of targets; ``None``: not assigned at random."""
    splits: tuple[Split, ...]
    n_targets: int
    reason: str


def assign_splits(
    subjects: Sequence[SplitSubject], *, options: SplitOptions, bystanders: Mapping[str, str] | None = None
) -> tuple[SplitDecision, ...]:
    """Assign each slide to its splits; all slides of a group to the same ones. Ordered by slide id.

    Listed slides come first, with their groups. The rest is put into bins, one for groups without targets and one for
    each tercile of the number of targets of the others. ``train_fraction`` of the groups, rounded half up, are for
    training, shared over the bins by the largest remainder; within a bin a keyed hash of seed and group decides.
    Nothing depends on the order of ``subjects``.

    Parameters
    ----------
    bystanders
        File names, by slide id, of slides that were found but do not take part: lists may name them.

    Raises
    ------
    SplitError
        When a name matches no slide, several, or one that is listed twice; when a group would be in two splits; when
        both train and val are listed and slides remain; when a single group cannot fill train and val.
    """
    subjects = sorted(subjects, key=lambda subject: subject.slide_id)
    if len({subject.slide_id for subject in subjects}) != len(subjects):
        raise ValueError("slide ids must be unique")
    listed = _listed_splits(subjects, options=options, bystanders=bystanders or {})
    _refuse_divided_groups(subjects, listed=listed)
    rest = [subject for subject in subjects if subject.slide_id not in listed]
    decisions = [_decide(subject, split=split, reason=reason) for subject, (split, reason) in _pairs(subjects, listed)]
    if options.mode == "half":
        decisions += [_decide_halves(subject) for subject in rest]
    elif options.train_slides or options.val_slides:
        decisions += _assign_complement(rest, options=options)
    else:
        decisions += _assign_at_random(rest, options=options)
    return tuple(sorted(decisions, key=lambda decision: decision.slide_id))


Listed = Mapping[str, tuple[Split, str]]
"""Split and reason of listed slides, by slide id."""


def _pairs(subjects: Sequence[SplitSubject], listed: Listed) -> list[tuple[SplitSubject, tuple[Split, str]]]:
    return [(subject, listed[subject.slide_id]) for subject in subjects if subject.slide_id in listed]


def _decide(subject: SplitSubject, *, split: Split, reason: str, bin_number: int | None = None) -> SplitDecision:
    return SplitDecision(
        slide_id=subject.slide_id,
        group=subject.group,
        bin=bin_number,
        splits=(split,),
        n_targets=subject.n_targets,
        reason=reason,
    )


def _decide_halves(subject: SplitSubject) -> SplitDecision:
    return SplitDecision(
        slide_id=subject.slide_id,
        group=subject.group,
        bin=None,
        splits=BOTH_HALVES,
        n_targets=subject.n_targets,
        reason="upper half for training, lower half for validation",
    )


def _listed_splits(
    subjects: Sequence[SplitSubject], *, options: SplitOptions, bystanders: Mapping[str, str]
) -> dict[str, tuple[Split, str]]:
    """Return the slides that the user's lists and regex name and that take part.

    Raises
    ------
    SplitError
        Listing all names that match no slide, several slides, or a slide listed before.
    """
    file_names = {**bystanders, **{subject.slide_id: subject.file_name for subject in subjects}}
    index = index_names({slide_id: [name] for slide_id, name in file_names.items()})
    test_names = tuple(name for entry in options.test_slides for name in PRESETS.get(entry, (entry,)))
    listed: dict[str, tuple[Split, str]] = {}
    problems: list[str] = []
    lists = ((Split.TRAIN, options.train_slides), (Split.VAL, options.val_slides), (Split.TEST, test_names))
    for split, names in lists:
        for name in names:
            found = find_slides_named(name, index=index)
            if len(found) != 1:
                problems.append(_describe_mismatch(name, setting=f"{split}_slides", found=found, index=index))
            elif found[0] in bystanders:
                continue
            elif found[0] in listed:
                problems.append(f"{split}_slides: {name} is slide {found[0]}, which is {listed[found[0]][1]} already")
            else:
                listed[found[0]] = (split, f"listed in {split}_slides")
    for slide_id in _matching_slides(file_names, regex=options.test_regex):
        if slide_id in bystanders:
            continue
        split, reason = listed.setdefault(slide_id, (Split.TEST, f"matches test_regex {options.test_regex}"))
        if split is not Split.TEST:
            problems.append(f"test_regex {options.test_regex!r} matches slide {slide_id}, which is {reason}")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise SplitError(f"the lists of slides do not fit the slides to be split:\n{lines}")
    return listed


def _describe_mismatch(name: str, *, setting: str, found: Sequence[str], index: NameIndex) -> str:
    if found:
        return f"{setting}: {name} means several slides: {', '.join(found)}; use the slide id"
    nearest = nearest_names(name, index=index)
    return f"{setting}: {name} is no slide" + (f"; the nearest names are {', '.join(nearest)}" if nearest else "")


def _matching_slides(file_names: Mapping[str, str], *, regex: str | None) -> list[str]:
    if regex is None:
        return []
    slide_ids = sorted(file_names)
    parts = search_names(regex, [file_names[slide_id] for slide_id in slide_ids], setting="--test_regex")
    found = [slide_id for slide_id, part in zip(slide_ids, parts, strict=True) if part is not None]
    if not found:
        raise SplitError(f"--test_regex {regex!r} matches the file name of no slide.", "Correct it or leave it out.")
    return found


def _refuse_divided_groups(subjects: Sequence[SplitSubject], *, listed: Listed) -> None:
    members: defaultdict[str, list[str]] = defaultdict(list)
    places: defaultdict[str, set[Split | None]] = defaultdict(set)
    for subject in subjects:
        split = listed[subject.slide_id][0] if subject.slide_id in listed else None
        members[subject.group].append(f"{subject.slide_id} ({split or 'not listed'})")
        places[subject.group].add(split)
    divided = [f"  {group}: {', '.join(members[group])}" for group in sorted(places) if len(places[group]) > 1]
    if divided:
        raise SplitError(
            "the lists of slides divide groups, whose slides belong to one patient:\n" + "\n".join(divided) + "\n",
            "List all slides of a group for the same split, or none of them.",
        )


def _assign_complement(rest: Sequence[SplitSubject], *, options: SplitOptions) -> list[SplitDecision]:
    """Put the slides beside a list for training into val, and beside a list for validation into train."""
    if rest and options.train_slides and options.val_slides:
        names = ", ".join(subject.slide_id for subject in rest)
        raise SplitError(
            f"train_slides and val_slides are given, but {len(rest)} slides are in neither: {names}.",
            "List them too, or take them out of the slide folder.",
        )
    split, other = (Split.VAL, Split.TRAIN) if options.train_slides else (Split.TRAIN, Split.VAL)
    return [_decide(subject, split=split, reason=f"not listed in {other}_slides") for subject in rest]


def _assign_at_random(rest: Sequence[SplitSubject], *, options: SplitOptions) -> list[SplitDecision]:
    n_targets: Counter[str] = Counter()
    for subject in rest:
        n_targets[subject.group] += subject.n_targets
    bins = stratify(n_targets)
    n_train = count_train_groups(len(bins), train_fraction=options.train_fraction)
    train = _choose_train_groups(bins, n_train=n_train, seed=options.seed)
    return [
        _decide(
            subject,
            split=Split.TRAIN if subject.group in train else Split.VAL,
            reason=f"at random, {n_train} of {len(bins)} groups for training",
            bin_number=bins[subject.group],
        )
        for subject in rest
    ]


def stratify(n_targets: Mapping[str, int]) -> dict[str, int]:
    """Return the bin of each group: 0 without targets, else 1 to 3 by tercile of the positive counts.

    Groups with equal counts share a bin.

    >>> stratify({"a": 0, "b": 1, "c": 5, "d": 9})
    {'a': 0, 'b': 1, 'c': 2, 'd': 3}
    """
    positive = sorted(n for n in n_targets.values() if n > 0)
    edges = [positive[math.ceil(k * len(positive) / N_TERCILES) - 1] for k in range(1, N_TERCILES)] if positive else []
    return {group: 1 + sum(n > edge for edge in edges) if n > 0 else 0 for group, n in sorted(n_targets.items())}


def count_train_groups(n_groups: int, *, train_fraction: float) -> int:
    """Return how many groups are for training: the fraction rounded half up, but never all or none by rounding.

    Raises
    ------
    SplitError
        When there is one group and both splits are asked for.
    """
    if n_groups == 0 or train_fraction in (0, 1):
        return n_groups if train_fraction == 1 else 0
    if n_groups == 1:
        raise SplitError(
            f"there is one slide (or group) to split, which cannot be both for training and for validation "
            f"(train fraction {train_fraction}).",
            "Add slides, or use --train_val_split 1 to train on it, or --split_mode half to halve it.",
        )
    # As the decimal number it is written as: 0.7 of 15 is 10.5, not 10.499999.
    exact = Decimal(repr(float(train_fraction))) * n_groups
    return min(n_groups - 1, max(1, int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))))


def _choose_train_groups(bins: Mapping[str, int], *, n_train: int, seed: int) -> set[str]:
    by_bin: defaultdict[int, list[str]] = defaultdict(list)
    for group in sorted(bins, key=lambda group: _order_key(group, seed=seed)):
        by_bin[bins[group]].append(group)
    wanted = {number: Fraction(n_train * len(by_bin[number]), len(bins)) for number in sorted(by_bin)}
    quotas = {number: math.floor(share) for number, share in wanted.items()}
    by_remainder = sorted(wanted, key=lambda number: (quotas[number] - wanted[number], number))
    for number in by_remainder[: n_train - sum(quotas.values())]:
        quotas[number] += 1
    return {group for number, quota in quotas.items() for group in by_bin[number][:quota]}


def _order_key(group: str, *, seed: int) -> bytes:
    return hashlib.blake2b(canonical_json([seed, group]), digest_size=16).digest()


def half_domains(domain_l0: Rect, *, guard_px: int) -> tuple[tuple[Split, Rect], tuple[Split, Rect]]:
    """Divide a slide's domain at its vertical middle: the upper half for training, the lower for validation.

    ``guard_px`` level-0 rows are left out on each side of the midline. A half that is eaten up by them is empty.

    Raises
    ------
    ValueError
        When ``guard_px`` is negative.
    """
    if guard_px < 0:
        raise ValueError(f"guard_px must be at least 0, got {guard_px}")
    x0, y0, x1, y1 = domain_l0.x0, domain_l0.y0, domain_l0.x1, domain_l0.y1
    middle = y0 + domain_l0.height // 2
    return (
        (Split.TRAIN, Rect(x0=x0, y0=y0, x1=x1, y1=max(y0, middle - guard_px))),
        (Split.VAL, Rect(x0=x0, y0=min(y1, middle + guard_px), x1=x1, y1=y1)),
    )
