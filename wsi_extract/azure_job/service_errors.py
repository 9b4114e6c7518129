"""What Azure's libraries raise, as errors of ours: one line that says what to do, and no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsi_extract.errors import AuthenticationFailedError, ServiceError, WsiExtractError
from wsi_extract.printable import as_printable

if TYPE_CHECKING:
    from azure.core.exceptions import AzureError, HttpResponseError

MAX_CHARACTERS = 600
"""Of what a service says: some replies hold pages of it."""
BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_SECRET_FORMS = (
    re.compile(
        r"(?i)((?:\b(?:sig|client_secret|access_token|refresh_token|id_token|assertion)|[?&]code)=)[^&\s\"'<>)]+"
    ),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]+"),
    re.compile(r"()\beyJ[\w-]+\.[\w-]+\.[\w-]*"),
)
_NO_SENSE = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OSError)
"""What Azure's libraries fail with when a reply is not what they expect."""
CERTIFICATES = (
    "A proxy that inspects TLS signs with a certificate of its own: set REQUESTS_CA_BUNDLE to the file with the "
    "certificates of your organisation."
)
NETWORK = "Check the network and, behind a proxy, HTTPS_PROXY; then give the same command again."
OTHER_TENANT = (
    "Check that tenant_id in config.json (or --tenant_id) is the tenant of the workspace, and that the account belongs "
    "to it."
)
LOG_IN_AGAIN = "Log in again: give the same command once more, with --auth cli after az login."
_EXPIRED = re.compile(r"(?i)ExpiredAuthenticationToken|token\b.{0,40}\bexpir|lifetime validation failed")
_OF_OTHER_TENANT = re.compile(r"(?i)InvalidAuthenticationTokenTenant|wrong issuer")
_REMEDIES = {
    403: "The account needs rights on the workspace (its owner can give the role 'AzureML Data Scientist'), and this "
    "machine access to its storage, where that is open to some networks only.",
    404: "Check subscription_id, resource_group and workspace_name in config.json, and the names in its 'job' object.",
}


class UnreachableError(ServiceError):
    """Nobody answers, or the service is too busy: another attempt may succeed."""


class ForbiddenError(ServiceError):
    """The account may not do that."""


class MissingError(ServiceError):
    """There is no such thing."""


_KINDS: Mapping[int, type[ServiceError]] = {403: ForbiddenError, 404: MissingError}


@contextmanager
def in_our_words(doing: str) -> Iterator[None]:
    """Turn what Azure's libraries raise within the block into errors of this package.

    Parameters
    ----------
    doing
        What is done there, as in ``cannot <doing>``.

    Raises
    ------
    AuthenticationFailedError
        When the service does not accept who logged in.
    UnreachableError
        When another attempt may succeed.
    ForbiddenError, MissingError, ServiceError
        When the service refuses, or says what cannot be understood.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415  # takes long, and is not always installed

    try:
        yield
    except WsiExtractError:
        raise
    except AzureError as error:
        raise translate(error, doing=doing) from error
    except _NO_SENSE as error:
        text = one_line(f"{type(error).__name__}: {error}")
        raise ServiceError(
            f"cannot {doing}: Azure's library failed: {text}.", "Use -v to see where; the reply made no sense to it."
        ) from error


def translate(error: AzureError, *, doing: str) -> WsiExtractError:
    """Return the error of ours that says what one of Azure's does."""
    from azure.core.exceptions import (  # noqa: PLC0415
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    what = f"cannot {doing}: {reason_of(error)}."
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return UnreachableError(what, network_remedy(error))
    if not isinstance(error, HttpResponseError):
        return ServiceError(what)
    # Storage calls a refused signature an authentication error as well (403), but nobody can mend that by logging in.
    if isinstance(error, ClientAuthenticationError) and error.status_code in (None, 401):
        return AuthenticationFailedError(what, _remedy_for_token(what))
    if error.status_code in BUSY_STATUSES:
        return UnreachableError(what, "The service is busy or has a fault: try again in a few minutes.")
    status = error.status_code or 0
    return _KINDS.get(status, ServiceError)(what, _REMEDIES.get(status, ""))


def _remedy_for_token(text: str) -> str:
    """Return what to do about a token that the service does not accept, by what it says."""
    if _EXPIRED.search(text):
        return LOG_IN_AGAIN
    return OTHER_TENANT if _OF_OTHER_TENANT.search(text) else f"{LOG_IN_AGAIN} If that changes nothing: {OTHER_TENANT}"


def network_remedy(error: BaseException) -> str:
    """Return what to do about a connection that could not be made."""
    return CERTIFICATES if is_certificate_problem(error) else NETWORK


def is_certificate_problem(error: BaseException) -> bool:
    """Say whether the certificate of the other side was not accepted."""
    text = str(error).casefold()
    return "certificate verify failed" in text or "certificate_verify_failed" in text or "sslcertverification" in text


def reason_of(error: AzureError) -> str:
    """Return what happened in one line: what the service says, its code and the HTTP status."""
    from azure.core.exceptions import HttpResponseError  # noqa: PLC0415

    if not isinstance(error, HttpResponseError):
        return one_line(error.message)
    status = f"HTTP {error.status_code}" if error.status_code else ""
    code, text = _said_by_service(error)
    marks = ", ".join(mark for mark in (code, status) if mark)
    return f"{one_line(text)} ({marks})" if marks else one_line(text)


def _said_by_service(error: HttpResponseError) -> tuple[str, str]:
    if error.error is None:
        return "", error.message
    texts = [error.error.message or "", *(detail.message or "" for detail in error.error.details)]
    return error.error.code or "", "; ".join(text for text in dict.fromkeys(texts) if text) or error.message


def one_line(text: str) -> str:
    r"""Return a text of unknown origin as one line for the terminal, shortened, without secrets and final full stop.

    >>> one_line("Refused.\n\n  at https://x/?sv=1&sig=abc%2F123 \x1b[2J.")
    'Refused. at https://x/?sv=1&sig=*** \\x1b[2J'
    """
    line = as_printable(" ".join(hide_secrets(text).split())).removesuffix(".")
    return line if len(line) <= MAX_CHARACTERS else line[:MAX_CHARACTERS] + " ..."


def hide_secrets(text: str) -> str:
    """Return the text without the signatures, tokens and secrets that addresses and headers hold.

    >>> hide_secrets("PUT /a?sig=abc&x=1, Authorization: Bearer abc.def")
    'PUT /a?sig=***&x=1, Authorization: Bearer ***'
    """
    for form in _SECRET_FORMS:
        text = form.sub(r"\1***", text)
    return text
