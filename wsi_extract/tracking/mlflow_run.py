"""A run on an MLflow tracking server, as a job finds it: opened by somebody else, known by its id.

The only user of mlflow. It never starts a run and never ends one, and uses the client alone: mlflow's global functions
take ``MLFLOW_RUN_ID`` out of the environment and open runs of their own where it is missing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

ARTIFACT_FOLDER = "extraction"
MAX_VALUE_LENGTH = 250
"""The least that servers allow for a parameter; longer values are cut."""
MAX_REASON_LENGTH = 400
"""Servers, and proxies before them, answer with whole pages."""
MAX_PER_REQUEST = 100
"""Parameters, of which servers take so many at once."""
CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run reports to the server of its user, nobody else
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # by default a server that is down is heard of after many minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Environment of mlflow, where the user has not set it."""


class MlflowRun:
    """The run of this job.

    Parameters
    ----------
    run_id
        ``MLFLOW_RUN_ID`` of the job.

    Raises
    ------
    ImportError, Exception
        Whatever mlflow and its plugins raise: here and in every method.
    """

    def __init__(self, run_id: str) -> None:
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("azureml:") and not _has_azure_plugin():
            raise ModuleNotFoundError("the server is of Azure ML; install azureml-mlflow beside mlflow-skinny")
        from mlflow.tracking import MlflowClient  # noqa: PLC0415  # a second of work, wanted in jobs only

        for name in ("mlflow", "urllib3"):  # the one who sends says what goes wrong, once
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self._run_id = run_id
        self._client = MlflowClient()

    def log_params(self, params: Mapping[str, str]) -> None:
        """Set parameters; one that is set already must have the same value."""
        from mlflow.entities import Param  # noqa: PLC0415

        all_params = [Param(key, shortened(value)) for key, value in params.items()]
        for start in range(0, len(all_params), MAX_PER_REQUEST):
            self._client.log_batch(self._run_id, params=all_params[start : start + MAX_PER_REQUEST])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, whatever they were."""
        from mlflow.entities import RunTag  # noqa: PLC0415

        self._client.log_batch(self._run_id, tags=[RunTag(key, shortened(value)) for key, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Add one value to each metric."""
        from mlflow.entities import Metric  # noqa: PLC0415

        values = [Metric(key, float(value), time_ms, step) for key, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=values)

    def log_file(self, path: Path) -> None:
        """Store a file with the run."""
        self._client.log_artifact(self._run_id, str(path), ARTIFACT_FOLDER)


def _has_azure_plugin() -> bool:
    try:
        return find_spec("azureml.mlflow") is not None
    except ImportError:  # of the package around it
        return False


def presentable(reason: str) -> str:
    """Return what went wrong, fit for a log: short, and without what addresses may carry beside the place.

    What is too long loses its middle: the cause often stands at the end.

    >>> presentable("no https://me:secret@host/a?sig=secret: refused")
    'no https://***@host/a?***: refused'
    """
    text = re.sub(r"(?<=//)[^/@\s]+(?=@)", "***", reason)
    text = re.sub(r"\?[^\s'\"):]+", "?***", text)
    half = MAX_REASON_LENGTH // 2 - 3
    return text if len(text) <= MAX_REASON_LENGTH else f"{text[:half]} ... {text[-half:]}"


def shortened(value: str) -> str:
    """Return a value that every server takes.

    >>> shortened("a"), len(shortened("a" * 1000))
    ('a', 250)
    """
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[: MAX_VALUE_LENGTH - 3]}..."
