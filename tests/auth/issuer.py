"""An issuer of id tokens, as a real server that a test can break: Apple's and Google's double.

It signs with RSA keys of its own, publishes them, exchanges codes and revokes tokens as Apple does, and
remembers every request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lowtide.kernel.base64url import encode

NOW = 1_790_000_000
KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)


class IssuerServer:
    """``with IssuerServer() as issuer``: serves on a free port of this machine.

    ``fault``: ``""``, ``500``, ``slow`` (answers after ``delay`` seconds), ``cut`` (closes at once),
    ``text``, ``huge`` (a body without end) or ``redirect``.
    """

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {"first": KEY}
        self.document: Any = None
        self.answers: dict[str, tuple[int, Any]] = {}
        self.fault = ""
        self.delay = 0.0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                issuer.answer(self, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
                issuer.answer(self, {name: values[0] for name, values in parse_qs(body).items()})

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that does not wait for a slow answer

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, handler: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        """Serve one request."""
        path = handler.path.partition("?")[0]
        self.requests.append((handler.command, path, form))
        if self.fault == "cut":
            handler.close_connection = True
            return
        if self.fault == "slow":
            time.sleep(self.delay)
        status, content = 200, self.answers.get(path, (404, {}))
        if path == "/keys" and path not in self.answers:
            content = (200, self.document if self.document is not None else self.key_set())
        status, value = content
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        if self.fault == "500":
            status, body = 500, b'{"error":"server_error"}'
        if self.fault == "text":
            body = b"<html>maintenance</html>"
        if self.fault == "huge":
            body = b" " * 4_000_000
        handler.send_response(302 if self.fault == "redirect" else status)
        if self.fault == "redirect":
            handler.send_header("location", "http://169.254.169.254/latest/meta-data")
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def fetches(self, path: str = "/keys") -> int:
        """How often ``path`` was asked for."""
        return sum(asked == path for _, asked, _ in self.requests)

    def key_set(self) -> dict[str, Any]:
        """What it publishes."""
        return {"keys": [jwk(kid, key) for kid, key in self.keys.items()]}


def jwk(kid: str, key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    n = encode(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": "AQAB"}


def signed(
    claims: Mapping[str, Any],
    key: rsa.RSAPrivateKey = KEY,
    header: Mapping[str, Any] | None = None,
) -> str:
    """A token, signed RS256 whatever its header says."""
    head = {"alg": "RS256", "kid": "first"} if header is None else header
    content = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(claims).encode())}"
    return f"{content}.{encode(key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def good_claims(**changes: Any) -> dict[str, Any]:
    """A valid payload with ``changes``; None takes a claim away."""
    claims = {
        "iss": "https://issuer.example",
        "aud": "com.example.app",
        "sub": "000123.abc",
        "iat": NOW,
        "exp": NOW + 600,
        "nonce": "n-0S6_WzA2Mj",
        "email": "Ann@Example.com",
        "email_verified": "true",
    }
    return {name: value for name, value in (claims | changes).items() if value is not None}
