"""Whose limits count for an address of the internet."""

from __future__ import annotations

import ipaddress


def network(ip: str) -> str:
    """Whose limits count for ``ip``: an IPv4 address, or the /64 that an IPv6 one is of."""
    try:
        found = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
