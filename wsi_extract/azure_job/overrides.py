"""Settings given for one job: ``--set job.KEY=VALUE`` and ``--set extraction.KEY=VALUE``.

Those of ``job`` replace what config.json says. Those of ``extraction`` become flags on the job's command line, for
config.json travels as it is: so their values must be texts that mean the same in every shell.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from wsi_extract.azure_job.job_config import JobConfig
from wsi_extract.config import RunConfig
from wsi_extract.config_problems import shortened
from wsi_extract.config_sources import PATH_FIELDS, parse_flag, parse_json
from wsi_extract.errors import ConfigError
from wsi_extract.printable import as_one_line

SAFE_VALUE = re.compile(r"[A-Za-z0-9_./:=@%+,][A-Za-z0-9_./:=@%+,-]*")
"""A value that needs no quotes in any shell, and that no program takes for a flag."""
NOT_FOR_JOBS: Mapping[str, str] = {
    "wsi_dir": "a job reads its slides from the data asset: give job.wsi_dir",
    "annotation_json": "a job reads its annotations from the data asset: give job.annotation_json",
    "output_dir": "the output folder of a job is made by the service: see job.output",
    "scheduler": "a job starts its own workers, on as many machines as job.nodes says",
    "tls_ca_file": "for a job give job.tls_dir",
    "tls_cert": "for a job give job.tls_dir",
    "tls_key": "for a job give job.tls_dir",
    "dry_run": "a job that writes nothing is of no use; --dry_run of submit_job.py shows what would be sent",
}
"""Settings that flags cannot have in a job, and what to do instead."""

_NUMBERS = frozenset(
    name
    for name, field in JobConfig.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
)
"""Settings of ``job`` that are numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A setting of ``extraction`` on the command line.

    ``text`` is what stands behind the name, empty for a switch; ``value`` what config.json would hold for it.
    """

    name: str
    text: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What ``--set`` asks for: paths of keys in ``job`` with their values, and flags by name; the last of equals."""

    job: Mapping[tuple[str, ...], object]
    flags: Mapping[str, Flag]


def read_overrides(texts: Sequence[str]) -> tuple[Overrides, list[str]]:
    """Return what the texts ``KEY=VALUE`` ask for, and what is wrong with them, one line each."""
    job: dict[tuple[str, ...], object] = {}
    flags: dict[str, Flag] = {}
    problems = []
    for text in texts:
        key, is_set, value = text.partition("=")
        first, *rest = key.strip().split(".")
        if not is_set or not all(rest) or not rest or first not in ("job", "extraction"):
            problems.append(f"--set {_shown(text)}: expected job.KEY=VALUE or extraction.KEY=VALUE")
        elif first == "job":
            job[tuple(rest)] = _as_value_of_job(rest[0], value)
        else:
            try:
                flags[".".join(rest)] = _as_flag(".".join(rest), value)
            except ConfigError as error:
                problems.append(f"--set extraction.{_shown(str(error).removeprefix('--'), most=600)}")
    return Overrides(job=job, flags=flags), problems


def with_overrides(job: Mapping[str, object], values: Mapping[tuple[str, ...], object]) -> dict[str, object]:
    """Return a ``job`` object with values replaced; an object that one of them lies in is made where it is missing."""
    result = copy.deepcopy(dict(job))
    for keys, value in values.items():
        place = result
        for key in keys[:-1]:
            inner = place.get(key)
            if not isinstance(inner, dict):
                inner = place[key] = {}
            place = inner
        place[keys[-1]] = value
    return result


def problem_of_literal(value: str) -> str:
    """Say why a text cannot stand on the command line of a job; empty if it can."""
    if SAFE_VALUE.fullmatch(value):
        return ""
    return (
        f"{_shown(repr(value))} cannot stand on the command line of a job (letters, digits and . _ / : = @ % + , - "
        "can, but no - at the beginning): put it into config.json"
    )


def _as_value_of_job(name: str, text: str) -> object:
    """Return what is meant; where texts are wanted, digits are one: the version 1.10 is not the number 1.1."""
    value = _as_value(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return text if is_number and name not in _NUMBERS else value


def _as_value(text: str) -> object:
    try:
        return parse_json(text)
    except ValueError:
        return text  # a text needs no quotes


def _as_flag(name: str, given: str) -> Flag:
    if name in NOT_FOR_JOBS:
        raise ConfigError(f"{name}: {NOT_FOR_JOBS[name]}")
    if name not in RunConfig.model_fields:
        near = difflib.get_close_matches(name[:80], RunConfig.model_fields, n=1, cutoff=0.5)
        raise ConfigError(f"{name}: unknown key" + (f"; did you mean '{near[0]}'?" if near else ""))
    wanted = _as_value(given)
    if wanted is None:
        raise ConfigError(f"{name}: null cannot be said with a flag: put it into config.json")
    value = parse_flag(name, _as_flag_text(wanted, given=given))
    text = given if name in PATH_FIELDS else _as_flag_text(value, given=given)
    if value is False:
        raise ConfigError(f"{name}: false cannot be said with a flag: put it into config.json")
    if value is True:
        return Flag(name=name, text="", value=True)
    problem = problem_of_literal(text)
    if problem or not _is_same(wanted, value) or (name not in PATH_FIELDS and parse_flag(name, text) != value):
        raise ConfigError(
            f"{name}: {problem or f'{_shown(given)} cannot be said with a flag: put it into config.json'}"
        )
    return Flag(name=name, text=text, value=value)


def _as_flag_text(value: object, *, given: str) -> str:
    """Return the text of a flag that stands for a JSON value."""
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(map(str, value))
        case dict():
            return ",".join(f"{key}={item}" for key, item in value.items())
        case str():
            return value
    return given


def _is_same(wanted: object, value: object) -> bool:
    """Say whether a list or object has come through the text of a flag as it was."""
    if isinstance(wanted, dict):
        return wanted == value
    if not isinstance(wanted, list) or not isinstance(value, Iterable):
        return True
    return wanted == list(value) or list(map(str, wanted)) == list(map(str, value))


def _shown(text: str, *, most: int = 80) -> str:
    return as_one_line(shortened(text, most=most))
