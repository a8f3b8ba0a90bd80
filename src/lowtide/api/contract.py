"""The API's description, served: ``GET /v1/openapi.json`` for programs, ``GET /docs`` for people."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from lowtide.kernel.files import folder_of
from lowtide.kernel.http import Answer, Header, Request, Response, Route
from lowtide.kernel.schema import Schema

ADDRESS = "/v1/openapi.json"
IF_NONE_MATCH = Header("If-None-Match", "The ETag of the copy that you have.")
UNCHANGED = Answer(304, "Your copy is the present one.")
PAGE = "/docs"
FILES = {"reference.css": "text/css; charset=utf-8", "reference.js": "text/javascript; charset=utf-8"}
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The page's own files, and nothing inside it."""
FRESH = {"cache-control": "public, max-age=0, must-revalidate"}
CACHED = {"cache-control": "public, max-age=300", "cross-origin-resource-policy": "cross-origin"}


class StaticPage(msgspec.Struct, frozen=True):
    """Bytes that do not change while the process runs, and the ETag that says so."""

    body: bytes
    etag: str

    def answer(self, request: Request[None, None], media_type: str, headers: dict[str, str]) -> Response:
        """200 with the bytes, or 304 for whom holds them already (RFC 9110, section 13.1.2)."""
        headers = headers | {"etag": self.etag}
        held = request.header("if-none-match")
        if held is not None and matches(held, self.etag):
            return Response(status=304, headers=headers)
        return Response(body=self.body, media_type=media_type, headers=headers)


def page(body: bytes) -> StaticPage:
    """``body`` with an ETag of its content."""
    return StaticPage(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def matches(held: str, etag: str) -> bool:
    """Does ``held``, an If-None-Match header, name ``etag``? Compared weakly, as RFC 9110 wants here."""
    return held.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in held.split(",")]


class Contract:
    """The description of a whole server. Made once, at the first request, off the event loop."""

    def __init__(self, routes: Sequence[Route], schema: Schema, version: str):
        """``routes``: those of all components; the contract's own come with ``routes()``."""
        self._others = tuple(routes)
        self._schema = schema
        self._version = version
        self._making = asyncio.Lock()
        self._made: dict[str, StaticPage] | None = None

    def routes(self) -> list[Route]:
        """``GET /v1/openapi.json``, ``GET /docs`` and the two files of that page."""
        return [
            Route(
                "GET",
                ADDRESS,
                self.openapi,
                auth="none",
                response=dict,
                summary="This description, as OpenAPI 3.1",
                tags=("reference",),
                headers=(IF_NONE_MATCH,),
                answers=(UNCHANGED,),
            ),
            Route(
                "GET",
                PAGE,
                self.page,
                auth="none",
                produces="text/html; charset=utf-8",
                summary="This description, as a page",
                tags=("reference",),
                headers=(IF_NONE_MATCH,),
                answers=(UNCHANGED,),
            ),
            *(
                Route(
                    "GET",
                    f"{PAGE}/{name}",
                    self.file,
                    auth="none",
                    produces=media_type,
                    summary=f"The page's {'style' if name.endswith('css') else 'script'}",
                    tags=("reference",),
                    headers=(IF_NONE_MATCH,),
                    answers=(UNCHANGED,),
                )
                for name, media_type in FILES.items()
            ),
        ]

    async def openapi(self, request: Request[None, None]) -> Response:
        """Every address with its parameters, types, errors and limits, the app's own included.

        For client generators. It is the same until another version is deployed.
        """
        return (await self._make())[ADDRESS].answer(request, "application/json", CACHED)

    async def page(self, request: Request[None, None]) -> Response:
        """Every address with an example, to be read and searched in a browser. It calls no other host."""
        headers = FRESH | {"content-security-policy": POLICY}
        return (await self._make())[PAGE].answer(request, "text/html; charset=utf-8", headers)

    async def file(self, request: Request[None, None]) -> Response:
        """A file of the page."""
        name = request.path.rpartition("/")[2]
        return (await self._make())[name].answer(request, FILES[name], FRESH)

    async def _make(self) -> dict[str, StaticPage]:
        async with self._making:
            if self._made is None:
                self._made = await asyncio.to_thread(self._describe)
        return self._made

    def _describe(self) -> dict[str, StaticPage]:
        # Nothing of it is needed to serve the app.
        from lowtide.api import reference
        from lowtide.api.openapi import describe

        described = describe([*self._others, *self.routes()], self._schema, self._version)
        folder = folder_of("lowtide.api") / "pages"
        made = {name: page((folder / name).read_bytes()) for name in FILES}
        made[ADDRESS] = page(msgspec.json.encode(described))
        made[PAGE] = page(reference.render(described))
        return made
