"""Logging in, with the real library and an emulated service."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import requests

from tests.azure.fake_az import install_az, read_calls
from tests.azure.login_service import (
    ACCESS_TOKEN,
    ACCOUNT,
    DEVICE_CODE,
    TENANT,
    LoginService,
    emulated_login,
    make_token,
    no_browser,
)
from wsi_extract.azure_job.credentials import (
    SCOPE,
    UNATTENDED,
    AuthKind,
    Login,
    account_of,
    log_in,
    open_credential,
    refuse_unattended,
)
from wsi_extract.errors import AuthenticationFailedError, ConfigError

SECRET = "Q~secret~of~the~principal"


@pytest.fixture(autouse=True)
def _attended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the machine that runs the tests decide."""
    names = ("CLIENT_ID", "TENANT_ID", "CLIENT_SECRET", "CLIENT_CERTIFICATE_PATH", "CLIENT_CERTIFICATE_PASSWORD")
    for name in (*UNATTENDED, "SSH_CONNECTION", *(f"AZURE_{name}" for name in names)):
        monkeypatch.delenv(name, raising=False)


def try_login(kind: AuthKind, *, timeout_s: int = 30, tenant_id: str | None = TENANT) -> tuple[Login, list[str]]:
    lines: list[str] = []
    return log_in(kind, tenant_id=tenant_id, timeout_s=timeout_s, say=lines.append), lines


def refused(kind: AuthKind, *, timeout_s: int = 30, tenant_id: str | None = TENANT) -> str:
    with pytest.raises(AuthenticationFailedError) as caught:
        try_login(kind, timeout_s=timeout_s, tenant_id=tenant_id)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_browser_logs_in_at_the_tenant() -> None:
    with emulated_login() as service:
        login, lines = try_login(AuthKind.INTERACTIVE)
        assert login.credential.get_token(SCOPE).token == ACCESS_TOKEN
    assert login.account == ACCOUNT
    assert lines == ["log in: in the browser that opens now (waiting 30 s)"]
    assert len(service.addresses) == 1, "a second token must not open a second browser"
    assert f"/{TENANT}/" in service.addresses[0]


def test_without_a_browser_a_code_is_asked_for_and_that_is_said() -> None:
    with emulated_login(no_browser) as service:
        login, lines = try_login(AuthKind.INTERACTIVE)
        assert login.credential.get_token(SCOPE).token == ACCESS_TOKEN
    assert "Failed to open a browser" in lines[1]
    assert "--auth device-code" in lines[1]
    assert f"https://microsoft.com/devicelogin in any browser and enter the code {DEVICE_CODE}" in lines[-1]
    assert [form["grant_type"] for form in service.forms] == ["urn:ietf:params:oauth:grant-type:device_code"]


def test_a_browser_that_nobody_finishes_ends_after_the_time_given() -> None:
    with emulated_login(LoginService().walk_away):
        message = refused(AuthKind.INTERACTIVE, timeout_s=1)
    assert message.startswith("nobody has logged in within 1 s.")
    assert "--auth device-code" in message
    assert "--auth_timeout 2" in message


def test_a_code_that_nobody_enters_ends_after_the_time_given() -> None:
    with emulated_login() as service:
        service.error = ("authorization_pending", "AADSTS70016: pending")
        assert "--auth_timeout 2" in refused(AuthKind.DEVICE_CODE, timeout_s=1)


def test_over_ssh_the_better_way_is_named_before_anybody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")
    with emulated_login():
        assert "over SSH --auth device-code is better" in try_login(AuthKind.INTERACTIVE)[1][0]


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        # what urllib3 says of a machine without a network
        ("Max retries exceeded: Failed to resolve 'login.microsoftonline.com'", "Check the network"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", "REQUESTS_CA_BUNDLE"),
    ],
    ids=["offline", "inspected"],
)
@pytest.mark.parametrize("kind", [AuthKind.INTERACTIVE, AuthKind.DEVICE_CODE])
def test_a_service_out_of_reach_says_what_to_check(failure: str, hint: str, kind: AuthKind) -> None:
    with emulated_login() as service:
        service.failure = requests.exceptions.ConnectionError(failure)
        assert hint in refused(kind)


def test_what_the_service_says_is_said() -> None:
    with emulated_login() as service:
        service.error = ("access_denied", "AADSTS53003: blocked by conditional access.\r\nTrace ID: 1")
        message = refused(AuthKind.DEVICE_CODE)
    assert "AADSTS53003: blocked by conditional access." in message
    assert "az login" in message


@pytest.mark.parametrize("tenant_id", ["not a tenant!", "a/b", "<tenant>"])
@pytest.mark.parametrize("kind", [AuthKind.INTERACTIVE, AuthKind.DEVICE_CODE, AuthKind.CLI])
def test_a_malformed_tenant_is_a_mistake_of_the_settings(kind: AuthKind, tenant_id: str) -> None:
    with pytest.raises(ConfigError, match="tenant_id: ") as caught:
        try_login(kind, tenant_id=tenant_id)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", UNATTENDED)
@pytest.mark.parametrize("kind", AuthKind)
def test_nobody_is_asked_where_nobody_is(kind: AuthKind, name: str) -> None:
    if kind in (AuthKind.INTERACTIVE, AuthKind.DEVICE_CODE):
        with pytest.raises(AuthenticationFailedError, match=rf"{name}=true .* cli, default, managed-identity"):
            refuse_unattended(kind, {name: "true"})
    refuse_unattended(kind, {name: "false"})
    refuse_unattended(kind, {})


def test_a_build_server_opens_no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with emulated_login() as service:
        refused(AuthKind.INTERACTIVE)
        refused(AuthKind.DEVICE_CODE)
    assert (service.addresses, service.forms) == ([], [])


def test_az_is_asked_for_the_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install_az(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CI", "true")
    assert try_login(AuthKind.CLI)[0].account is None, "its token says nothing of who it is"
    assert read_calls(calls)[0][-2:] == ["--tenant", TENANT]


def test_whatever_is_there_is_asked_for_the_tenant_of_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install_az(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    login, _ = try_login(AuthKind.DEFAULT)
    login.credential.get_token(SCOPE)
    assert [call[-2:] for call in read_calls(calls)] == [["--tenant", TENANT]] * 2
    try_login(AuthKind.DEFAULT, tenant_id=None)
    assert "--tenant" not in read_calls(calls)[-1]


def test_the_tenant_of_the_workspace_goes_before_that_of_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    other = "99999999-2222-4333-8444-555555555555"
    monkeypatch.setenv("AZURE_TENANT_ID", other)
    with emulated_login() as service:
        try_login(AuthKind.SERVICE_PRINCIPAL)
        try_login(AuthKind.SERVICE_PRINCIPAL, tenant_id=None)
    assert service.tenants == [TENANT, other]


def test_az_that_is_not_logged_in_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_az(tmp_path / "bin", account="logged out")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert refused(AuthKind.CLI).endswith(f"Log in, then submit again: az login --tenant {TENANT}")
    assert refused(AuthKind.CLI, tenant_id=None).endswith("again: az login")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "https://aka.ms/installazurecli" in refused(AuthKind.CLI)


@pytest.mark.parametrize(
    "said",
    [
        "AADSTS90002: Tenant '5dbf' not found.",
        "AADSTS50020: User account from identity provider 'live.com' does not exist in tenant 'x'.",
        "AADSTS500011: The resource principal was not found in the tenant.",
    ],
)
def test_another_tenant_is_mended_in_the_settings(said: str) -> None:
    with emulated_login() as service:
        service.error = ("invalid_request", said)
        message = refused(AuthKind.DEVICE_CODE)
    assert said.partition(":")[0] in message
    assert "Check that tenant_id in config.json" in message
    assert "az login" not in message


def test_a_service_principal_needs_its_variables_and_all_that_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(AuthKind.SERVICE_PRINCIPAL, tenant_id=None)
    assert "AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH" in message
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    message = refused(AuthKind.SERVICE_PRINCIPAL)
    assert "not set: AZURE_CLIENT_ID." in message
    assert SECRET not in message


def test_a_service_principal_logs_in_with_its_secret_and_never_shows_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AZURE_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    with emulated_login() as service:
        login, lines = try_login(AuthKind.SERVICE_PRINCIPAL)
        assert login.account == ACCOUNT
        assert service.forms[0]["client_secret"] == SECRET
        service.error = ("invalid_client", "AADSTS7000215: Invalid client secret provided.")
        message = refused(AuthKind.SERVICE_PRINCIPAL)
    assert "AADSTS7000215" in message
    assert "get_token" in caplog.text
    assert SECRET not in message + caplog.text + "".join(lines)


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "damaged"])
def test_a_certificate_that_cannot_be_used(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "principal.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("AZURE_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(path))
    assert str(path) in refused(AuthKind.SERVICE_PRINCIPAL)


@pytest.mark.parametrize("kind", AuthKind)
def test_opening_asks_nobody(kind: AuthKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "11111111-2222-4333-8444-555555555555")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    with emulated_login() as service:
        open_credential(kind, tenant_id=TENANT, timeout_s=5, say=pytest.fail)
    assert (service.addresses, service.forms) == ([], [])


@pytest.mark.parametrize(
    ("token", "account"),
    [
        (make_token(upn="a@b"), "a@b"),
        (make_token(appid="42"), "42"),
        (make_token(upn="a\x1b[2J"), r"a\x1b[2J"),  # nothing moves the cursor
        (make_token(upn=5), None),
        (make_token(), None),
        ("token-of-tests", None),
        ("a.b.c", None),
        ("a.W10.c", None),  # a list
        ("a.\u00e9.c", None),
    ],
)
def test_the_account_is_what_the_token_says(token: str, account: str | None) -> None:
    assert account_of(token) == account
