"""Where a request may go: what an address is, and which are public. No I/O.

Python's ``is_global`` is not enough: to 3.11 it calls NAT64 of a loopback address, 6to4 of one, 192.0.0.8 and
multicast global. So IPv6 is what is allocated as global unicast less what leads elsewhere, and IPv4 is
everything less the special-purpose registry (RFC 6890, IANA) and one metadata service that lies in public
space. Host names are read as strictly as the strictest of the programs that might read them otherwise: 127.1,
0x7f.1, 2130706433 and 0177.0.0.1 are loopback for some, and names for others, and so they are neither here.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import msgspec

from lowtide.kernel.errors import AddressRefused

Address = IPv4Address | IPv6Address

MAX_URL = 2048
"""Characters of an address."""

DENIED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server, in public space
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
"""Loopback, v4-mapped, NAT64, unique local, link-local and multicast addresses all lie outside of it."""
DENIED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo and ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)

_URL = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?([/?][\x21-\x7e]*)?", re.IGNORECASE
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Target(msgspec.Struct, frozen=True):
    """An address, taken apart."""

    secure: bool
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """With its query, as it is sent."""
    address: Address | None
    """Set when the host is an address and no name."""

    @property
    def authority(self) -> str:
        """For the Host header: the host, and its port if that is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def public(address: Address) -> bool:
    """Does ``address`` belong to the public internet, and to a host of its own?"""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in DENIED_V4)
    return address in GLOBAL_V6 and not any(address in network for network in DENIED_V6)


def read_url(url: str) -> Target:
    """Take ``url`` apart. Raises ``AddressRefused`` for whatever two programs might read differently.

    There is no user, password, fragment, backslash, blank or character beyond ASCII in it.
    """
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None or "\\" in url or "#" in url:
        raise AddressRefused("This is no plain http or https address.")
    scheme, host, port, path = found[1].lower(), found[2].lower(), found[3], found[4] or "/"
    secure = scheme == "https"
    number = int(port) if port else (443 if secure else 80)
    if not 0 < number < 65536:
        raise AddressRefused("The port is not between 1 and 65535.")
    if path[0] == "?":
        path = "/" + path
    host, address = read_host(host)
    return Target(secure, host, number, path, address)


def read_host(host: str) -> tuple[str, Address | None]:
    """A host's one spelling, and its address if it is one. ``host`` is in lower case."""
    if host.startswith("["):
        try:
            six = IPv6Address(host[1:-1])
        except ValueError:
            raise AddressRefused("The host is no IPv6 address.") from None
        return str(six), six
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            four = ip_address(host)
        except ValueError:
            raise AddressRefused("The host is an odd form of an IPv4 address.") from None
        return str(four), four
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused("The host is no name.")
    return host, None


class Allowed(msgspec.Struct, frozen=True):
    """The hosts that may be private, and be asked without TLS: ``host`` or ``host:port``."""

    places: frozenset[tuple[str, int]] = frozenset()
    """Port 0 is any."""

    def has(self, target: Target) -> bool:
        """Is ``target`` one of them?"""
        return (target.host, target.port) in self.places or (target.host, 0) in self.places


def read_allowed(texts: tuple[str, ...]) -> Allowed:
    """The setting ``egress_allowed``. Raises ``AddressRefused`` for an entry that is none."""
    places = set()
    for text in texts:
        found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", text.lower())
        if found is None:
            raise AddressRefused(f"{text!r} is not a host, or a host and a port.")
        places.add((read_host(found[1])[0], int(found[2] or 0)))
    return Allowed(frozenset(places))


def check(target: Target, allowed: Allowed) -> bool:
    """May ``target`` be asked, as far as its text tells? Returns whether it may be private.

    Raises ``AddressRefused``: without TLS, at a port of another service, an address that is not public, or
    a name without a dot.
    """
    if allowed.has(target):
        return True
    if not target.secure:
        raise AddressRefused("Only https addresses are asked.")
    if target.port != 443 and target.port < 1024:
        raise AddressRefused("The port belongs to another service: 443, or 1024 and above.")
    if target.address is not None:
        if not public(target.address):
            raise AddressRefused("The address is not a public one.")
    elif "." not in target.host or target.host.endswith((".localhost", ".local", ".internal")):
        raise AddressRefused("The host is not a public name.")
    return False
