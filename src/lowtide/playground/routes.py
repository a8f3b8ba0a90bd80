"""The playground's addresses. ``lowtide dev`` has them, ``lowtide serve`` never."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from lowtide.auth.tokens import Tokens
from lowtide.declare.clientschema import client_schema
from lowtide.kernel.errors import Forbidden, NotFound
from lowtide.kernel.http import Request, Response, Route, StreamAnswer
from lowtide.playground.files import PHONE, WHOLE_PAGE, Files, read_files
from lowtide.playground.view import show
from lowtide.sync.service import Sync
from lowtide.sync.store import read_head

PAGE = "/playground"
PHONES = ("a", "b", "c")
TTL = 3600
"""Seconds that a token of the page is good for."""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For whom a token is asked."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$")]
    server: bool = False


class Token(msgspec.Struct, frozen=True):
    """A token, and for how many seconds it is good."""

    token: str
    expires_in: int


class Facts(msgspec.Struct, frozen=True):
    """What the page has to know of the app."""

    name: str
    epoch: str
    """Of the server's data: phones of another epoch's data are others."""
    tables: list[dict[str, Any]]
    merges: dict[str, dict[str, str]]
    """How each field of each model merges."""


def playground_routes(name: str, sync: Sync, tokens: Callable[[], Tokens]) -> list[Route]:
    """The page, its files, and the door through which it gets tokens without a sign-in.

    Whoever reaches these addresses is believed to be the developer: they answer to this machine alone, and to
    pages of this origin. Their files are read at the first request.
    """
    reading: list[asyncio.Future[Files]] = []

    async def files() -> Files:
        if not reading:  # once, and off the loop
            reading.append(asyncio.ensure_future(asyncio.to_thread(read_files)))
        return await asyncio.shield(reading[0])

    async def page(request: Request[None, None]) -> Response:
        """The page: three phones, the switches of their networks, and the server's view."""
        _check_local(request)
        return (await files()).page("index", WHOLE_PAGE)

    async def phone(request: Request[None, None]) -> Response:
        """One phone alone; the page has three of them in frames."""
        _check_local(request)
        if request.params["phone"] not in PHONES:
            raise NotFound("There are the phones a, b and c.")
        return (await files()).page("phone", PHONE)

    async def file(request: Request[None, None]) -> Response:
        """A file of the page, for ever: its address changes with it."""
        found = (await files()).answer(request, request.params["version"], request.params["name"])
        if found is None:
            raise NotFound("The page has no such file.")
        return found

    async def token(request: Request[Asked, None]) -> Token:
        """A token for whoever the page wants to be."""
        _check_local(request)
        asked = request.body
        return Token(tokens().sign(asked.user, ttl=TTL, server=asked.server), TTL)

    async def facts(request: Request[None, None]) -> Facts:
        """The tables of a phone, and how their fields merge."""
        _check_local(request)
        models = sync.schema.models.values()
        merges = {
            model.name: {field.name: str(field.merge) for field in model.fields.values() if not field.removed}
            for model in models
        }
        tables = client_schema(sync.schema)["tables"]
        return Facts(name, (await sync.database.read(read_head)).epoch, tables, merges)

    async def server(request: Request[None, None]) -> StreamAnswer:
        """What the server holds, a line of JSON now and at every change."""
        _check_local(request)
        return StreamAnswer(run=lambda outlet: show(sync, outlet), headers={"cache-control": "no-store"})

    html = "text/html; charset=utf-8"
    return [
        _route("GET", PAGE, page, "The playground", produces=html),
        _route("GET", f"{PAGE}/phone/{{phone}}", phone, "One of its phones", produces=html),
        _route("GET", f"{PAGE}/files/{{version}}/{{name}}", file, "A file of it", produces="*/*"),
        _route("GET", f"{PAGE}/app.json", facts, "What the app declares", response=Facts),
        _route("GET", f"{PAGE}/server", server, "The server's view", produces="application/x-ndjson"),
        _route("POST", f"{PAGE}/token", token, "A token", body=Asked, response=Token, key="none"),
    ]


def _route(method: Any, path: str, handler: Any, summary: str, **more: Any) -> Route:
    return Route(
        method, path, handler, auth="none", rate="none", summary=summary, tags=("development",), **more
    )


def _check_local(request: Request[Any, None]) -> None:
    """Only a program of this machine, or a page that came from here: tokens for anybody are given out."""
    site = request.header("sec-fetch-site")
    try:
        local = ipaddress.ip_address(request.client).is_loopback
    except ValueError:  # a peer without an address, such as a socket file's
        local = False
    if not local or site not in (None, "same-origin", "none"):
        raise Forbidden(
            "The playground answers to this machine alone.",
            hint="Open it there, at the address for this machine that 'lowtide dev' prints.",
        )
