"""The socket that a server listens on."""

from __future__ import annotations

import errno
import socket

from lowtide.kernel.errors import SetupError

HINTS = {
    errno.EADDRINUSE: "Stop what listens there, or choose another 'port'.",
    errno.EACCES: "Choose a 'port' above 1023, and let the proxy in front have the lower one.",
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections. Raises ``SetupError`` when the address cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SetupError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}.",
            hint=HINTS.get(
                error.errno or 0, "Set 'host' to an address of this machine, or to 0.0.0.0 for all."
            ),
            errno=error.errno,
        ) from error
    return listener


def url(host: str, port: int) -> str:
    """``http://host:port``, with an IPv6 address in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
