"""Host names and web origins: closed unless listed."""

from __future__ import annotations

import pytest

from lowtide.api.origins import Hosts, Origins

LISTED = Hosts(["api.example.com", "localhost", "127.0.0.1", "[::1]"])
ADDRESSES = Hosts(["localhost"], addresses=True)


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            b"api.example.com",
            b"API.Example.COM",
            b"api.example.com:8443",
            b"api.example.com.",
            b"localhost:1",
            b"127.0.0.1:65535",
            b"[::1]",
            b"[::1]:8000",
        ],
    )
    def test_a_listed_name_is_ours(self, host: bytes) -> None:
        """In any case, with any port, with the root's dot; and the second time too."""
        assert LISTED.allow(host)
        assert LISTED.allow(host)

    @pytest.mark.parametrize(
        "host",
        [
            b"",
            b"evil.example",
            b"api.example.com.evil.example",
            b"evil-api.example.com",
            b"xapi.example.com",
            b"api.example.com@evil.example",
            b"evil.example#api.example.com",
            b"api.example.com:80:80",
            b"api.example.com:",
            b"api.example.com:x",
            b"api.example.com:999999",
            b" api.example.com",
            b"api.example.com ",
            b"api.example.com,evil.example",
            b"api.example.com/evil",
            b"http://api.example.com",
            b"api.example.com\x00",
            b"\xff",
            b"10.0.2.2",
            b"[::2]",
            b"::1",
            b"localhost.evil.example",
            b"a" * 300,
        ],
    )
    def test_any_other_name_is_not(self, host: bytes) -> None:
        """No prefix, suffix, list or trick passes for a listed name."""
        assert not LISTED.allow(host)
        assert not LISTED.allow(host)

    @pytest.mark.parametrize(
        "host", [b"10.0.2.2:8420", b"192.168.1.20", b"127.0.0.1:1", b"[fe80::1]:8420", b"localhost"]
    )
    def test_in_development_addresses_are_ours(self, host: bytes) -> None:
        """A phone on the network and an emulator reach a development server by its address."""
        assert ADDRESSES.allow(host)

    @pytest.mark.parametrize(
        "host", [b"evil.example", b"10.0.2", b"10.0.2.2.evil.example", b"0x7f000001", b"[evil]", b"[::1"]
    )
    def test_names_cannot_pass_for_addresses(self, host: bytes) -> None:
        """A name can be rebound to our address; only literals are let in."""
        assert not ADDRESSES.allow(host)

    def test_memory_is_bounded(self) -> None:
        """A client that counts through the ports fills nothing."""
        hosts = Hosts(["localhost"])
        for port in range(10_000):
            assert hosts.allow(b"localhost:%d" % port)
        assert len(hosts._known) <= 256


ORIGINS = Origins(["https://app.example.com", "http://localhost:*"])


class TestOrigins:
    @pytest.mark.parametrize(
        "origin",
        [b"https://app.example.com", b"http://localhost", b"http://localhost:5173", b"http://localhost:80"],
    )
    def test_a_listed_origin_may_read(self, origin: bytes) -> None:
        """The answer names exactly that origin, and never allows credentials."""
        headers = dict(ORIGINS.headers(origin))
        assert headers[b"access-control-allow-origin"] == origin
        assert headers[b"vary"] == b"Origin"
        assert b"access-control-allow-credentials" not in headers

    @pytest.mark.parametrize(
        "origin",
        [
            b"https://evil.example",
            b"http://app.example.com",
            b"https://app.example.com.evil.example",
            b"https://app.example.com:8443",
            b"https://xapp.example.com",
            b"https://app.example.com/",
            b"http://localhost:5173.evil.example",
            b"http://localhost:",
            b"http://localhost.evil.example",
            b"https://localhost:1",
            b"null",
            b"",
            b"*",
        ],
    )
    def test_another_origin_may_not(self, origin: bytes) -> None:
        """No header, so the browser keeps the answer from the script; caches are told that it differs."""
        assert ORIGINS.headers(origin) == [(b"vary", b"Origin")]
        assert ORIGINS.preflight(origin, b"authorization", ["GET"]) == []

    def test_closed_unless_listed(self) -> None:
        """Without origins nothing is said at all."""
        closed = Origins()
        assert closed.headers(b"https://app.example.com") == []
        assert closed.headers(None) == []
        assert closed.preflight(b"null", None, ["GET"]) == []

    def test_a_preflight_names_methods_and_headers(self) -> None:
        """The headers are allowed as they were asked for, as ``*`` would leave out Authorization."""
        headers = dict(
            ORIGINS.preflight(b"http://localhost:1", b"authorization, content-type,x-a", ["GET", "POST"])
        )
        assert headers == {
            b"access-control-allow-methods": b"GET, POST",
            b"access-control-allow-headers": b"authorization, content-type,x-a",
            b"access-control-max-age": b"600",
        }

    @pytest.mark.parametrize(
        "wanted", [b"a b", b"a,,b", b"a:b", b"\xff", b"", b",".join([b"a"] * 65), b"x" * 65]
    )
    def test_headers_that_are_no_names_are_not_echoed(self, wanted: bytes) -> None:
        """What is sent back was checked; the rest of the preflight stays."""
        headers = dict(ORIGINS.preflight(b"http://localhost:1", wanted, ["GET"]))
        assert b"access-control-allow-headers" not in headers
        assert headers[b"access-control-allow-methods"] == b"GET"

    def test_all_origins_can_be_allowed(self) -> None:
        """``*`` answers each origin with itself."""
        assert dict(Origins(["*"]).headers(b"https://x.example"))[b"access-control-allow-origin"] == (
            b"https://x.example"
        )
