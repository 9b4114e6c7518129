"""Who submits a job: log in at Microsoft Entra, before anything else is done, so that nobody hashes files in vain."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from wsi_extract.azure_job.service_errors import (
    NETWORK,
    OTHER_TENANT,
    is_certificate_problem,
    network_remedy,
    one_line,
    reason_of,
)
from wsi_extract.errors import AuthenticationFailedError, ConfigError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential
    from azure.core.exceptions import AzureError

SCOPE = "https://management.azure.com/.default"
UNATTENDED = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "AZUREML_RUN_ID")
"""Variables that say that nobody sits in front of this program."""
SECRET_NAMES = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH")
TENANT_FORM = re.compile(r"[A-Za-z0-9.-]+")
ACCOUNT_CLAIMS = ("upn", "preferred_username", "unique_name", "app_displayname", "appid")

Say = Callable[[str], None]
"""Shows a line to the user."""


class AuthKind(StrEnum):
    """How to log in."""

    INTERACTIVE = "interactive"
    """In a browser that is opened; with a code where none can be opened."""
    DEVICE_CODE = "device-code"
    """With a code that is typed in a browser on any machine: over SSH, in containers."""
    CLI = "cli"
    """As ``az login`` did."""
    DEFAULT = "default"
    """With whatever is there: environment variables, the machine's identity, ``az``, and so on."""
    MANAGED_IDENTITY = "managed-identity"
    """As this Azure machine; as one of several identities of it with AZURE_CLIENT_ID."""
    SERVICE_PRINCIPAL = "service-principal"
    """As a program: AZURE_CLIENT_ID, AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH, and AZURE_TENANT_ID where no
    tenant is given."""


_ASKS_SOMEBODY = frozenset({AuthKind.INTERACTIVE, AuthKind.DEVICE_CODE})
_ANNOUNCEMENTS: Mapping[AuthKind, str] = {
    AuthKind.INTERACTIVE: "in the browser that opens now",
    AuthKind.DEVICE_CODE: "with a code",
    AuthKind.CLI: "with the login of az",
    AuthKind.DEFAULT: "with what this machine offers (environment variables, its identity, az)",
    AuthKind.MANAGED_IDENTITY: "as this machine",
    AuthKind.SERVICE_PRINCIPAL: "as a service principal, from the AZURE_* variables",
}
_REMEDIES: Mapping[AuthKind, str] = {
    AuthKind.INTERACTIVE: "Use --auth device-code, or --auth cli after: {az_login}",
    AuthKind.DEVICE_CODE: "Where codes are not allowed, use --auth cli after: {az_login}",
    AuthKind.CLI: "Log in, then submit again: {az_login}",
    AuthKind.DEFAULT: "Choose another --auth, or submit again after: {az_login}",
    AuthKind.MANAGED_IDENTITY: "Only machines of Azure that have an identity can use it: choose another --auth.",
    AuthKind.SERVICE_PRINCIPAL: "Check the AZURE_* variables: the secret may be wrong or expired.",
}
"""With the command that logs in at the tenant, to be copied."""
_NO_AZ = "Install Azure's command line (https://aka.ms/installazurecli), or use --auth device-code."
_OTHER_TENANT_CODES = re.compile(r"AADSTS(?:90002|900021|900023|50020|500011|90072|700016)\b")
"""There is no such tenant; the account, the program or what it asks for is unknown to the one that was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Somebody who has logged in; ``account`` is their name where the token holds it."""

    credential: TokenCredential
    account: str | None


def log_in(kind: AuthKind, *, tenant_id: str | None, timeout_s: int, say: Say) -> Login:
    """Log in and get a first token; where no browser can be opened, ask for a code instead.

    Parameters
    ----------
    tenant_id
        Tenant to log in to; ``None`` for that of the account.
    timeout_s
        Seconds to wait for somebody to finish.
    say
        Is told what to do, and what happens.

    Raises
    ------
    ConfigError
        When the tenant is no id.
    AuthenticationFailedError
        When nobody logged in; it says what else to try.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415  # takes long, and is not always installed
    from azure.identity import CredentialUnavailableError  # noqa: PLC0415

    credential = open_credential(kind, tenant_id=tenant_id, timeout_s=timeout_s, say=say)
    say(_announcement(kind, timeout_s=timeout_s))
    try:
        token = credential.get_token(SCOPE)
    except CredentialUnavailableError as error:
        if kind is not AuthKind.INTERACTIVE:
            raise _failure(kind, error, tenant_id=tenant_id, timeout_s=timeout_s) from error
        say(f"no log-in in a browser here ({reason_of(error)}): with a code instead, as with --auth device-code")
        return log_in(AuthKind.DEVICE_CODE, tenant_id=tenant_id, timeout_s=timeout_s, say=say)
    except AzureError as error:
        raise _failure(kind, error, tenant_id=tenant_id, timeout_s=timeout_s) from error
    return Login(credential=credential, account=account_of(token.token))


def open_credential(kind: AuthKind, *, tenant_id: str | None, timeout_s: int, say: Say) -> TokenCredential:
    """Return what gets tokens in this way; nothing is asked for yet. See `log_in`."""
    if kind in _ASKS_SOMEBODY:
        refuse_unattended(kind, os.environ)
    try:
        match kind:
            case AuthKind.INTERACTIVE | AuthKind.DEVICE_CODE:
                return _credential_of_person(kind, tenant_id=tenant_id, timeout_s=timeout_s, say=say)
            case AuthKind.SERVICE_PRINCIPAL:
                return _service_principal(os.environ, tenant_id=tenant_id)
            case _:
                return _credential_of_machine(kind, tenant_id=tenant_id, timeout_s=timeout_s)
    except ValueError as error:
        raise ConfigError(
            f"tenant_id: {one_line(str(tenant_id))!r} cannot be a tenant.", "Give its id as the Azure portal shows it."
        ) from error


def _credential_of_person(kind: AuthKind, *, tenant_id: str | None, timeout_s: int, say: Say) -> TokenCredential:
    from azure.identity import DeviceCodeCredential, InteractiveBrowserCredential  # noqa: PLC0415

    more = {} if tenant_id is None else {"tenant_id": tenant_id}
    if kind is AuthKind.INTERACTIVE:
        return InteractiveBrowserCredential(timeout=timeout_s, **more)

    def show_code(address: str, code: str, expires: datetime) -> None:
        until = expires.astimezone().strftime("%H:%M")
        say(f"open {one_line(address)} in any browser and enter the code {one_line(code)} (valid until {until})")

    return DeviceCodeCredential(timeout=timeout_s, prompt_callback=show_code, **more)


def _credential_of_machine(kind: AuthKind, *, tenant_id: str | None, timeout_s: int) -> TokenCredential:
    from azure.identity import AzureCliCredential, DefaultAzureCredential, ManagedIdentityCredential  # noqa: PLC0415

    if kind is AuthKind.CLI:
        return AzureCliCredential(tenant_id=tenant_id or "", process_timeout=timeout_s)
    if kind is AuthKind.MANAGED_IDENTITY:
        client_id = os.environ.get("AZURE_CLIENT_ID")
        return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()
    if tenant_id is None:
        return DefaultAzureCredential(process_timeout=timeout_s, exclude_interactive_browser_credential=True)
    whatever_is_there = DefaultAzureCredential(
        process_timeout=timeout_s,
        exclude_interactive_browser_credential=True,
        additionally_allowed_tenants=[_checked_tenant(tenant_id)],
    )
    return _CredentialOfTenant(whatever_is_there, tenant_id=tenant_id)


def could_be_tenant(text: str) -> bool:
    """Say whether a text has the form of a tenant's id or domain; nobody is asked."""
    return TENANT_FORM.fullmatch(text) is not None


def _checked_tenant(tenant_id: str) -> str:
    if not could_be_tenant(tenant_id):
        raise ValueError(tenant_id)
    return tenant_id


class _CredentialOfTenant:
    """Asks for tokens of one tenant where a credential would take that of the account."""

    def __init__(self, credential: TokenCredential, *, tenant_id: str) -> None:
        self._credential = credential
        self._tenant_id = tenant_id

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **more: object,
    ) -> AccessToken:
        wanted = tenant_id or self._tenant_id
        return self._credential.get_token(*scopes, claims=claims, tenant_id=wanted, enable_cae=enable_cae, **more)


def _service_principal(environ: Mapping[str, str], *, tenant_id: str | None) -> TokenCredential:
    from azure.identity import CertificateCredential, ClientSecretCredential  # noqa: PLC0415

    client_id = environ.get("AZURE_CLIENT_ID", "")
    tenant = tenant_id or environ.get("AZURE_TENANT_ID", "")
    secret, certificate = (environ.get(name, "") for name in SECRET_NAMES)
    missing = [name for name, value in (("AZURE_CLIENT_ID", client_id), ("AZURE_TENANT_ID", tenant)) if not value]
    missing += [] if secret or certificate else [" or ".join(SECRET_NAMES)]
    if missing:
        raise AuthenticationFailedError(
            f"--auth {AuthKind.SERVICE_PRINCIPAL} needs environment variables that are not set: {', '.join(missing)}."
        )
    if secret:
        return ClientSecretCredential(tenant, client_id, secret)
    try:
        password = environ.get("AZURE_CLIENT_CERTIFICATE_PASSWORD") or None
        return CertificateCredential(tenant, client_id, certificate, password=password)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no certificate with its private key"
        raise AuthenticationFailedError(
            f"AZURE_CLIENT_CERTIFICATE_PATH: {one_line(certificate)} cannot be used: {reason}.",
            "Give a PEM or PKCS12 file, and AZURE_CLIENT_CERTIFICATE_PASSWORD where it has a password.",
        ) from error


def refuse_unattended(kind: AuthKind, environ: Mapping[str, str]) -> None:
    """Refuse to wait for somebody where nobody is, as on a build server.

    Raises
    ------
    AuthenticationFailedError
        Naming the variable that says so, and the other ways.
    """
    for name in UNATTENDED:
        if environ.get(name, "").casefold() not in ("", "0", "false"):
            others = ", ".join(other for other in AuthKind if other not in _ASKS_SOMEBODY)
            raise AuthenticationFailedError(
                f"--auth {kind} asks somebody to log in, and {name}={one_line(environ[name])} says nobody is there.",
                f"Use --auth with one of {others}.",
            )


def account_of(token: str) -> str | None:
    """Return who a token belongs to, as it says itself; ``None`` for tokens of another form."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    if not isinstance(claims, dict):
        return None
    names = (claims.get(name) for name in ACCOUNT_CLAIMS)
    return next((one_line(name) for name in names if isinstance(name, str) and name), None)


def _announcement(kind: AuthKind, *, timeout_s: int) -> str:
    waits = f" (waiting {timeout_s} s)" if kind in _ASKS_SOMEBODY else ""
    remote = kind is AuthKind.INTERACTIVE and os.environ.get("SSH_CONNECTION")
    hint = "; it opens on this machine, not on yours: over SSH --auth device-code is better" if remote else ""
    return f"log in: {_ANNOUNCEMENTS[kind]}{waits}{hint}"


def _failure(kind: AuthKind, error: AzureError, *, tenant_id: str | None, timeout_s: int) -> AuthenticationFailedError:
    text = str(error)
    if "timed out" in text.casefold() and kind in _ASKS_SOMEBODY:
        longer = f"--auth_timeout {2 * timeout_s}"
        other = "Use --auth device-code (where the browser is elsewhere, as over SSH), or give more time with " + longer
        remedy = other if kind is AuthKind.INTERACTIVE else f"Give more time with {longer}"
        return AuthenticationFailedError(f"nobody has logged in within {timeout_s} s.", f"{remedy}.")
    what = f"the log-in has failed (--auth {kind}): {reason_of(error)}."
    if is_certificate_problem(error):
        return AuthenticationFailedError(what, network_remedy(error))
    is_offline = "failed to resolve" in text.casefold() or "max retries exceeded" in text.casefold()
    return AuthenticationFailedError(what, NETWORK if is_offline else _remedy(kind, text, tenant_id=tenant_id))


def _remedy(kind: AuthKind, text: str, *, tenant_id: str | None) -> str:
    """Return what to do about a log-in that was refused, by what was said."""
    if _OTHER_TENANT_CODES.search(text):
        return OTHER_TENANT
    if kind is AuthKind.CLI and "not found on path" in text.casefold():
        return _NO_AZ
    az_login = "az login" if tenant_id is None else f"az login --tenant {shlex.quote(tenant_id)}"
    return _REMEDIES[kind].format(az_login=az_login)
