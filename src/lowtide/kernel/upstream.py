"""Outside OpenID providers as values: where users sign in elsewhere."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Upstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outside provider, as the operator set it up there and here."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    """In addresses, and what its users' identities are called by. It cannot be changed later."""
    issuer: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\\s?#]+$", max_length=500)]
    """What its id tokens call it, exactly; its metadata lies under there."""
    client_id: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    client_secret: str = ""
    """Empty for a public client."""
    title: Annotated[str, msgspec.Meta(max_length=40, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """What people call it, on the button of the sign-in page; empty: its name."""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
