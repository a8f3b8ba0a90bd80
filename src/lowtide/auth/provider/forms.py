"""The forms that the provider takes, for the reference. They are read by ``parameters``: each name once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lowtide.auth.provider.parameters import MAX_PARAMETER

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PARAMETER)]


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """The client that sends a form, unless the Authorization header names it."""

    client_id: Text | UnsetType = UNSET
    client_secret: Text | UnsetType = UNSET
    """Of a client that keeps one, and does not send it in the header."""


class TokenForm(Named, frozen=True, kw_only=True):
    """RFC 6749 sections 4.1.3 and 6."""

    grant_type: Literal["authorization_code", "refresh_token"]
    code: Text | UnsetType = UNSET
    """With ``authorization_code``: what came back to the redirect address."""
    redirect_uri: Text | UnsetType = UNSET
    """With ``authorization_code``: that address, as it was asked for."""
    code_verifier: (
        Annotated[str, msgspec.Meta(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")] | UnsetType
    ) = UNSET
    """With ``authorization_code``: what the code_challenge was made of (RFC 7636)."""
    refresh_token: Text | UnsetType = UNSET
    """With ``refresh_token``."""
    scope: Text | UnsetType = UNSET
    """With ``refresh_token``: some of what was granted; the answer's token keeps all of it."""
    rotation_id: Text | UnsetType = UNSET
    """With ``refresh_token``: a random value that a retry repeats, so that a lost answer costs nothing."""


class TokenNamed(Named, frozen=True, kw_only=True):
    """RFC 7009 section 2.1, RFC 7662 section 2.1."""

    token: Text
    token_type_hint: Text | UnsetType = UNSET
    """Read by nobody: a token says itself what it is."""


class RequestForm(Named, frozen=True, kw_only=True):
    """An authorization request (RFC 6749 section 4.1.1, OpenID Connect Core section 3.1.2.1)."""

    response_type: Literal["code"]
    redirect_uri: Text
    code_challenge: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]
    code_challenge_method: Literal["S256"]
    scope: Text
    """Parted by spaces."""
    response_mode: Literal["query"] | UnsetType = UNSET
    state: Text | UnsetType = UNSET
    """Comes back as it is."""
    nonce: Text | UnsetType = UNSET
    """Comes back in the id token."""
    prompt: Text | UnsetType = UNSET
    """``none`` alone, or ``login`` and ``consent``."""
    max_age: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$")] | UnsetType = UNSET
    """Seconds."""
    login_hint: Text | UnsetType = UNSET
    """An e-mail address to begin with."""
    dpop_jkt: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{43}$")] | UnsetType = UNSET
    """The key to which the code is to be bound (RFC 9449 section 10)."""


class PageForm(msgspec.Struct, frozen=True, kw_only=True):
    """A form of a page of this server, or an app's request as a form, which is sent on as a query."""

    step: str | UnsetType = UNSET
    proof: str | UnsetType = UNSET
    """That the page was made for this browser and this request."""


class LeaveForm(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of the page, or an app's request (OpenID Connect RP-Initiated Logout 1.0 section 2)."""

    answer: str | UnsetType = UNSET
    proof: str | UnsetType = UNSET
    id_token_hint: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    post_logout_redirect_uri: str | UnsetType = UNSET
    state: str | UnsetType = UNSET


class AppForm(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the page of a user's apps."""

    client: str | UnsetType = UNSET
    """From which to withdraw."""
    proof: str | UnsetType = UNSET
