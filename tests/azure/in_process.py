"""Answer the Azure libraries of this very process: no socket, no certificate, and nothing else is reachable."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from tests.azure.emulator import TRIPLE, AzureEmulator, EmulatedJob
from tests.azure.messages import Reply, Request, Trouble

ARM = "https://management.azure.com"
BLOB = "https://emulated.blob.core.windows.net"
API = "https://westeurope.api.azureml.ms"

_ERRORS: dict[Trouble, Callable[[str], Exception]] = {
    Trouble.RESET: lambda host: requests.exceptions.ConnectionError(f"connection to {host} reset by peer"),
    Trouble.WRONG_CERTIFICATE: lambda host: requests.exceptions.SSLError(f"certificate verify failed: {host}"),
    Trouble.TIMEOUT: lambda host: requests.exceptions.ReadTimeout(f"{host} did not answer in time"),
}


@contextmanager
def emulated_azure(*, on_job: Callable[[EmulatedJob], None] | None = None) -> Iterator[AzureEmulator]:
    """Let every request of this process reach an emulated service; yields the service.

    A request to any other host is an error. Waits between repetitions take no time. The environment is as before
    afterwards, and knows no service of its own meanwhile.
    """
    service = AzureEmulator(arm=ARM, blob=BLOB, api=API, on_job=on_job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", _sender(service))
        without_waits(patch)
        for name in ("AZUREML_DEV_URL_MFE", "WSI_EXTRACT_ALLOW_DEV_URL", "REQUESTS_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        patch.setenv("AZUREML_CURRENT_CLOUD", "AzureCloud")  # MLClient sets it, and nobody takes it back
        yield service


def write_settings(path: Path, **more: object) -> Path:
    """Write a config file that names the emulated workspace; ``more`` replaces or adds top-level keys."""
    path.write_text(json.dumps({**TRIPLE, **more}), encoding="utf-8")
    return path.resolve()


def _sender(service: AzureEmulator) -> Callable[..., requests.Response]:
    def send(adapter: HTTPAdapter, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        url = str(request.url)
        if not url.startswith((f"{service.arm}/", f"{service.blob}/", f"{service.api}/")):
            raise AssertionError(f"a request to a host that is not emulated: {request.method} {url}")
        message = Request(
            method=str(request.method),
            url=url,
            headers={name.lower(): _text(value) for name, value in request.headers.items()},
            body=_bytes(request.body),
        )
        outcome = service.answer(message)
        if isinstance(outcome, Trouble):
            raise _ERRORS[outcome](message.host)
        return adapter.build_response(request, _raw(outcome, method=message.method))

    return send


def _raw(reply: Reply, *, method: str) -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(
        body=io.BytesIO(reply.body),
        headers=_lengths(reply),
        status=reply.status,
        preload_content=False,
        request_method=method,
    )


def _lengths(reply: Reply) -> Mapping[str, str]:
    return {"Content-Length": str(len(reply.body)), **reply.headers}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _bytes(body: object) -> bytes:
    """Return the body of a request, however it is handed over."""
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if hasattr(body, "read"):
        content = body.read()
        assert isinstance(content, bytes)
        return content
    raise AssertionError(f"a body of an unknown kind: {type(body).__name__}")


def without_waits(patch: pytest.MonkeyPatch) -> None:
    """Let no time pass between the attempts of Azure's library."""
    from azure.core.pipeline.transport import HttpTransport  # noqa: PLC0415  # only where Azure is wanted at all

    patch.setattr(HttpTransport, "sleep", lambda _, __: None)
