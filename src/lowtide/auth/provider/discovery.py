"""What this server can do, for clients that ask (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from lowtide.auth.dpop import ALGORITHMS
from lowtide.auth.routes import JWKS
from lowtide.kernel.clients import SCOPES

AUTHORIZE = "/v1/oauth/authorize"
PUSH = "/v1/oauth/par"
TOKEN = "/v1/oauth/token"  # noqa: S105 - an address
USERINFO = "/v1/oauth/userinfo"
REVOKE = "/v1/oauth/revoke"
INTROSPECT = "/v1/oauth/introspect"
LOGOUT = "/v1/oauth/logout"
APPS = "/v1/oauth/apps"
UPSTREAM = "/v1/oauth/upstream"
"""Where browsers come back from outside providers; below it is where they leave from."""
SCRIPT = "/v1/oauth/passkeys.js"

_CLIENT = ["none", "client_secret_basic", "client_secret_post"]


def upstream(name: str, request: str, proof: str) -> str:
    """The address that leads to an outside provider, for the app's ``request``, with the browser's proof."""
    return f"{UPSTREAM}/{name}?{urlencode({'request': request, 'proof': proof})}"


def metadata(issuer: str) -> dict[str, Any]:
    """The document at both well-known addresses: what is true of this server, and nothing that is not."""
    return {
        "issuer": issuer,
        "authorization_endpoint": issuer + AUTHORIZE,
        "pushed_authorization_request_endpoint": issuer + PUSH,
        "token_endpoint": issuer + TOKEN,
        "userinfo_endpoint": issuer + USERINFO,
        "revocation_endpoint": issuer + REVOKE,
        "introspection_endpoint": issuer + INTROSPECT,
        "end_session_endpoint": issuer + LOGOUT,
        "jwks_uri": issuer + JWKS,
        "scopes_supported": sorted(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": _CLIENT,
        "revocation_endpoint_auth_methods_supported": _CLIENT,
        "introspection_endpoint_auth_methods_supported": _CLIENT[1:],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        "id_token_signing_alg_values_supported": ["ES256"],
        "subject_types_supported": ["public"],
        "claim_types_supported": ["normal"],
        "claims_supported": [
            *("sub", "iss", "aud", "exp", "iat", "auth_time", "amr", "nonce", "sid", "at_hash"),
            *("name", "updated_at", "email", "email_verified", "phone_number", "phone_number_verified"),
        ],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": True,
        "require_pushed_authorization_requests": False,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
