"""What admins may ask of the audit log. To look is to be written down: each look is an entry itself."""

from __future__ import annotations

import msgspec

from lowtide.audit.checkpoints import Checkpoints
from lowtide.audit.store import EntryPage, Search, search
from lowtide.audit.trail import Trail
from lowtide.kernel.errors import Malformed
from lowtide.kernel.http import Request, Response, Route
from lowtide.storage.db import Database

ENTRIES = "/v1/admin/audit"
CHECKPOINT = "/v1/admin/audit/checkpoint"


def audit_routes(trail: Trail, checkpoints: Checkpoints, database: Database) -> list[Route]:
    """``GET /v1/admin/audit`` and ``GET /v1/admin/audit/checkpoint``."""

    async def find(request: Request[None, Search]) -> EntryPage:
        """Entries of the audit log, the newest first. The look is written down before the answer.

        An admin sees what was done in the admin's own space; the app's own servers see everything.
        """
        asked = {name: value for name in Search.__struct_fields__ if (value := getattr(request.query, name))}
        await trail.look(request, "audit.read", request.query.target or request.query.actor, asked)
        wanted = request.query
        if not request.principal.server:
            if wanted.space not in ("", request.principal.space):
                return EntryPage(entries=[], next="")
            wanted = msgspec.structs.replace(wanted, space=request.principal.space)
        return await database.read(lambda tx: search(tx, wanted))

    async def checkpoint(request: Request[None, None]) -> Response:
        """A signed checkpoint of the log as it is now, to be kept elsewhere (C2SP signed note)."""
        await trail.look(request, "audit.checkpoint")
        return Response(body=(await checkpoints.sign()).encode(), media_type="text/plain; charset=utf-8")

    return [
        Route(
            "GET",
            ENTRIES,
            find,
            query=Search,
            response=EntryPage,
            auth="admin",
            summary="Who did what",
            errors=(Malformed,),
            tags=("admin",),
        ),
        Route(
            "GET",
            CHECKPOINT,
            checkpoint,
            auth="server",
            produces="text/plain",
            summary="Sign a checkpoint of the audit log",
            tags=("admin",),
        ),
    ]
