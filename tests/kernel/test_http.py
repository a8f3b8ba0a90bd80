"""What a handler is told of a request."""

from __future__ import annotations

import pytest

from lowtide.kernel.errors import Unauthorized
from lowtide.kernel.http import Request
from lowtide.kernel.schema import Principal


def request(*headers: tuple[str, str], who: Principal | None = None) -> Request[None, None]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request(body=None, query=None, headers=raw, who=who)


class TestRequest:
    def test_the_principal_is_who_the_token_proved(self) -> None:
        """And nobody is an error, never an empty user."""
        ann = Principal(user="ann")
        assert request(who=ann).principal is ann
        with pytest.raises(Unauthorized):
            _ = request().principal

    def test_headers_are_joined(self) -> None:
        """Several of one name are one list; none is None."""
        found = request(("a", "1"), ("b", "x"), ("a", "2"), ("c", "ü"))
        assert (found.header("a"), found.header("b"), found.header("c")) == ("1, 2", "x", "ü")
        assert found.header("d") is None

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (None, None),
            ("", None),
            ("gzip", "gzip"),
            ("zstd", "zstd"),
            ("gzip, zstd", "zstd"),
            ("GZIP", "gzip"),
            ("gzip;q=1.0, zstd;q=0.1", "zstd"),
            ("zstd;q=0, gzip", "gzip"),
            ("zstd; q=0.000, gzip ; q=0.5", "gzip"),
            ("gzip;q=0", None),
            ("*", "zstd"),
            ("*;q=0", None),
            ("zstd;q=0, *", "gzip"),
            ("br, deflate", None),
            ("identity", None),
            ("xzstd", None),
            (",;,=,;q=", None),
        ],
    )
    def test_the_best_coding_that_is_accepted(self, header: str | None, expected: str | None) -> None:
        """Ours in our order, unless the client refuses it."""
        asked = request() if header is None else request(("accept-encoding", header))
        assert asked.accepts_encoding("zstd", "gzip") == expected
