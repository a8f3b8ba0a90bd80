"""One request through the edge: who is let in, what is read, what is answered."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from lowtide.api.limits import Limits
from lowtide.api.origins import Hosts
from lowtide.kernel.errors import Busy, DeclarationError, Forbidden, Malformed, NotFound, TooManyRequests
from lowtide.kernel.http import Request, Response, Route
from tests.api.client import Answer, Client
from tests.api.edges import Handlers, Note, build

pytestmark = pytest.mark.anyio


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def client(handlers: Handlers) -> Client:
    return Client(build(handlers))


def is_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.complete


class TestAnswers:
    async def test_a_value_is_json(self, client: Client, handlers: Handlers) -> None:
        """A struct goes in, a struct comes out, with the route's status."""
        answer = await client.post("/notes", json={"title": "x", "stars": 5}, token="ann")
        assert (answer.status, answer.json()) == (201, {"title": "x", "stars": 5})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["content-length"] == str(len(answer.body))
        (request,) = handlers.requests
        assert request.body == Note("x", 5)
        assert request.principal.user == "ann"
        assert (request.method, request.path, request.client) == ("POST", "/notes", "127.0.0.1")
        assert request.id == answer.headers["x-request-id"]

    async def test_none_is_204(self, client: Client) -> None:
        """Nothing to say has no body, no type and no length."""
        answer = await client.request("DELETE", "/notes/1", token="ann")
        assert (answer.status, answer.body) == (204, b"")
        assert not {"content-type", "content-length"} & answer.headers.keys()

    async def test_a_query_is_decoded(self, client: Client) -> None:
        """Parameters arrive in their types."""
        answer = await client.get("/notes?limit=5&tag=a&tag=b", token="ann")
        assert answer.json() == {"limit": 5, "after": None, "tag": ["a", "b"], "deep": False}

    async def test_parameters_are_decoded(self, client: Client) -> None:
        """A path's parameters reach the handler as text."""
        answer = await client.get("/notes/a%2Fb/parts/%C3%BC", token="ann")
        assert answer.json() == {"note": "a/b", "part": "ü"}

    async def test_a_head_is_a_get_without_its_body(self, client: Client) -> None:
        """The same headers, and nothing behind them."""
        get = await client.get("/notes", token="ann")
        head = await client.request("HEAD", "/notes", token="ann")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]

    async def test_a_head_that_fails_has_no_body_either(self, client: Client) -> None:
        """A refused HEAD answers only its status."""
        answer = await client.request("HEAD", "/notes")
        assert (answer.status, answer.body) == (401, b"")

    async def test_options_names_the_methods(self, client: Client) -> None:
        """OPTIONS needs no token and reaches no handler."""
        answer = await client.request("OPTIONS", "/notes")
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, POST, OPTIONS")
        assert (await client.request("OPTIONS", "*")).status == 204
        is_problem(await client.request("OPTIONS", "/nope"), 404, "not_found")

    async def test_every_answer_is_guarded(self, client: Client) -> None:
        """Security headers, no-store and a request id of its own: on successes and on problems.

        What guards pages is on all that a browser could show, and not on what needs a token.
        """
        answers = [
            await client.get("/notes", token="ann"),
            await client.get("/notes"),
            await client.get("/notes", token="nobody"),
            await client.get("/open"),
            await client.get("/nope"),
            await client.request("OPTIONS", "/notes"),
        ]
        for i, answer in enumerate(answers):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers
            for_pages = {"content-security-policy", "referrer-policy", "cross-origin-resource-policy"}
            assert for_pages & set(answer.headers) == (set() if i == 0 else for_pages)
        assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)

    async def test_https_stays_https(self, client: Client) -> None:
        """A browser that came over TLS comes back over TLS; over plain HTTP nothing is promised."""
        assert "strict-transport-security" in (await client.get("/open", scheme="https")).headers
        assert "strict-transport-security" in (await client.get("/nope", scheme="https")).headers
        assert "strict-transport-security" not in (await client.get("/open")).headers

    async def test_a_response_may_replace_headers(self, handlers: Handlers) -> None:
        """A handler's header takes the place of the edge's; the others stay."""

        async def cached(_: Request[None, None]) -> Response:
            return Response(body={"a": 1}, status=203, headers={"cache-control": "public", "etag": '"1"'})

        client = Client(build(handlers, Route("GET", "/cached", cached, auth="none")))
        answer = await client.get("/cached")
        assert (answer.status, answer.json(), answer.headers["etag"]) == (203, {"a": 1}, '"1"')
        names = [name for name, _ in answer.raw_headers]
        assert names.count(b"cache-control") == 1
        assert answer.headers["cache-control"] == "public"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_a_client_cannot_choose_its_request_id(self, client: Client) -> None:
        """What the log is searched for comes from the server."""
        answer = await client.get("/open", headers={"x-request-id": "mine"})
        assert answer.headers["x-request-id"] != "mine"


class TestProblems:
    async def test_unknown_addresses_and_methods_are_problems(self, client: Client) -> None:
        """404 and 405 look like every other error."""
        is_problem(await client.get("/nope"), 404, "not_found")
        answer = await client.request("PATCH", "/notes")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST, OPTIONS"

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (NotFound(), 404, "not_found"),
            (Forbidden("No.", field="title"), 403, "forbidden"),
            (TooManyRequests(retry_after=9), 429, "too_many_requests"),
            (Busy(), 503, "busy"),
        ],
    )
    async def test_what_a_handler_raises_is_answered(
        self, handlers: Handlers, error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An error of the tree is its problem, without a traceback in the log."""

        async def fails(_: Request[None, None]) -> None:
            raise error

        answer = await Client(build(handlers, Route("GET", "/fails", fails, auth="none"))).get("/fails")
        is_problem(answer, status, code)
        assert ("retry-after" in answer.headers) == (status in (429, 503))
        assert not [made for made in caplog.records if made.exc_info]

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("the password is hunter2"),
            DeclarationError("hunter2"),
            KeyError("hunter2"),
            TimeoutError("hunter2"),
            RecursionError("hunter2"),
            Malformed("fine", detail="x", bad=object()),
        ],
    )
    async def test_a_fault_is_500_and_only_in_the_log(
        self, handlers: Handlers, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The client learns the request id, the log has the traceback under it."""

        async def fails(_: Request[None, None]) -> None:
            raise error

        answer = await Client(build(handlers, Route("GET", "/fails", fails, auth="none"))).get("/fails")
        is_problem(answer, 500, "internal")
        assert b"hunter2" not in answer.body
        (made,) = [made for made in caplog.records if made.exc_info]
        assert made.__dict__["fields"]["request_id"] == answer.headers["x-request-id"]

    async def test_an_answer_that_json_cannot_say_is_a_fault(
        self, handlers: Handlers, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A handler's mistake is 500 before a byte is sent, not half an answer."""

        async def odd(_: Request[None, None]) -> object:
            return object()

        answer = await Client(build(handlers, Route("GET", "/odd", odd, auth="none"))).get("/odd")
        is_problem(answer, 500, "internal")


class TestTokens:
    @pytest.mark.parametrize(
        "header",
        ["Bearer ann", "bearer ann", "BEARER ann", "Token ann", "token ann", "Bearer  ann", "Token ann "],
    )
    async def test_both_schemes_are_read(self, client: Client, header: str) -> None:
        """``Bearer`` and ``Token``, in any case."""
        assert (await client.get("/notes", headers={"authorization": header})).status == 200

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "ann",
            "Bearer",
            "Bearer ",
            "Basic ann",
            "Bearer ann ann",
            "Bearer\tann",
            "Bearer bob",
            "Bearer \xe9",
        ],
    )
    async def test_anything_else_is_401(self, client: Client, handlers: Handlers, header: str) -> None:
        """Another scheme or token reaches no handler, and is told the scheme to use."""
        answer = await client.get("/notes", headers={"authorization": header})
        is_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert handlers.requests == []

    async def test_an_expired_token_says_so(self, client: Client) -> None:
        """The client knows to fetch a new one."""
        is_problem(await client.get("/notes", token="old"), 401, "token_expired")

    async def test_a_huge_token_is_not_looked_at(self, client: Client) -> None:
        """Beyond 8 KiB the header is refused before it is verified."""
        is_problem(await client.get("/notes", token="a" * 8192), 431, "head_too_large")

    async def test_two_tokens_are_refused(self, client: Client) -> None:
        """No guess which one counts."""
        answer = await client.get(
            "/notes", headers=[("authorization", "Bearer ann"), ("authorization", "Bearer app")]
        )
        is_problem(answer, 400, "bad_request")

    async def test_a_token_in_the_query_is_not_read(self, client: Client) -> None:
        """Addresses end up in logs; tokens must not."""
        is_problem(await client.get("/notes?token=ann&access_token=ann"), 401, "unauthorized")

    async def test_a_servers_address_takes_a_servers_token(self, client: Client, handlers: Handlers) -> None:
        """A user is known, and refused."""
        is_problem(await client.get("/internal"), 401, "unauthorized")
        is_problem(await client.get("/internal", token="ann"), 403, "forbidden")
        assert handlers.requests == []
        assert (await client.get("/internal", token="app")).status == 204

    async def test_an_open_address_reads_no_token(self, client: Client, handlers: Handlers) -> None:
        """A bad token does not close what is open, and a good one names nobody."""
        assert (await client.get("/open", token="nobody")).status == 204
        assert (await client.get("/open", token="ann")).status == 204
        assert [request.who for request in handlers.requests] == [None, None]

    async def test_a_body_is_not_read_without_a_token(self, client: Client) -> None:
        """A stranger cannot make the server take in a body."""
        async with client.open(
            "POST", "/notes", ended=False, headers={"content-type": "application/json"}
        ) as call:
            is_problem(await call.answer(), 401, "unauthorized")


class TestHosts:
    @pytest.mark.parametrize("target", ["/notes", "/nope", "/open"])
    async def test_another_host_is_refused(self, handlers: Handlers, target: str) -> None:
        """421, whatever the address, the token and the method."""
        client = Client(build(handlers))
        for method in ("GET", "POST", "OPTIONS"):
            answer = await client.request(method, target, token="ann", headers={"host": "evil.example"})
            is_problem(answer, 421, "misdirected")
        assert handlers.requests == []

    async def test_there_must_be_one_host(self, handlers: Handlers) -> None:
        """None, or two, is 400: which of them counts is not guessed."""
        is_problem(await Client(build(handlers), host=None).get("/open"), 400, "bad_request")
        twice = [("host", "localhost"), ("host", "localhost")]
        is_problem(await Client(build(handlers)).get("/open", headers=twice), 400, "bad_request")

    async def test_health_checks_need_no_host(self, handlers: Handlers) -> None:
        """A load balancer asks by address."""
        client = Client(build(handlers, hosts=Hosts(["api.example.com"])), host="10.1.2.3:8420")
        assert (await client.get("/health/live")).status == 200
        is_problem(await client.get("/open"), 421, "misdirected")


class TestOrigins:
    @pytest.fixture
    def client(self, handlers: Handlers) -> Client:
        return Client(build(handlers, origins=["https://app.example.com"]))

    async def test_a_listed_origin_reads_answers_and_problems(self, client: Client) -> None:
        """A script must be able to read why it was refused."""
        for target, status in (("/notes", 401), ("/nope", 404), ("/open", 204)):
            answer = await client.get(target, headers={"origin": "https://app.example.com"})
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            # A browser's DPoP client must read the nonce (RFC 9449, section 8), a repeat that it is one.
            assert {"retry-after", "dpop-nonce", "www-authenticate", "idempotency-replayed"} <= set(exposed)
            assert answer.headers["vary"] == "Origin"

    async def test_another_origin_gets_no_permission(self, client: Client) -> None:
        """The answer is there, but the browser will not show it to the script."""
        answer = await client.get("/open", headers={"origin": "https://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_a_preflight_is_answered_before_any_token(self, client: Client, handlers: Handlers) -> None:
        """The browser asks without one."""
        answer = await client.request(
            "OPTIONS",
            "/notes",
            headers={
                "origin": "https://app.example.com",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            },
        )
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert handlers.requests == []

    async def test_a_strangers_preflight_is_refused(self, client: Client) -> None:
        """Without permission the browser does not send the request."""
        answer = await client.request(
            "OPTIONS",
            "/notes",
            headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
        )
        assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_closed_by_default(self, handlers: Handlers) -> None:
        """An edge without origins permits none."""
        answer = await Client(build(handlers)).get("/open", headers={"origin": "http://localhost"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


class TestLoad:
    async def test_beyond_the_limit_is_503_at_once(self, handlers: Handlers) -> None:
        """No queue: the answer comes while the others still work, with a time to return."""
        client = Client(build(handlers, limits=Limits(requests=2)))
        async with client.open("GET", "/wait", token="ann"), client.open("GET", "/wait", token="ann"):
            await until(lambda: len(handlers.requests) == 2)
            answer = await client.get("/open")
            is_problem(answer, 503, "busy")
            assert 1 <= int(answer.headers["retry-after"]) <= 4
            handlers.gate.set()
        assert (await client.get("/open")).status == 204

    async def test_health_is_answered_under_any_load(self, handlers: Handlers) -> None:
        """A busy process is not a dead one."""
        client = Client(build(handlers, limits=Limits(requests=1)))
        async with client.open("GET", "/wait", token="ann"):
            await until(lambda: len(handlers.requests) == 1)
            assert (await client.get("/open")).status == 503
            assert (await client.get("/health/live")).status == 200
            assert (await client.get("/health/ready")).status == 200
            handlers.gate.set()

    async def test_slow_bodies_take_no_place(self, handlers: Handlers) -> None:
        """Who dribbles a body does not keep others out."""
        client = Client(build(handlers, limits=Limits(requests=1)))
        options: dict[str, Any] = {"token": "ann", "headers": {"content-type": "application/json"}}
        async with client.open("POST", "/notes", ended=False, **options):
            assert (await client.get("/open")).status == 204

    async def test_bodies_share_a_bounded_room(self, handlers: Handlers) -> None:
        """What all requests together keep in memory is bounded, and given back."""
        edge = build(handlers, limits=Limits(buffered=1000))
        client = Client(edge)
        note = {"title": "x" * 800}
        options: dict[str, Any] = {"token": "ann", "headers": {"content-type": "application/json"}}
        async with client.open("POST", "/notes", ended=False, **options) as call:
            call.push(msgspec.json.encode(note))
            await until(lambda: edge.load.buffered > 800)
            is_problem(await client.post("/notes", json=note, token="ann"), 503, "busy")
            call.push(b"", last=True)
            assert (await call.answer()).status == 201
        assert edge.load.buffered == 0
        assert (await client.post("/notes", json=note, token="ann")).status == 201
        assert edge.load.buffered == 0

    async def test_a_handler_has_a_deadline(self, handlers: Handlers) -> None:
        """Work that takes too long is stopped and answered 503, and its place is free again."""
        edge = build(handlers)
        client = Client(edge)
        async with client.open("GET", "/wait", token="ann") as call:
            is_problem(await call.answer(), 503, "deadline_passed")
            assert call.task is not None
            assert call.task.cancelling() == 0
        assert handlers.ended == ["wait"]
        assert edge.load.requests == 0
        assert (await client.get("/open")).status == 204

    async def test_a_handler_that_does_not_stop_is_answered_late(self, handlers: Handlers) -> None:
        """Who swallows the cancellation still gets its answer out, and the task is clean."""

        async def stubborn(_: Request[None, None]) -> dict[str, int]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            return {"a": 1}

        client = Client(build(handlers, Route("GET", "/stubborn", stubborn, auth="none", deadline=0.01)))
        async with client.open("GET", "/stubborn") as call:
            assert (await call.answer()).json() == {"a": 1}
            assert call.task is not None
            assert call.task.cancelling() == 0

    async def test_a_crowded_socket_gets_only_health(self, client: Client) -> None:
        """Beyond the cap on connections the server says so, and stays alive to its checks."""
        state = {"crowded": True}
        is_problem(await client.get("/open", state=state), 503, "busy")
        assert (await client.get("/health/ready", state=state)).status == 200


class TestWebSockets:
    async def test_websockets_are_refused_where_nobody_listens(self, handlers: Handlers) -> None:
        """A socket that another server hands over is closed before it opens."""
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        edge = build(handlers)
        await edge({"type": "websocket", "path": "/x", "headers": [(b"host", b"localhost")]}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]


class TestAccessLog:
    async def test_a_line_names_the_template_and_no_secret(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Method, template, status, time and id: no path, query, token, body or user."""
        with caplog.at_level(logging.INFO, "lowtide.access"):
            await client.get("/notes/secret1/parts/secret2", token="ann")
            await client.get("/notes?after=secret3", token="ann")
            await client.post("/notes", json={"title": "secret4"}, token="secret5")
            await client.get("/secret6", token="ann")
        lines = [getattr(made, "fields", {}) for made in caplog.records]
        assert [line["route"] for line in lines] == ["/notes/{note}/parts/{part}", "/notes", "/notes", None]
        assert [line["status"] for line in lines] == [200, 200, 401, 404]
        assert "secret" not in str([made.__dict__ for made in caplog.records])
        assert "ann" not in str(lines)

    async def test_health_checks_write_no_lines(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A check a second would be most of the log."""
        with caplog.at_level(logging.INFO, "lowtide.access"):
            await client.get("/health/live")
        assert caplog.records == []


class TestHealth:
    async def test_ready_asks_every_part(self, handlers: Handlers, caplog: pytest.LogCaptureFixture) -> None:
        """503 names what does not work, and not why; live stays 200."""
        asked: list[str] = []

        async def database() -> None:
            asked.append("database")

        async def bus() -> None:
            asked.append("bus")
            raise OSError("hunter2")

        client = Client(build(handlers, checks={"database": database, "bus": bus}))
        answer = await client.get("/health/ready")
        is_problem(answer, 503, "unavailable")
        assert answer.json()["failing"] == ["bus"]
        assert b"hunter2" not in answer.body
        assert asked == ["database", "bus"]
        assert (await client.get("/health/live")).json() == {"status": "live"}

    async def test_a_part_that_hangs_is_not_ready(
        self, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each check has a deadline, and they run side by side."""
        monkeypatch.setattr("lowtide.api.health.DEADLINE", 0.05)

        async def hangs() -> None:
            await asyncio.sleep(60)

        client = Client(build(handlers, checks={"a": hangs, "b": hangs}))
        answer = await client.get("/health/ready")
        assert answer.json()["failing"] == ["a", "b"]

    async def test_a_stopping_server_is_not_ready(self, handlers: Handlers) -> None:
        """But alive, and it still answers what comes."""
        edge = build(handlers)
        client = Client(edge)
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        edge.drain()
        is_problem(await client.get("/health/ready"), 503, "unavailable")
        assert (await client.get("/health/live")).status == 200
        assert (await client.get("/open")).status == 204


async def until(condition: Any) -> None:
    """Let others run until ``condition()``."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
