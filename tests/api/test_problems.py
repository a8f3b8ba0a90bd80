"""Errors as problems: what is told, and what is not."""

from __future__ import annotations

import re

import msgspec
import pytest

from lowtide.api.problems import MEDIA_TYPE, expected, known, problem
from lowtide.kernel import errors
from lowtide.kernel.errors import (
    BatchGap,
    Busy,
    DeclarationError,
    LowtideError,
    MethodNotAllowed,
    NotFound,
    TokenExpired,
    TooManyRequests,
    Unauthorized,
)
from tests.api.client import Client
from tests.api.edges import Handlers, build

ANSWERED = [kind for kind in known().values() if kind.__module__ == errors.__name__]


class TestProblem:
    @pytest.mark.parametrize("kind", ANSWERED)
    def test_every_error_has_its_members(self, kind: type[LowtideError]) -> None:
        """RFC 9457's members, and ours, for each error of the tree."""
        answer = problem(kind(), "r1")
        assert (answer.status, answer.media_type) == (kind.status, MEDIA_TYPE)
        body = answer.body
        assert body["type"] == f"/problems/{kind.code}"
        assert body["status"] == kind.status
        assert body["code"] == kind.code
        assert body["request_id"] == "r1"
        assert body["title"]
        assert body["detail"].endswith(".")
        assert body["hint"].endswith(".")

    def test_details_become_members(self) -> None:
        """An error's details stand beside the members, and replace none of them."""
        body = problem(BatchGap(expected=17, status=200, code="fine", type="x", detail="y"), "r1").body
        assert body["expected"] == 17
        assert (body["status"], body["code"], body["type"]) == (409, "batch_gap", "/problems/batch_gap")

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("secret"),
            LowtideError("secret"),
            DeclarationError("secret"),
            TimeoutError("secret"),
            KeyError("secret"),
        ],
    )
    def test_the_unexpected_says_nothing(self, error: Exception) -> None:
        """A fault of ours is 500 'internal': its message may hold anything, so it is not told."""
        assert not expected(error)
        answer = problem(error, "r1")
        assert answer.status == 500
        assert answer.body.code == "internal"
        assert b"secret" not in msgspec.json.encode(answer.body)
        assert answer.body.request_id == "r1"

    @pytest.mark.parametrize(
        ("error", "seconds"),
        [
            (Busy(), "3"),
            (TooManyRequests(retry_after=7), "7"),
            (TooManyRequests(retry_after=0.2), "1"),
            (TooManyRequests(retry_after=1.2), "2"),
            (TooManyRequests(retry_after=89.7839999999), "90"),
            (TooManyRequests(retry_after=0), "1"),
        ],
    )
    def test_who_is_sent_away_is_told_for_how_long(self, error: LowtideError, seconds: str) -> None:
        """429 and 503 have Retry-After, in whole seconds, never none."""
        answer = problem(error, "r1", retry_after=3)
        assert answer.headers["retry-after"] == seconds
        told = answer.body.get("retry_after", 0)
        assert told == round(told, 3), "milliseconds are exact enough, and the rest is noise"

    def test_others_are_not_told_to_retry(self) -> None:
        """An error that stays has no Retry-After."""
        assert problem(NotFound(), "r1").headers == {}

    def test_unauthorized_names_the_scheme(self) -> None:
        """RFC 6750: the challenge, and that the token is the trouble when one was good once."""
        assert problem(Unauthorized(), "r").headers == {"www-authenticate": "Bearer"}
        assert problem(TokenExpired(), "r").headers == {"www-authenticate": 'Bearer error="invalid_token"'}

    def test_allow_goes_with_405(self) -> None:
        """RFC 9110 section 15.5.6."""
        assert problem(MethodNotAllowed(allowed=["GET", "OPTIONS"]), "r").headers == {"allow": "GET, OPTIONS"}


@pytest.mark.anyio
class TestExplanations:
    async def test_each_type_leads_to_its_explanation(self) -> None:
        """A problem's ``type`` is an address that answers in words, for every code."""
        client = Client(build(Handlers()))
        for code in [*known(), "internal"]:
            answer = await client.get(f"/problems/{code}")
            assert answer.status == 200, code
            assert re.match(rb"\d{3} " + code.encode() + rb"\n\n\S", answer.body)

    async def test_unknown_codes_are_not_found(self) -> None:
        """Also those of errors that no request is answered with."""
        client = Client(build(Handlers()))
        for code in ("nope", "declaration", "lowtide"):
            assert (await client.get(f"/problems/{code}")).status == 404
