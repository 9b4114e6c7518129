"""Brings faults into the worker processes of a Dask cluster: the environment names this module and the plan.

``DASK_DISTRIBUTED__WORKER__PRELOAD=tests.faults.preload`` and `tests.faults.plans.PLAN_VARIABLE`.
"""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from pathlib import Path

from tests.faults.injector import Injector
from tests.faults.plans import PLAN_VARIABLE, Plan

_installed = ExitStack()


def dask_setup(worker: object) -> None:
    """Install the injector in the process of a worker, for good."""
    path = os.environ.get(PLAN_VARIABLE)
    if path:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _installed.enter_context(Injector(Plan.from_json(Path(path).read_text())).installed())
