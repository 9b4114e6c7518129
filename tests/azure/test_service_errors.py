"""Errors of Azure's libraries in our words."""

from __future__ import annotations

import pytest
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError
from hypothesis import given
from hypothesis import strategies as st

from wsi_extract.azure_job.service_errors import MAX_CHARACTERS, hide_secrets, in_our_words, one_line, translate
from wsi_extract.errors import AuthenticationFailedError, ConfigError, ServiceError

SECRET = "c2lnbmF0dXJl%2Bof"


@pytest.mark.parametrize(
    "text",
    [
        f"Max retries exceeded with url: /c/a.py?sv=2026&sp=rw&sig={SECRET} (Caused by",
        f"https://x/?SIG={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"'Authorization': 'bearer {SECRET}'",
        f"client_id=a&client_secret={SECRET}&scope=b",
        f"POST /token?code={SECRET}",
        f"token eyJ0eXAi.{SECRET.replace('%', '')}.abc",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    hidden = hide_secrets(text)
    assert SECRET not in hidden
    assert SECRET.replace("%", "") not in hidden
    assert "***" in hidden


@pytest.mark.parametrize("text", ["", "sign=here", "submit(client, code=path)", "design=a", "status_code=404"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide_secrets(text) == text


@given(st.text())
def test_a_line_is_one_line_that_moves_no_cursor(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in line
    assert len(line) <= MAX_CHARACTERS + 4


@given(st.text(), st.sampled_from([None, 200, 400, 401, 403, 404, 429, 503]))
def test_every_error_has_a_line(text: str, status: int | None) -> None:
    error = HttpResponseError(message=text)
    error.status_code = status
    for found in (translate(error, doing="x"), translate(AzureError(text), doing="x")):
        assert str(found).startswith("cannot x: ")
        assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("said", "is_old", "is_foreign"),
    [
        ("(ExpiredAuthenticationToken) The access token expiry UTC time is earlier than now.", True, False),
        ("The access token has expired.", True, False),
        ("(InvalidAuthenticationTokenTenant) The access token is from the wrong issuer.", False, True),
        ("(InvalidAuthenticationToken) The access token is invalid.", True, True),
    ],
)
def test_a_token_that_is_not_accepted_is_mended_by_what_is_wrong_with_it(
    said: str, *, is_old: bool, is_foreign: bool
) -> None:
    error = ClientAuthenticationError(message=said)
    error.status_code = 401
    found = translate(error, doing="submit the job")
    assert isinstance(found, AuthenticationFailedError)
    assert ("Log in again" in found.remedy) == is_old
    assert ("tenant_id" in found.remedy) == is_foreign


def test_errors_of_ours_come_through_as_they_are() -> None:
    with pytest.raises(ConfigError, match="as it was"), in_our_words("do it"):
        raise ConfigError("as it was")


@pytest.mark.parametrize("error", [TypeError("a"), KeyError("a"), AttributeError("a"), ValueError("a"), OSError("a")])
def test_what_a_library_stumbles_over_is_an_error_of_the_service(error: Exception) -> None:
    what = f"cannot do it: Azure's library failed: {type(error).__name__}"
    with pytest.raises(ServiceError, match=what) as caught, in_our_words("do it"):
        raise error
    assert caught.value.__cause__ is error


def test_signatures_in_addresses_do_not_reach_a_message() -> None:
    with pytest.raises(ServiceError) as caught, in_our_words("submit the job"):
        raise ServiceRequestError(f"Max retries exceeded with url: /code/a.py?sv=1&sig={SECRET}")
    assert SECRET not in str(caught.value)
