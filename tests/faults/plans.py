"""What is to go wrong in a run, as a value that travels to other processes as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

PLAN_VARIABLE = "WSI_EXTRACT_FAULT_PLAN"
"""Names the file with the plan, for the workers of a cluster."""


class Action(StrEnum):
    """What happens at an operation."""

    KILL = "kill"
    """The process is killed, as ``kill -9`` does."""
    SEGFAULT = "segfault"
    """The process dies as one that reads memory it does not own."""
    ERROR = "error"
    """The operation fails with an errno, without having done anything."""
    SHORT = "short"
    """A write takes half of the bytes; on other operations nothing happens."""
    DELAY = "delay"
    """The operation takes longer."""
    HANG = "hang"
    """The operation does not return within any time a run could wait."""


class When(StrEnum):
    """On which side of the operation."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault, and the operation it hits."""

    action: Action
    operation: str = ""
    """Names of the operations that count, such as ``rename:record``, or kinds, as ``write:``, with blanks between them;
    empty for all but questions (``stat``)."""
    number: int = 1
    """The n-th of them in a process, from 1 on."""
    when: When = When.BEFORE
    errno: int = 0
    is_lasting: bool = False
    """Whether it hits all later ones too."""
    path_part: str = ""
    """Only operations on paths that contain this count."""
    seconds: float = 0.0
    token: str = ""
    """A file that is made when it strikes: once in all processes of a run; empty for once in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is to go wrong in one run, and what is to be noted."""

    output_dir: str
    wsi_dir: str = ""
    """Reading of slides counts too where this is given: role ``slide``."""
    strikes: tuple[Strike, ...] = ()
    trace_path: str = ""
    """Where the names of the operations are appended, one per line."""
    events_path: str = ""
    """Where everything that changes the folder is written at the end, for `tests.faults.power_loss`."""
    jumping_clock: bool = False
    """Whether the time of day jumps back and forth by hours."""
    signals_every_s: float = 0.0
    """How often a signal that does nothing interrupts system calls (EINTR); 0 for never."""
    min_block_patches: int = 16
    """Small plans become several blocks, as those of whole slides are."""

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Rebuild a plan from `to_json`."""
        values = json.loads(text)
        strikes = [
            Strike(**{**strike, "action": Action(strike["action"]), "when": When(strike["when"])})
            for strike in values.pop("strikes")
        ]
        return cls(**values, strikes=tuple(strikes))


CHANGING = ("mkdir", "create", "write", "sync", "rename", "remove", "rmdir", "truncate")
"""Kinds of operations between which a crash leaves different folders."""
FILLING = "mkdir: create: write: sync: rename:"
"""Operations that fail on a full disk."""
READING = "open: read: list:"


def struck(output_dir: Path, *strikes: Strike) -> Plan:
    """Return the plan of these faults only."""
    return Plan(output_dir=str(output_dir), strikes=strikes)
