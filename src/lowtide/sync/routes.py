"""The sync engine's addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from lowtide.audit.trail import Trail
from lowtide.kernel.errors import (
    BadRequest,
    BatchGap,
    BatchRepeated,
    Busy,
    Conflict,
    DeadlinePassed,
    Forbidden,
    FunctionFailed,
    Malformed,
    NotFound,
    TooLarge,
    TooManyBuckets,
)
from lowtide.kernel.http import Answer, Arguments, Header, Request, Result, Route, StreamAnswer
from lowtide.sync.devices import AuditAnswer, AuditRequest, DeviceState
from lowtide.sync.journal import MAX_PAGE, Lost
from lowtide.sync.lines import BSON_TYPE, JSON_TYPE, Coding, Format
from lowtide.sync.pull import MAX_CURSOR, PullAnswer, PullRequest
from lowtide.sync.service import Sync, check_client_id
from lowtide.sync.uploads import MAX_BODY, SentBatch, UploadAnswer
from lowtide.sync.view import StreamRequest


class ClientQuery(msgspec.Struct, frozen=True):
    client_id: str


class WriteCheckpoint(msgspec.Struct, frozen=True):
    write_checkpoint: str


class WriteCheckpointAnswer(msgspec.Struct, frozen=True):
    data: WriteCheckpoint


class CheckpointRequest(msgspec.Struct, frozen=True):
    client_id: str
    checkpoint_request_id: str


class CheckpointRequested(msgspec.Struct, frozen=True):
    checkpoint_request_id: str


class CheckpointRequestAnswer(msgspec.Struct, frozen=True):
    data: CheckpointRequested


class DeviceQuery(msgspec.Struct, frozen=True):
    user: str | None = None
    """Whose device; only the app's servers may ask for another user's."""


class ConflictQuery(msgspec.Struct, frozen=True):
    model: str | None = None
    id: str | None = None
    before: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 50


class Conflicts(msgspec.Struct, frozen=True):
    conflicts: list[Lost]


class FunctionAnswer(msgspec.Struct, frozen=True):
    """What the function returned."""

    result: Result


def routes(sync: Sync, trail: Trail, check_app: Callable[[object], None]) -> list[Route]:
    """Every address of the sync engine.

    ``trail`` is told of what the app's servers read and do here. ``check_app`` is told the version of the app
    that wants to download, and raises ``AppTooOld``: an SDK sends no header of the app's.
    """

    async def stream(request: Request[StreamRequest, None]) -> StreamAnswer:
        """Sync lines, JSON or BSON, compressed if the device accepts that, until the token expires.

        Spoken by the SDKs: ``docs/reference/protocol.md`` describes the lines.
        """
        check_app((request.body.app_metadata or {}).get("app_version"))
        format: Format = "bson" if _prefers_bson(request.header("accept")) else "json"
        coding = _coding(request)
        download = await sync.download(request.principal, request.body, format, coding)
        headers = {"x-accel-buffering": "no", "cache-control": "no-store", "vary": "accept-encoding, accept"}
        if coding != "identity":
            headers["content-encoding"] = coding
        media_type = BSON_TYPE if format == "bson" else JSON_TYPE
        return StreamAnswer(run=download.run, drop=download.forget, media_type=media_type, headers=headers)

    async def socket(request: Request[None, None]) -> None:
        """Opened as a WebSocket it carries RSocket, for SDKs that cannot read a stream over HTTP.

        The SETUP's metadata holds the token; a REQUEST_STREAM with the path `/sync/stream` is answered as the
        POST is, a BSON line in each payload: ``docs/reference/protocol.md``. Anything else is refused.
        """
        raise BadRequest(
            "This address is opened as a WebSocket.",
            hint="Ask for an upgrade (RFC 6455), and from a web page only of an allowed origin.",
        )

    async def write_checkpoint(request: Request[None, ClientQuery]) -> WriteCheckpointAnswer:
        """Asked for after an upload: the device shows the server's view once its download has come so far."""
        number = await sync.write_checkpoint(request.principal, request.query.client_id)
        return WriteCheckpointAnswer(WriteCheckpoint(str(number)))

    async def checkpoint_request(request: Request[CheckpointRequest, None]) -> CheckpointRequestAnswer:
        """As ``GET /write-checkpoint2.json``, for SDKs that count their own requests.

        The answer is the number that the download will say, never lower than one answered before.
        """
        asked = request.body.checkpoint_request_id
        if not asked.isdecimal() or len(asked) > 19:
            raise Malformed("checkpoint_request_id is a decimal number")
        number = await sync.request_checkpoint(request.principal, request.body.client_id, int(asked))
        return CheckpointRequestAnswer(CheckpointRequested(str(number)))

    async def upload(request: Request[SentBatch, None]) -> UploadAnswer:
        """Applied exactly once and durable before the answer: a repeat is answered as the first was.

        A refused mutation is no error: it is told in ``results``, and comes back to the device as a row.
        """
        return await sync.upload(request.principal, request.body, request.id)

    async def pull(request: Request[PullRequest, None]) -> PullAnswer:
        """The rows, page by page, as a device would receive them. Keep the cursor for the next call."""
        await trail.tell(request, "records.pull")
        return await sync.pull(request.principal, request.body)

    async def device(request: Request[None, DeviceQuery]) -> DeviceState:
        """The device's numbers and when it was last seen; a user sees their own, the app's servers all."""
        client_id = request.params["client_id"]
        await trail.tell(request, "device.read", f"device:{client_id}")
        return await sync.devices.state(request.principal, client_id, request.query.user)

    async def resync(request: Request[None, DeviceQuery]) -> None:
        """At its next download the device drops what it holds and receives everything again."""
        client_id = request.params["client_id"]
        check_client_id(client_id)
        told = trail.within(request, "device.resync", f"device:{client_id}")
        await sync.devices.resync(request.principal, client_id, request.query.user, told)

    async def audit(request: Request[AuditRequest, None]) -> AuditAnswer:
        """The device sums its content up, bucket by bucket. One that differs is sent again by itself."""
        check_client_id(request.body.client_id)
        return await sync.devices.audit(request.principal, request.body)

    async def conflicts(request: Request[None, ConflictQuery]) -> Conflicts:
        """The conflict journal of the records that the user may read. Pages go on at ``before``."""
        asked = request.query
        await trail.tell(request, "conflict.read", f"record:{asked.model}/{asked.id}" if asked.model else "")
        entries = await sync.journal.entries(
            request.principal, asked.model, asked.id, asked.before, asked.limit
        )
        return Conflicts(entries)

    async def restore(request: Request[None, None]) -> Lost:
        """The value becomes the field's present one, as a write of the user's, by the model's write rule."""
        id = request.params["id"]
        told = trail.within(request, "conflict.restore", f"conflict:{id}")
        return await sync.journal.restore(request.principal, id, told)

    async def call(request: Request[Arguments, None]) -> FunctionAnswer:
        """Runs the function and its writes in one transaction. The body holds the arguments by name."""
        name = request.params["name"]
        keep = request.keep
        in_tx = None if keep is None else lambda tx, result: keep(tx, FunctionAnswer(result))
        who, arguments = request.principal, request.body
        return FunctionAnswer(await sync.functions.call(who, name, arguments, in_tx, request.id))

    return [
        Route(
            "POST",
            "/v1/sync/pull",
            pull,
            body=PullRequest,
            response=PullAnswer,
            max_body=MAX_CURSOR + 64 * 1024,
            summary="A page of the rows that the user receives, for scripts",
            tags=("sync",),
            rate="read",
        ),
        Route(
            "GET",
            "/v1/sync/devices/{client_id}",
            device,
            query=DeviceQuery,
            response=DeviceState,
            summary="Where a device is, and what it last sent",
            errors=(NotFound,),
            tags=("devices",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/sync/devices/{client_id}/resync",
            resync,
            query=DeviceQuery,
            summary="Make a device download everything anew",
            tags=("devices",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/sync/audit",
            audit,
            body=AuditRequest,
            response=AuditAnswer,
            summary="Compare a device's content with what it should hold, and heal it",
            tags=("devices",),
            rate="sync",
        ),
        Route(
            "GET",
            "/v1/sync/conflicts",
            conflicts,
            query=ConflictQuery,
            response=Conflicts,
            summary="Values that lost a conflict, newest first",
            errors=(Forbidden, NotFound),
            tags=("conflicts",),
        ),
        Route(
            "POST",
            "/v1/sync/conflicts/{id}/restore",
            restore,
            response=Lost,
            summary="Write a lost value back",
            errors=(NotFound, Conflict),
            tags=("conflicts",),
        ),
        Route(
            "POST",
            "/v1/functions/{name}",
            call,
            body=Arguments,
            response=FunctionAnswer,
            deadline=60,
            each="function",
            summary="Call a function of the app",
            errors=(NotFound, Conflict, FunctionFailed, DeadlinePassed),
            tags=("functions",),
        ),
        Route(
            "POST",
            "/sync/stream",
            stream,
            body=StreamRequest,
            max_body=4 * 1024 * 1024,
            produces=JSON_TYPE,
            headers=(
                Header("Accept", f"`{BSON_TYPE}` for BSON lines."),
                Header("Accept-Encoding", "`zstd` or `gzip`."),
            ),
            answers=(Answer(200, "Lines without an end, one JSON object each.", media_type=JSON_TYPE),),
            summary="A device's download: sync lines until the token expires",
            errors=(TooManyBuckets,),
            tags=("sync",),
            rate="sync",
            rsocket=True,
        ),
        Route(
            "GET",
            "/sync/stream",
            socket,
            auth="none",
            headers=(
                Header("Upgrade", "`websocket`."),
                Header("Sec-WebSocket-Key", "As RFC 6455 has it."),
                Header("Sec-WebSocket-Version", "`13`."),
            ),
            answers=(Answer(101, "The connection carries RSocket frames from now on."),),
            summary="The same over RSocket and WebSocket",
            errors=(BadRequest,),
            tags=("sync",),
            rate="sync",
        ),
        Route(
            "GET",
            "/write-checkpoint2.json",
            write_checkpoint,
            query=ClientQuery,
            response=WriteCheckpointAnswer,
            summary="A number that the download reaches once it holds all that was written before",
            tags=("sync",),
            rate="sync",
        ),
        Route(
            "POST",
            "/sync/checkpoint-request",
            checkpoint_request,
            body=CheckpointRequest,
            response=CheckpointRequestAnswer,
            summary="The same with a number that the device chooses",
            errors=(Busy,),
            tags=("sync",),
            rate="sync",
        ),
        Route(
            "POST",
            "/v1/sync/batches",
            upload,
            body=SentBatch,
            parts=True,
            old_apps=True,
            response=UploadAnswer,
            max_body=MAX_BODY,
            summary="A device's upload: numbered mutations, applied exactly once",
            errors=(BatchGap, BatchRepeated, Busy, TooLarge),
            tags=("sync",),
            rate="sync",
        ),
    ]


def _prefers_bson(accept: str | None) -> bool:
    return accept is not None and BSON_TYPE in accept


def _coding(request: Request[Any, Any]) -> Coding:
    offer = request.accepts_encoding("zstd", "gzip")
    return "zstd" if offer == "zstd" else "gzip" if offer == "gzip" else "identity"
