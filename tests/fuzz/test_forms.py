"""Forms, given anything: what the OAuth addresses and the page behind a mail's link are sent."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.auth.methods.email import _form
from lowtide.auth.provider.model import OAuthError
from lowtide.auth.provider.parameters import MAX_PARAMETER, MAX_PARAMETERS, read_basic, read_parameters
from tests.fuzz.bounds import is_linear, thorough

pieces = st.sampled_from(
    [
        *(
            "client_id",
            "code",
            "token",
            "number",
            "=",
            "&",
            ";",
            "+",
            "%",
            "%2",
            "%zz",
            "%00",
            "%0d%0a",
            "%26",
        ),
        *("%3D", "%ff", "%C3%A9", "%ED%A0%80", "%7f", "1", "٣", "é", "\0", " ", "?", "#", "[]", "a" * 50),
    ]
)
raw_forms = st.binary(max_size=80) | st.lists(pieces, max_size=14).map(lambda p: "".join(p).encode())
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
headers = st.text(max_size=40) | st.binary(max_size=40).map(
    lambda raw: "Basic " + base64.b64encode(raw).decode()
)


class TestParameters:
    @thorough
    @given(raw_forms)
    def test_any_form_is_read_or_refused(self, raw: bytes) -> None:
        """Names and values without control characters, none of them empty; or ``invalid_request``."""
        found = answers_of(raw)
        if isinstance(found, OAuthError):
            assert (found.error, found.status) == ("invalid_request", 400)
            assert found.description.isascii()
            assert found.description.isprintable()
            return
        assert len(found) <= MAX_PARAMETERS
        for name, value in found.items():
            assert 0 < len(value) <= MAX_PARAMETER
            assert not any(ord(c) < 32 or ord(c) == 127 for c in name + value)

    @thorough
    @given(st.dictionaries(texts, texts, max_size=8))
    def test_what_a_client_encodes_comes_through(self, sent: dict[str, str]) -> None:
        """Any texts, without those that are empty."""
        expected = {name: value for name, value in sent.items() if value}
        assert answers_of(urlencode(sent).encode()) == expected

    @thorough
    @given(st.dictionaries(texts.filter(bool), texts, min_size=1, max_size=4))
    def test_a_name_that_comes_twice_is_refused(self, sent: dict[str, str]) -> None:
        """With the same value or another, empty or not: two readers could see two requests."""
        name = next(iter(sent))
        for value in (sent[name], "", "other"):
            raw = urlencode([*sent.items(), (name, value)]).encode()
            assert isinstance(answers_of(raw), OAuthError)

    @pytest.mark.parametrize("part", [b"a", b"%41", b"&", b"a=b&", b"=", b"+"])
    def test_a_long_form_costs_its_length(self, part: bytes) -> None:
        """Steps grow with the form, not with its square."""
        assert is_linear(lambda n: lambda: answers_of(part * n), 500)


class TestBasic:
    @thorough
    @given(headers | st.none())
    def test_any_header_is_read_or_refused(self, header: str | None) -> None:
        """A client and its secret, nothing for another scheme, or ``invalid_client``."""
        found = either(lambda: read_basic(header))
        if isinstance(found, OAuthError):
            assert (found.error, found.status) == ("invalid_client", 401)
        else:
            assert found is None or len(found) == 2

    @thorough
    @given(texts, texts)
    def test_what_a_client_sends_is_read(self, client: str, secret: str) -> None:
        """RFC 6749 section 2.3.1: both form-encoded, then joined."""
        joined = ":".join(urlencode({"": text})[1:] for text in (client, secret))
        assert read_basic("Basic " + base64.b64encode(joined.encode()).decode()) == (client, secret)


class TestMailPage:
    @thorough
    @given(raw_forms)
    def test_any_form_is_a_choice_or_none(self, raw: bytes) -> None:
        """A token and a number of at most three digits; nothing is raised."""
        token, number = _form(raw)
        assert isinstance(token, str)
        assert 0 <= number < 1000

    def test_a_page_s_own_form_is_read(self) -> None:
        """What the page sends."""
        assert _form(b"token=abc&number=42") == ("abc", 42)


def either(call: Callable[[], Any]) -> Any:
    """What is returned, or the one error that is an answer."""
    try:
        return call()
    except OAuthError as error:
        return error


def answers_of(raw: bytes) -> Any:
    """The parameters of a form, or why it is refused."""
    return either(lambda: read_parameters(raw))
