"""Reading what OAuth sends: forms and query strings, each name once."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import parse_qsl, unquote_plus

from lowtide.auth.provider.model import OAuthError

MAX_PARAMETERS = 64
"""Parameters of an OAuth request."""
MAX_PARAMETER = 4096
"""Characters of one of them."""


def read_parameters(raw: bytes) -> dict[str, str]:
    """The parameters in ``raw``; one without a value counts as not sent (RFC 6749 section 3.1).

    Raises ``OAuthError`` (``invalid_request``) for a name given twice, bad UTF-8, a control character,
    and more or longer parameters than the limits allow.
    """
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise OAuthError("invalid_request", "The parameters cannot be read.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise OAuthError("invalid_request", f"The parameter {_shown(name)} is given twice.")
        if len(value) > MAX_PARAMETER or any(ord(c) < 32 or ord(c) == 127 for c in name + value):
            raise OAuthError("invalid_request", f"The parameter {_shown(name)} is too long or not a text.")
        found[name] = value
    return {name: value for name, value in found.items() if value}


def read_basic(header: str | None) -> tuple[str, str] | None:
    """The client and its secret in a Basic Authorization header (RFC 6749 section 2.3.1); None for another.

    Raises ``OAuthError`` (``invalid_client``) for one that cannot be read.
    """
    if header is None or header[:6].lower() != "basic ":
        return None
    try:
        client, colon, secret = base64.b64decode(header[6:].strip(), validate=True).decode().partition(":")
        if not colon:
            raise ValueError
        return unquote_plus(client, errors="strict"), unquote_plus(secret, errors="strict")
    except (ValueError, binascii.Error):
        raise OAuthError("invalid_client", "The Authorization header cannot be read.", status=401) from None


def _shown(name: str) -> str:
    return ascii(name[:40]).strip("'") or "''"
