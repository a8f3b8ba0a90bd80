"""An outside OpenID provider as a real process, and a browser that is only cookies and forms."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from http.client import HTTPMessage, HTTPResponse
from http.cookiejar import CookieJar
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

NODE = Path(__file__).parent.parent / "node"


class ProviderProcess:
    """``with ProviderProcess(redirect_uri) as provider``: ``provider.url`` is its issuer."""

    def __init__(self, redirect_uri: str):
        self._redirect_uri = redirect_uri
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["node", "issuer.mjs", self._redirect_uri],
            cwd=NODE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("http://"):
                self.url = line.strip()
                break
        assert self.url, "the provider did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.kill()
        self._process.wait(10)

    @property
    def address(self) -> str:
        return urlsplit(self.url).netloc


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


class Browser:
    """Follows redirects within one site, and stops at the first that leaves it."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar()), _Stay(), urllib.request.ProxyHandler({})
        )

    def sign_in(self, url: str, login: str) -> str:
        """Go to ``url``, sign in as ``login``, agree to everything; the address that leads back."""
        where, page = self._go(url, None, url)
        for _ in range(4):
            action = re.search(r'action="([^"]+)"', page)
            if action is None:
                return where
            fields = dict(re.findall(r'name="([^"]+)"[^>]*value="([^"]*)"', page))
            if "login" in page and fields.get("prompt") == "login":
                fields |= {"login": login, "password": "anything"}
            where, page = self._go(urljoin(where, action[1]), fields, url)
        raise AssertionError(f"no way back from {where}: {page[:500]}")

    def refuse(self, url: str) -> str:
        """Go to ``url`` and cancel there; the address that leads back."""
        where, page = self._go(url, None, url)
        cancel = re.search(r'href="([^"]*abort)"', page)
        assert cancel is not None
        return self._go(urljoin(where, cancel[1]), None, url)[0]

    def _go(self, where: str, form: dict[str, str] | None, home: str) -> tuple[str, str]:
        for _ in range(8):
            if urlsplit(where).netloc != urlsplit(home).netloc:
                return where, ""
            body = None if form is None else urlencode(form).encode()
            try:
                answer: HTTPResponse | urllib.error.HTTPError = self._opener.open(where, body, timeout=10)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                if answer.status in (302, 303):
                    where, form = urljoin(where, answer.headers["location"]), None
                    continue
                return where, answer.read().decode()
        raise AssertionError("too many redirects")


def query_of(address: str) -> dict[str, Any]:
    """The parameters of an address."""
    return dict(parse_qsl(urlsplit(address).query))
