"""The emulated service behind HTTPS, for programs that are run as processes of their own."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.azure.emulator import AzureEmulator, EmulatedJob
from tests.azure.messages import Reply, Request, Trouble, error_reply

SLOW_S = 3.0
"""How long a request that is to time out is held."""


@dataclass(slots=True, kw_only=True)
class ServedAzure:
    """A running server."""

    service: AzureEmulator
    url: str
    certificate: Path
    """The bundle that programs are told to trust."""
    mistakes: list[str] = field(default_factory=list)
    """Requests the emulated service does not know."""

    @property
    def environment(self) -> dict[str, str]:
        """What lets the Azure libraries of another process come here."""
        return {
            "AZUREML_DEV_URL_MFE": self.url,
            "WSI_EXTRACT_ALLOW_DEV_URL": "1",
            "REQUESTS_CA_BUNDLE": str(self.certificate),
            "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
            "AZUREML_RUN_POLLING_INTERVAL_MAX": "1",
        }


@contextmanager
def served_azure(
    folder: Path, *, on_job: Callable[[EmulatedJob], None] | None = None, is_trusted: bool = True
) -> Iterator[ServedAzure]:
    """Serve an emulated workspace from this process until the block ends.

    With ``is_trusted`` false the server shows another certificate than the one programs trust. Raises an
    AssertionError at the end when a program asked for something the emulated service does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown, trusted = folder / "shown.pem", folder / "trusted.pem"
    _write_certificate(trusted)
    if is_trusted:
        shown = trusted
    else:
        _write_certificate(shown)
    server = _Server(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)
    server.tls = context
    url = f"https://localhost:{server.server_address[1]}"
    served = ServedAzure(service=AzureEmulator(arm=url, blob=url, api=url, on_job=on_job), url=url, certificate=trusted)
    server.served = served
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert served.mistakes == []


class _Server(ThreadingHTTPServer):
    served: ServedAzure
    tls: ssl.SSLContext
    daemon_threads = True

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        # The handshake happens in the request's own thread: one client that refuses the certificate stops no other.
        assert isinstance(request, socket.socket)
        try:
            with self.tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except OSError:
            return  # the client has hung up, or does not trust the certificate: its own business

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        assert isinstance(request, socket.socket)
        request.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(
            method=self.command,
            url=self.server.served.url + self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length),
        )
        try:
            outcome = self.server.served.service.answer(request)
        except AssertionError as error:
            self.server.served.mistakes.append(str(error))
            outcome = error_reply(501, code="NotEmulated", message=str(error))
        if isinstance(outcome, Trouble):
            self._trouble(outcome)
        else:
            self._send(outcome)

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815  # names of the standard library

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _trouble(self, trouble: Trouble) -> None:
        self.close_connection = True
        if trouble is Trouble.TIMEOUT:
            threading.Event().wait(SLOW_S)
        # Closing a socket that does not linger sends a reset instead of an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Stay silent: the service keeps the requests."""


def _write_certificate(path: Path) -> None:
    """Write a key and its self-signed certificate for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=2))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
