"""Blobs of the emulated storage account: what the upload of a snapshot needs of them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.azure.messages import Reply, Request, error_reply

_PREFIX = "x-ms-meta-"


@dataclass(slots=True, kw_only=True)
class Blob:
    """One blob."""

    content: bytes
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class BlobStore:
    """Blobs by ``container/folder/file``."""

    blobs: dict[str, Blob] = field(default_factory=dict)

    def head(self, request: Request) -> Reply:
        blob = self.blobs.get(_key(request))
        if blob is None:
            return Reply(status=404, headers={"x-ms-error-code": "BlobNotFound"})
        metadata = {_PREFIX + name: value for name, value in blob.metadata.items()}
        length = {"Content-Length": str(len(blob.content)), "x-ms-blob-type": "BlockBlob"}
        return Reply(status=200, headers={**_headers(blob), **length, **metadata})

    def put(self, request: Request) -> Reply:
        """Store a blob whose checksum is right; one that exists stays, where the sender says ``If-None-Match``."""
        if request.headers.get("if-none-match") == "*" and _key(request) in self.blobs:
            return error_reply(409, code="BlobAlreadyExists", message="The specified blob already exists.")
        digest = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
        if request.headers.get("content-md5", digest) != digest:
            return error_reply(400, code="Md5Mismatch", message="The MD5 value does not match.")
        blob = self.blobs[_key(request)] = Blob(content=request.body)
        return Reply(status=201, headers={**_headers(blob), "x-ms-request-server-encrypted": "true"})

    def put_metadata(self, request: Request) -> Reply:
        blob = self.blobs[_key(request)]
        blob.metadata = {k.removeprefix(_PREFIX): v for k, v in request.headers.items() if k.startswith(_PREFIX)}
        return Reply(status=200, headers={**_headers(blob), "x-ms-request-server-encrypted": "true"})

    def get(self, request: Request) -> Reply:
        blob = self.blobs.get(_key(request))
        if blob is None:
            return error_reply(404, code="BlobNotFound", message="The specified blob does not exist.")
        return Reply(status=200, headers=_headers(blob), body=blob.content)


def listing(names: Sequence[str], *, url: str) -> Reply:
    """Return a container's listing."""
    properties = "<Properties><BlobType>BlockBlob</BlobType></Properties>"
    rows = "".join(f"<Blob><Name>{name}</Name>{properties}</Blob>" for name in names)
    text = f'<EnumerationResults ContainerName="{url}"><Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>'
    return Reply(status=200, headers={"Content-Type": "application/xml"}, body=text.encode())


def _key(request: Request) -> str:
    return request.path.removeprefix("/")


def _headers(blob: Blob) -> dict[str, str]:
    etag = hashlib.sha256(blob.content).hexdigest()[:16]
    return {"ETag": f'"0x{etag.upper()}"', "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
