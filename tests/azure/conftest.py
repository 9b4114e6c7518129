"""An emulated service, and a client of the unmodified library that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.azure.credential import Credential
from tests.azure.emulator import AzureEmulator
from tests.azure.in_process import emulated_azure, write_settings
from tests.azure.workspace import TRIPLE
from wsi_extract.azure_job import service
from wsi_extract.azure_job.workspace import Workspace

if TYPE_CHECKING:
    from azure.ai.ml import MLClient


@pytest.fixture
def azure() -> Iterator[AzureEmulator]:
    """The service, in this process."""
    with emulated_azure() as emulated:
        yield emulated


@pytest.fixture
def client(azure: AzureEmulator, tmp_path: Path) -> MLClient:
    """A client that is logged in there."""
    del azure
    service.load_libraries()
    return service.open_client(
        Credential(), config_path=write_settings(tmp_path / "ws.json"), workspace=Workspace(**TRIPLE)
    )
