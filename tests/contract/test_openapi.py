"""The API's description: complete, valid, and true to the table that it is made from."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

import lowtide
from lowtide.api.declared import content, new
from lowtide.api.openapi import TAGS, describe
from lowtide.api.operation import errors_of
from lowtide.api.table import is_repeatable
from lowtide.auth.answers import SignedIn
from lowtide.auth.methods.signing import Answered
from lowtide.kernel.errors import Conflict, NotFound
from lowtide.kernel.http import Answer, Header, Request, Response, Route
from lowtide.kernel.schema import Field, Model, Schema
from tests.api.client import Client
from tests.contract.conftest import Whole

SOURCE = Path(lowtide.__file__).parent
EMPTY = Schema(name="empty", models={}, streams={})
READ_BY_THE_EDGE = {"api/edge.py", "kernel/http.py"}
EVERYWHERE = {"host", "dpop"}
"""Headers that belong to HTTP, or to how somebody proves who they are."""


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def problems_with(route: Route) -> list[str]:
    """What the reference would miss of a route."""
    found = []
    if not route.summary or route.summary.endswith("."):
        found.append("a summary, without a full stop")
    if not route.tags or not set(route.tags) <= TAGS.keys():
        found.append("tags that lowtide.api.openapi.TAGS explains")
    if not inspect.getdoc(route.handler):
        found.append("a docstring of its handler")
    undeclared = headers_read(route.handler) - EVERYWHERE - {header.name.lower() for header in route.headers}
    found += [f"Header({name!r}, ...) in its headers" for name in sorted(undeclared)]
    return found


def headers_read(handler: Callable[..., Any]) -> set[str]:
    """The headers that ``handler`` reads, itself or in what it hands its request to."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [handler]
    while waiting:
        function = inspect.unwrap(waiting.pop())
        function = getattr(function, "__func__", function)
        if function in seen or not inspect.isfunction(function):
            continue
        seen.add(function)
        names = dict(function.__globals__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            names[name] = cell.cell_contents
        owner = getattr(handler, "__self__", None)
        for call in _calls(function):
            match call.func:
                case ast.Attribute(attr="header") if call.args and isinstance(call.args[0], ast.Constant):
                    found.add(str(call.args[0].value))
                case ast.Attribute(attr="accepts_encoding"):
                    found.add("accept-encoding")
                case ast.Name(id=name) if _takes_request(call):
                    waiting.append(names.get(name))
                case ast.Attribute(value=ast.Name(id="self"), attr=name) if _takes_request(call):
                    waiting.append(getattr(owner, name, None))
                case ast.Attribute(value=ast.Name(id=holder), attr=name) if _takes_request(call):
                    waiting.append(getattr(names.get(holder), name, None))
                case ast.Attribute(
                    value=ast.Await(
                        value=ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=maker))
                    ),
                    attr=name,
                ) if _takes_request(call):
                    made = inspect.signature(getattr(owner, maker)).return_annotation
                    waiting.append(getattr(names.get(made), name, None))
    return found


def _calls(function: Any) -> list[ast.Call]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _takes_request(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return any(isinstance(one, ast.Name) and one.id == "request" for one in given)


async def plain(request: Request[Any, Any]) -> None:
    """Does nothing."""


async def reading(request: Request[Any, Any]) -> Response:
    """Reads a header itself, and one through another function."""
    request.header("if-match")
    return _helped(request)


def _helped(request: Request[Any, Any]) -> Response:
    return Response(body=request.header("x-helped"))


async def undocumented(request: Request[Any, Any]) -> None:
    pass


class TestEveryRoute:
    def test_every_address_is_documented(self, whole: Whole) -> None:
        """Each has a summary, known tags, a handler that says what it does, and its headers declared."""
        missing = {f"{route.method} {route.path}": problems_with(route) for route in whole.routes}
        assert {address: what for address, what in missing.items() if what} == {}

    @pytest.mark.parametrize(
        ("route", "missing"),
        [
            (Route("GET", "/x", plain, tags=("auth",)), "summary"),
            (Route("GET", "/x", plain, summary="Ends with a stop.", tags=("auth",)), "summary"),
            (Route("GET", "/x", plain, summary="Fine"), "tags"),
            (Route("GET", "/x", plain, summary="Fine", tags=("nonesuch",)), "tags"),
            (Route("GET", "/x", undocumented, summary="Fine", tags=("auth",)), "docstring"),
            (Route("GET", "/x", reading, summary="Fine", tags=("auth",)), "if-match"),
            (
                Route(
                    "GET", "/x", reading, summary="Fine", tags=("auth",), headers=(Header("If-Match", ""),)
                ),
                "x-helped",
            ),
        ],
    )
    def test_what_is_missing_is_noticed(self, route: Route, missing: str) -> None:
        """The check above fails for an address without a summary, tags, words, or a header that it reads."""
        assert any(missing in what for what in problems_with(route))

    def test_every_header_that_is_read_is_somebodys(self, whole: Whole) -> None:
        """No source reads a header that no address declares."""
        declared = {header.name.lower() for route in whole.routes for header in route.headers}
        for file in SOURCE.rglob("*.py"):
            if str(file.relative_to(SOURCE)) in READ_BY_THE_EDGE:
                continue
            read = re.findall(r"\brequest\.header\(\s*\"([^\"]+)\"", file.read_text("utf-8"))
            assert set(read) <= declared | EVERYWHERE, file

    def test_every_address_of_the_table_is_described(self, whole: Whole) -> None:
        """The description has each method and path, and none that is not served."""
        served = set()
        for route in whole.routes:
            path = re.sub(r":rest\}", "}", route.path)
            if route.each is None:
                served.add((route.method.lower(), path))
        described = {(method, path) for method, path, _ in operations(whole.document)}
        assert served <= described
        patterns = [
            (route.method.lower(), re.compile(re.sub(r"\\\{.+?\\\}", "[^/]+", re.escape(route.path))))
            for route in whole.routes
            if route.each is not None
        ]
        for method, path in described - served:
            assert any(method == m and p.fullmatch(path) for m, p in patterns), (method, path)

    def test_every_post_may_be_repeated(self, whole: Whole) -> None:
        """A new address takes an Idempotency-Key; only uploads and other protocols have their own ways."""
        own_ways = ("/v1/oauth/", "/v1/bridges/", "/v1/sync/", "/sync/")
        for route in whole.routes:
            if route.method == "POST" and not is_repeatable(route):
                assert route.path.startswith(own_ways), route.path

    def test_every_way_in_says_how_it_refuses(self, whole: Whole) -> None:
        """A hook's no, a disabled account and a space of others are told wherever somebody signs in."""
        for route in (one for one in whole.routes if one.response in (Answered, SignedIn)):
            told = {kind.code for kinds in errors_of(route).values() for kind in kinds}
            hooks = set() if route.path.endswith("/refresh") else {"sign_in_refused", "function_failed"}
            assert {"forbidden", *hooks} <= told, route.path


class TestDocument:
    def test_it_is_openapi_3_1(self, whole: Whole) -> None:
        """The official schema of OpenAPI 3.1 finds nothing wrong."""
        validator = jsonschema_rs.validator_for(OPENAPI_31)
        assert [(e.instance_path, e.message) for e in validator.iter_errors(whole.document)] == []
        assert not validator.is_valid(whole.document | {"paths": {"no-slash": {}}})

    def test_every_schema_is_a_schema(self, whole: Whole) -> None:
        """Each component is JSON Schema 2020-12, and no reference leads nowhere."""
        for name, schema in whole.document["components"]["schemas"].items():
            assert jsonschema_rs.meta.is_valid(schema), name
        text = msgspec.json.encode(whole.document).decode()
        references = set(re.findall(r'"\$ref":"#/components/(\w+)/([^"]+)"', text))
        assert references
        for kind, name in references:
            assert name in whole.document["components"][kind], name
        used = {name for kind, name in references if kind == "schemas"}
        assert used == whole.document["components"]["schemas"].keys()

    def test_every_operation_has_a_name_of_its_own(self, whole: Whole) -> None:
        """Client generators name methods after operationId."""
        names = [operation["operationId"] for _, _, operation in operations(whole.document)]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"\w+", name) for name in names)

    def test_nothing_of_the_kernels_markers_is_left(self, whole: Whole) -> None:
        """What stands for declared types is replaced by them."""
        assert b"x-declared" not in msgspec.json.encode(whole.document)

    def test_the_words_of_the_source_are_in_it(self, whole: Whole) -> None:
        """A field's text, a type's docstring and a handler's are the descriptions; no reST is left."""
        state = whole.document["components"]["schemas"]["DeviceState"]
        assert state["description"].startswith("What is known of a device.")
        assert state["properties"]["cursor"]["description"] == "The head that it reached last."
        upload = whole.document["paths"]["/v1/sync/batches"]["post"]
        assert "Applied exactly once" in upload["description"]
        assert b"``" not in msgspec.json.encode(whole.document)


class TestOperations:
    def test_a_parameter_has_its_bounds(self, whole: Whole) -> None:
        """Query parameters are described one by one, absent instead of null."""
        (limit,) = [
            p
            for p in whole.document["paths"]["/v1/sync/conflicts"]["get"]["parameters"]
            if p["name"] == "limit"
        ]
        assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
        assert not limit["required"]

    def test_an_error_is_told_with_its_codes(self) -> None:
        """An address tells its own errors and those of every address of its kind, and no others."""
        route = Route("POST", "/x/{id}", plain, body=dict[str, int], errors=(NotFound, Conflict))
        codes = {
            status: {kind.code for kind in kinds}
            for status, kinds in errors_of(route).items()
            if status < 500
        }
        assert codes == {
            400: {"bad_request", "malformed", "unknown_parameter"},
            401: {"unauthorized", "token_expired", "session_revoked", "invalid_dpop_proof", "use_dpop_nonce"},
            404: {"not_found"},
            408: {"request_timeout"},
            409: {"conflict", "key_in_flight"},
            413: {"too_large"},
            415: {"unsupported_media"},
            421: {"misdirected"},
            422: {"key_reused"},
            426: {"app_too_old"},
            429: {"too_many_requests"},
            431: {"head_too_large"},
        }
        open_to_all = errors_of(Route("GET", "/x", plain, auth="none"))
        assert not {401, 403, 413} & open_to_all.keys()
        assert 403 in errors_of(Route("GET", "/x", plain, auth="server"))

    def test_a_problem_has_one_of_the_codes(self) -> None:
        """The schema of a status names its codes and refuses any other."""
        document = describe([Route("GET", "/x", plain, errors=(NotFound,))], EMPTY, "1")
        answer = document["components"]["responses"]["404.not_found"]
        schema = answer["content"]["application/problem+json"]["schema"]
        schema = schema | {"components": document["components"]}
        good = {"type": "/problems/not_found", "title": "Not Found", "status": 404, "code": "not_found"}
        validator = jsonschema_rs.validator_for(schema)
        assert validator.is_valid(good)
        assert validator.is_valid(good | {"known": ["x"]})
        assert not validator.is_valid(good | {"code": "conflict"})

    def test_other_answers_are_told(self) -> None:
        """What an address answers besides its usual answer is there with its headers, also a 204."""
        route = Route(
            "PUT",
            "/files/{path:rest}",
            plain,
            body=bytes,
            consumes=("*/*",),
            headers=(Header("If-Match", "The ETag.", required=True),),
            answers=(Answer(201, "Made.", int, headers=(Header("ETag", "Its version."),)),),
        )
        operation = describe([route], EMPTY, "1")["paths"]["/files/{path}"]["put"]
        assert operation["responses"]["201"] == {
            "description": "Made.",
            "headers": {"ETag": {"description": "Its version.", "schema": {"type": "string"}}},
            "content": {"application/json": {"schema": {"type": "integer"}}},
        }
        assert operation["responses"]["204"] == {"description": "No Content"}
        assert operation["requestBody"]["content"] == {"*/*": {}}
        assert [(p["name"], p["in"], p["required"]) for p in operation["parameters"]] == [
            ("path", "path", True),
            ("If-Match", "header", True),
        ]

    def test_a_form_is_described(self, whole: Whole) -> None:
        """Each address that takes a form tells its fields, all that the provider reads of clients."""
        forms = {}
        for _, path, operation in operations(whole.document):
            media = operation.get("requestBody", {}).get("content", {})
            if "application/x-www-form-urlencoded" in media:
                reference = media["application/x-www-form-urlencoded"]["schema"]["$ref"]
                forms[path] = whole.document["components"]["schemas"][reference.rpartition("/")[2]]
        assert forms["/v1/oauth/token"]["required"] == ["grant_type"]
        assert forms["/v1/oauth/introspect"]["required"] == ["token"]
        told = {name for form in forms.values() for name in form["properties"]}
        for module in ("grants", "inspection", "clients", "authorize"):
            text = (SOURCE / f"auth/provider/{module}.py").read_text("utf-8")
            read = set(re.findall(r'(?:fields|parameters)(?:\.get\(|\[)"(\w+)"', text))
            assert read - {"request_uri"} <= told, module

    def test_security_is_said(self, whole: Whole) -> None:
        """Who may ask stands in each operation: nobody in particular, a user, or a server."""
        document = describe([Route("GET", "/x", plain, auth="server")], EMPTY, "1")
        assert document["paths"]["/x"]["get"]["security"] == [{"bearer": ["server"]}, {"dpop": ["server"]}]
        assert whole.document["paths"]["/health/live"]["get"]["security"] == []
        assert whole.document["paths"]["/v1/sync/batches"]["post"]["security"] == [
            {"bearer": []},
            {"dpop": []},
        ]


class TestDeclared:
    def test_a_function_has_an_address_with_its_types(self, whole: Whole) -> None:
        """Each function is described with its arguments, defaults, result and words."""
        operation = whole.document["paths"]["/v1/functions/add"]["post"]
        assert operation["summary"] == "Add two numbers"
        schemas = whole.document["components"]["schemas"]
        assert schemas["add_arguments"] == {
            "title": "add_arguments",
            "type": "object",
            "properties": {"left": {"type": "integer"}, "right": {"type": "integer", "default": 1}},
            "required": ["left"],
            "additionalProperties": False,
        }
        assert schemas["FunctionAnswer_add"]["properties"]["result"] == {"type": "integer"}
        assert "/v1/functions/{name}" not in whole.document["paths"]

    def test_a_model_has_addresses_with_its_fields(self, whole: Whole) -> None:
        """Each model's records are described with its own fields: as answered, created and changed."""
        paths, schemas = whole.document["paths"], whole.document["components"]["schemas"]
        assert {"get", "patch", "delete"} <= paths["/v1/records/task/{id}"].keys()
        assert "/v1/records/{model}" not in paths
        assert not any("lowtide_" in path for path in paths)
        record = schemas["Record_task"]["properties"]["data"]
        assert record == {"$ref": "#/components/schemas/task.content"}
        page = schemas["RecordPage_task"]["properties"]
        assert page["records"]["items"]["$ref"] == "#/components/schemas/ListedRecord_task"
        assert {"cursor", "count", "included"} < page.keys()
        listed = schemas["ListedRecord_task"]["properties"]["data"]
        assert listed == {"$ref": "#/components/schemas/task.part"}
        assert schemas["task.part"]["properties"] == schemas["task.content"]["properties"]
        assert schemas["task.part"]["required"] == [], "`fields` leaves some out"
        sent = schemas["NewRecord_task"]["properties"]["data"]
        assert sent["$ref"] == "#/components/schemas/task.new"
        content = schemas["task.content"]
        assert content["required"] == list(content["properties"])
        assert content["properties"]["due"] == {"type": ["string", "null"], "format": "date-time"}
        assert content["properties"]["tags"]["type"] == "array"
        assert content["properties"]["extra"] == {}
        assert "servers" in content["properties"]["approved"]["description"]
        assert schemas["task.new"]["required"] == ["team_id", "title"]
        assert schemas["task.changes"]["required"] == []
        assert schemas["task.changes"]["additionalProperties"] is False
        assert schemas["note.content"]["properties"]["title"] == {"type": "string", "maxLength": 80}

    def test_a_former_name_is_told(self) -> None:
        """A renamed field is answered under both names; a removed one is told as such."""
        fields = {
            "notes": Field(name="notes", kind="text", renamed_from="remark"),
            "colour": Field(name="colour", kind="text", removed=True, default="grey"),
        }
        model = Model(name="task", fields=fields)
        assert content(model)["properties"]["remark"]["deprecated"]
        assert content(model)["properties"]["colour"]["deprecated"]
        assert new(model)["properties"].keys() == {"notes"}


@pytest.mark.anyio
class TestServed:
    async def test_a_copy_stays_good(self, client: Client) -> None:
        """Whoever holds the present description is answered 304, without a body."""
        first = await client.get("/v1/openapi.json")
        assert first.status == 200
        assert first.headers["content-type"] == "application/json"
        again = await client.get("/v1/openapi.json", headers={"if-none-match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        weak = await client.get(
            "/v1/openapi.json", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'}
        )
        assert weak.status == 304
        other = await client.get("/v1/openapi.json", headers={"if-none-match": '"another"'})
        assert (other.status, other.body) == (200, first.body)

    async def test_it_says_no_secret(self, client: Client) -> None:
        """It is open to all, and knows neither addresses nor files of the machine."""
        text = (await client.get("/v1/openapi.json")).body.decode()
        assert "/tmp" not in text
        assert "postgresql:" not in text
