"""What reaches the terminal of all that Azure's libraries say."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from wsi_extract.azure_job.sdk_noise import LOGGERS, hand_over_handlers, quiet_libraries, without_progress

NOISE = (
    "Class AutoDeleteSettingSchema: This is an experimental class, and may change at any time.",
    "Use of {} for parameters is deprecated, instead use ${{}}.",
    "InteractiveBrowserCredential.get_token failed: Failed to open a browser",
    "Proceeding with no tenant id appended to studio URL",
)


@pytest.mark.parametrize("text", NOISE)
def test_noise_is_dropped_unless_it_is_asked_for(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries(is_verbose=False):
        logging.getLogger("azure.ai.ml.x").warning(text)
    assert capsys.readouterr() == ("", "")
    with quiet_libraries(is_verbose=True):
        logging.getLogger("azure.ai.ml.x").warning(text)
    assert capsys.readouterr() == ("", f"azure.ai.ml.x: {text}\n")


def test_real_warnings_are_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries(is_verbose=False):
        logging.getLogger("azure.storage").warning("Slow:\nhttps://x/?sig=%s \x1b[2J", "abc")
        logging.getLogger("msal").info("not so important")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("something will change", FutureWarning, stacklevel=1)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: Slow: https://x/?sig=*** \\x1b[2J"
    assert "FutureWarning: something will change" in second


def test_errors_raised_inside_leave_everything_as_it_was() -> None:
    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in LOGGERS]
        return [warnings.showwarning, *((each.level, each.propagate, tuple(each.handlers)) for each in loggers)]

    before = state()
    with pytest.raises(KeyError), quiet_libraries(is_verbose=True):
        raise KeyError
    assert state() == before


def test_a_handler_that_a_library_brings_along_is_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("azure.ai.ml")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    hand_over_handlers()
    with quiet_libraries(is_verbose=False):
        logger.info("Found the config file in: ...")
        logger.warning("a real one")
    assert capsys.readouterr().err == "warning: a real one\n"


def test_progress_bars_are_drawn_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for is_verbose in (False, True):
        with without_progress(is_verbose=is_verbose):
            sys.stderr.write(f"{is_verbose} 10 %")
    assert capsys.readouterr().err == "True 10 %"
