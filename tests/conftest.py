"""What all tests share: repeatable property tests, and the public sample files where a checkout has them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from wsi_extract import blocks

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# The same examples on every machine, and no time limit per example: a slow machine is not a failure.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, rather than skip, the tests of sample files that are not there: a skipped test looks like a hole."""
    if SHARED_DATA.is_dir():
        return
    without = [item for item in items if item.get_closest_marker("shared") is not None]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item.get_closest_marker("shared") is None]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public sample files; only for tests marked ``shared``."""
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _small_blocks() -> Iterator[None]:
    """Cut the small plans of tests into several blocks, as those of whole slides are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_BLOCK_PATCHES", 16)
        yield
