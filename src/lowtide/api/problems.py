"""Every error as an RFC 9457 problem: the one place that turns exceptions into answers.

A problem's ``type`` is ``/problems/<code>``, an address of this server that explains it in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from http import HTTPStatus

import msgspec

from lowtide.kernel.errors import (
    LowtideError,
    MethodNotAllowed,
    NotFound,
    ProofInvalid,
    ScopeMissing,
    SetupError,
    TokenExpired,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from lowtide.kernel.http import Request, Response, Route

MEDIA_TYPE = "application/problem+json"
OWN = frozenset({"type", "title", "status", "detail", "code", "hint", "request_id", "instance"})
"""Members that an error's ``details`` cannot replace."""

INTERNAL_HINT = "This is a fault of the server. Its log has more under the request id of this answer."


class Problem(msgspec.Struct, omit_defaults=True):
    """What every error answers. An error may add members of its own, such as ``expected``."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    hint: str = ""
    request_id: str = ""


def expected(error: BaseException) -> bool:
    """Whether ``error`` is an answer (bad input, or a fault that passes) and not a fault of ours."""
    return isinstance(error, LowtideError) and not isinstance(error, SetupError) and error.status != 500


def problem(error: BaseException, request_id: str, retry_after: int = 1) -> Response:
    """The answer for ``error``.

    What is not ``expected`` says no more than that it happened: its message may hold anything.
    ``retry_after`` (seconds) is said with 429 and 503 that name no time themselves.
    """
    if not (isinstance(error, LowtideError) and expected(error)):
        title = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
        body = Problem(
            "/problems/internal", title, 500, "internal", hint=INTERNAL_HINT, request_id=request_id
        )
        return Response(status=500, media_type=MEDIA_TYPE, body=body)
    status, code = error.status, error.code
    title = HTTPStatus(status).phrase
    own = Problem(f"/problems/{code}", title, status, code, error.message, error.hint, request_id)
    members = msgspec.to_builtins(own)
    members |= {name: value for name, value in error.details.items() if name not in OWN}
    if isinstance(after := members.get("retry_after"), float):
        members["retry_after"] = round(after, 3)
    return Response(status=status, media_type=MEDIA_TYPE, body=members, headers=_headers(error, retry_after))


def _headers(error: LowtideError, retry_after: int) -> dict[str, str]:
    if isinstance(error, Unavailable | TooManyRequests):
        # Whole seconds, rounded up, so that nobody comes early.
        seconds = float(error.details.get("retry_after", retry_after))
        return {"retry-after": str(max(1, math.ceil(seconds)))}
    if isinstance(error, ProofInvalid):
        # RFC 9449 section 7.1, and section 9 for the nonce.
        headers = {"www-authenticate": f'DPoP error="{error.code}", algs="ES256 Ed25519 EdDSA"'}
        nonce = error.details.get("nonce")
        return headers if nonce is None else headers | {"dpop-nonce": nonce}
    if isinstance(error, ScopeMissing):
        scope = error.details.get("scope", "")
        return {"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
    if isinstance(error, Unauthorized):
        # RFC 6750 section 3.
        return {
            "www-authenticate": 'Bearer error="invalid_token"'
            if isinstance(error, TokenExpired)
            else "Bearer"
        }
    if isinstance(error, MethodNotAllowed):
        return {"allow": ", ".join(error.details.get("allowed", ()))}
    return {}


def known() -> dict[str, type[LowtideError]]:
    """Every error that the running program can answer, by code."""
    found: dict[str, type[LowtideError]] = {}
    for kind in _descendants(LowtideError):
        if kind.status != 500 and not issubclass(kind, SetupError):
            found.setdefault(kind.code, kind)
    return found


def _descendants(kind: type[LowtideError]) -> Iterator[type[LowtideError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


async def explain(request: Request[None, None]) -> Response:
    """What a problem's ``type`` leads to: its meaning and what to do, as plain text."""
    code = request.params["code"]
    kind = known().get(code)
    if kind is not None:
        words = f"{kind.status} {code}\n\n{(kind.__doc__ or '').strip()}\n{kind.hint}\n"
    elif code == "internal":
        words = f"500 internal\n\nSomething went wrong in the server.\n{INTERNAL_HINT}\n"
    else:
        raise NotFound(f"No problem is named {code!r}.")
    return Response(body=words.encode(), media_type="text/plain; charset=utf-8")


def problem_routes() -> list[Route]:
    """``GET /problems/{code}``."""
    return [
        Route(
            "GET",
            "/problems/{code}",
            explain,
            auth="none",
            produces="text/plain",
            summary="Explain a problem",
            errors=(NotFound,),
            tags=("problems",),
        )
    ]
