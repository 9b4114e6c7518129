"""The log-in service of Entra as far as the Azure libraries of this process need it.

A browser is a function that gets an address, as Python's ``webbrowser.open`` is.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import HTTPServer
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

HOST = "https://login.microsoftonline.com"
TENANT = "5dbf1add-202a-4b8d-815b-bf0fb024e033"
ACCOUNT = "ada@example.org"
DEVICE_CODE = "ABCD-1234"
SCOPES = "https://management.azure.com/user_impersonation https://management.azure.com/.default"


def make_token(**claims: object) -> str:
    """Return a token as the service makes them, with an empty signature."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".s"


ACCESS_TOKEN = make_token(upn=ACCOUNT, tid=TENANT)


@dataclass(slots=True)
class LoginService:
    """What was asked of the service, and what goes wrong there.

    Attributes
    ----------
    forms
        Fields of every request for a token.
    error
        What a request for a token is answered with, instead of one: code and description.
    failure
        Raised by every request.
    addresses
        What browsers were opened with.
    tenants
        Ids of the tenants that were asked for.
    access_token
        What those who log in get.
    posts
        Browsers that send their code.
    """

    forms: list[dict[str, str]] = field(default_factory=list)
    error: tuple[str, str] | None = None
    failure: Exception | None = None
    addresses: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    access_token: str = ACCESS_TOKEN
    nonce: str = ""
    posts: list[threading.Thread] = field(default_factory=list)

    def answer(self, method: str, url: str, body: str) -> tuple[int, object]:
        path = urlsplit(url).path
        if path.endswith("openid-configuration"):
            self.tenants.append(path.split("/")[1])
            return 200, {
                "authorization_endpoint": f"{HOST}/{TENANT}/oauth2/v2.0/authorize",
                "token_endpoint": f"{HOST}/{TENANT}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{HOST}/{TENANT}/oauth2/v2.0/devicecode",
                "issuer": f"{HOST}/{TENANT}/v2.0",
            }
        if path.endswith("/discovery/instance"):
            return 200, {
                "tenant_discovery_endpoint": f"{HOST}/{TENANT}/v2.0/.well-known/openid-configuration",
                "metadata": [],
            }
        if path.endswith("/devicecode"):
            flow = {
                "user_code": DEVICE_CODE,
                "device_code": "d",
                "verification_uri": "https://microsoft.com/devicelogin",
            }
            return 200, {**flow, "expires_in": 900, "interval": 1, "message": "unused"}
        if path.endswith("/token"):
            form = dict(parse_qsl(body))
            self.forms.append(form)
            return self._token(form["client_id"])
        raise AssertionError(f"the emulated service does not know {method} {url}")

    def _token(self, client_id: str) -> tuple[int, object]:
        if self.error is not None:
            return 400, {"error": self.error[0], "error_description": self.error[1]}
        now_s = int(time.time())
        claims = {"aud": client_id, "iss": f"{HOST}/{TENANT}/v2.0", "exp": now_s + 3600, "iat": now_s, "sub": "s"}
        identity = make_token(**claims, tid=TENANT, preferred_username=ACCOUNT, nonce=self.nonce)
        account = base64.urlsafe_b64encode(json.dumps({"uid": "u", "utid": TENANT}).encode()).decode()
        token = {"access_token": self.access_token, "id_token": identity, "expires_in": 3600, "token_type": "Bearer"}
        return 200, {**token, "client_info": account, "scope": SCOPES}

    # --- browsers

    def finish(self, address: str) -> bool:
        """Log in as somebody does who finishes at once: the page sends its code to the waiting program."""
        self.addresses.append(address)
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        self.nonce = asked["nonce"]
        form = urlencode({"code": "c", "state": asked["state"]}).encode()

        def post() -> None:
            with urllib.request.urlopen(asked["redirect_uri"], data=form, timeout=120) as reply:
                reply.read()

        self.posts.append(threading.Thread(target=post))
        self.posts[-1].start()
        return True

    def walk_away(self, address: str) -> bool:
        """Open the page and never come back."""
        self.addresses.append(address)
        return True


def no_browser(_: str) -> bool:
    return False


@contextmanager
def emulated_login(browser: Callable[[str], bool] | None = None) -> Iterator[LoginService]:
    """Let log-ins of this process reach an emulated service; by default the browser is one whose user finishes.

    Requests to other hosts go where they went before, as to `tests.azure.in_process.emulated_azure`.
    """
    from azure.core.pipeline.transport import HttpTransport  # noqa: PLC0415  # only where Azure is wanted at all

    service = LoginService()
    send_elsewhere = HTTPAdapter.send

    def send(adapter: HTTPAdapter, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        if not str(request.url).startswith(f"{HOST}/"):
            return send_elsewhere(adapter, request)
        if service.failure is not None:
            raise service.failure
        body = request.body.decode() if isinstance(request.body, bytes) else str(request.body or "")
        status, document = service.answer(str(request.method), str(request.url), body)
        raw = urllib3.HTTPResponse(
            body=io.BytesIO(json.dumps(document).encode()),
            headers={"Content-Type": "application/json"},
            status=status,
            preload_content=False,
        )
        return adapter.build_response(request, raw)

    with pytest.MonkeyPatch.context() as patch, _ports_closed(patch):
        patch.setattr(HTTPAdapter, "send", send)
        patch.setattr(HttpTransport, "sleep", lambda _, __: None)  # between repetitions
        patch.setattr(webbrowser, "open", browser or service.finish)
        yield service
        for post in service.posts:  # the page of a browser that is being closed
            post.join()


@contextmanager
def _ports_closed(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close at the end the ports that the library opens for the answers of browsers; without one it forgets to."""
    opened: list[HTTPServer] = []
    open_port = HTTPServer.server_activate

    def note_port(server: HTTPServer) -> None:
        opened.append(server)
        open_port(server)

    patch.setattr(HTTPServer, "server_activate", note_port)
    yield
    for server in opened:
        server.server_close()
