"""A credential for the emulated service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.azure.routes import TOKEN

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken


@dataclass(slots=True)
class Credential:
    """A credential that is always logged in, and keeps what it is asked for."""

    scopes: list[tuple[str, ...]] = field(default_factory=list)

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: object,
    ) -> AccessToken:
        from azure.core.credentials import AccessToken  # noqa: PLC0415  # only where Azure is wanted at all

        del claims, tenant_id, enable_cae
        self.scopes.append(scopes)
        return AccessToken(TOKEN, 4_000_000_000)
