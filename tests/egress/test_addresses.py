# ruff: noqa: E501, RUF001 - odd characters are the point
"""Which addresses are asked: the tricks of server-side request forgery, one by one."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.egress.addresses import MAX_URL, Allowed, check, public, read_allowed, read_url
from lowtide.kernel.errors import AddressRefused

NOBODY = Allowed()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192",
        "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1",
        "100::1", "2001::1", "2001:0:53aa:64c:0:0:80ff:fffe", "2001:10::1", "2001:20::1", "2001:db8::1",
        "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fec0::1", "ff02::1", "4000::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    """Every special range, also where the standard library calls it global."""
    assert not public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressRefused):
        check(read_url(f"https://{host}/"), NOBODY)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450::1"]
)
def test_what_is_public_is_asked(address: str) -> None:
    """The list refuses no ordinary address."""
    assert public(ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "127.1", "127.0.1", "0177.0.0.1", "017700000001",
        "127.0.0.01", "0x", "1.2.3.4.5", "256.1.1.1", "1.1.1.1.", "localhost", "localhost.", "a.localhost",
        "printer.local", "metadata.google.internal", "metadata", "127.0.0.1.", "", ".", "a..b", "-a.example",
        "a-.example", "a" * 64 + ".example", ".".join(["a" * 60] * 5), "exa mple.com", "example.com%00.evil.com",
        "ⓔⓧⓐⓜⓟⓛⓔ.com", "１２７.0.0.1", "127。0。0。1", "[::1", "[::1]]", "[fe80::1%25eth0]", "[::ffff:127.0.0.1]",
        "[1.2.3.4]", "[v1.fe80]", "0", "00", "0.0", "a.0x7f", "a.1",
    ],
)  # fmt: skip
def test_odd_hosts_are_refused(host: str) -> None:
    """Spellings that some program reads as an address of this machine, and names that are not public."""
    with pytest.raises(AddressRefused):
        check(read_url(f"https://{host}/"), NOBODY)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/",
        "https:example.com", "https:///example.com", "https://user@example.com/", "https://user:pw@example.com/",
        "https://example.com@127.0.0.1/", "https://example.com:443@127.0.0.1/", "https://example.com#@127.0.0.1/",
        "https://example.com\\@127.0.0.1/", "https://example.com/\\x", "https://example.com/#a",
        "https://example.com/ a", "https://example.com/\r\nx: y", "https://example.com/\n", "\thttps://example.com/",
        "https://example.com:0/", "https://example.com:65536/", "https://example.com:-1/", "https://example.com:/",
        "https://example.com:22/", "https://example.com:25/", "https://example.com:80/", "https://example.com:٤٤٣/",
        "https://example.com/é", "", "https://", "https://example.com/" + "a" * MAX_URL,
        "https://exam\x00ple.com/", "https://example.com\x00/",
    ],
)  # fmt: skip
def test_odd_urls_are_refused(url: str) -> None:
    """Whatever two programs might read differently is no address."""
    with pytest.raises(AddressRefused):
        check(read_url(url), NOBODY)


def test_a_plain_address_is_taken_apart() -> None:
    """Case, default ports and an empty path have one spelling."""
    target = read_url("HTTPS://Hooks.Example.COM?a=1")
    assert (target.host, target.port, target.path) == ("hooks.example.com", 443, "/?a=1")
    assert target.authority == "hooks.example.com"
    assert not check(target, NOBODY)
    target = read_url("https://[2606:4700:4700:0:0:0:0:1111]:8443/x/%2e%2e/y")
    assert target.authority == "[2606:4700:4700::1111]:8443"
    assert target.path == "/x/%2e%2e/y"
    assert not check(target, NOBODY)


def test_the_operator_may_allow_a_private_host() -> None:
    """That host, at that port, and no other."""
    allowed = read_allowed(("127.0.0.1:9000", "Intranet", "[::1]"))
    for url in ("http://127.0.0.1:9000/", "https://intranet/", "http://intranet:25/", "http://[0:0::1]/"):
        assert check(read_url(url), allowed)
    for url in ("http://127.0.0.1:9001/", "http://127.0.0.2:9000/", "http://intranet.example.com/"):
        with pytest.raises(AddressRefused):
            check(read_url(url), allowed)


@pytest.mark.parametrize("entry", ["", "http://a", "a:b", "127.1", "a b", "*", "a/8", "[::1"])
def test_a_wrong_entry_is_told(entry: str) -> None:
    """A typing mistake in the setting does not silently allow nothing, or more."""
    with pytest.raises(AddressRefused):
        read_allowed((entry,))


@given(st.text(max_size=60))
def test_no_text_is_a_fault(text: str) -> None:
    """Whatever stands behind the scheme is read or refused."""
    try:
        target = read_url(f"https://{text}")
    except AddressRefused:
        return
    assert target.host
    assert target.path.isascii()
