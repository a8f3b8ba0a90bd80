"""One address of the API as an Operation Object (OpenAPI 3.1, section 4.8.10)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from lowtide.api import declared as app
from lowtide.api.problems import MEDIA_TYPE
from lowtide.api.repeats import LEAST_UNKNOWN
from lowtide.api.schemas import REF, Json, Schemas, words
from lowtide.api.table import Served, is_repeatable
from lowtide.kernel.errors import (
    AppTooOld,
    BadRequest,
    Busy,
    DeadlinePassed,
    Forbidden,
    HeadTooLarge,
    KeyInFlight,
    KeyMissing,
    KeyReused,
    LowtideError,
    Malformed,
    Misdirected,
    NonceNeeded,
    ProofInvalid,
    RequestTimeout,
    SessionRevoked,
    StorageFull,
    StorageLost,
    StorageTimeout,
    TokenExpired,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    UnknownParameter,
    UnsupportedMedia,
)
from lowtide.kernel.http import KIB, MIB, Answer, Header, Route

INTERNAL = "internal"
SERVER_TOKEN = "The token of one of the app's own servers (scope `server`)."  # noqa: S105 - words
WHO = {
    "none": "Anyone may ask; no token is read.",
    "user": "Needs a token.",
    "server": f"Needs a token. {SERVER_TOKEN}",
    "admin": "Needs a token of an administrator (role `admin`), or of one of the app's own servers.",
}


class Address(msgspec.Struct, frozen=True):
    """A route as the reference shows it: once, or once for each thing that the app declared."""

    route: Route
    path: str
    """Without the marks of a parameter that takes the rest."""
    summary: str
    description: str
    name: str = ""
    """Of the declared thing."""
    declared: Mapping[str, Any] = {}
    """What stands in place of the kernel's markers, by ``x-declared``: a type, or a JSON Schema."""
    tags: tuple[str, ...] = ()
    """Other than the route's."""


def errors_of(route: Route) -> dict[int, list[type[LowtideError]]]:
    """Every error that ``route`` may answer, by status: its own, and those of every address of its kind."""
    kinds: list[type[LowtideError]] = [BadRequest, Malformed, UnknownParameter, HeadTooLarge, DeadlinePassed]
    if not route.vital:
        kinds += [Misdirected, Busy, StorageLost, StorageFull, StorageTimeout, TooManyRequests]
    if not Served(route).old_apps:
        kinds += [AppTooOld]
    if is_repeatable(route):
        kinds += [KeyInFlight, KeyReused]
        kinds += [KeyMissing] if route.key == "required" else []
    if route.auth != "none":
        kinds += [Unauthorized, TokenExpired, SessionRevoked, ProofInvalid, NonceNeeded]
    elif any(header.name == "dpop" for header in route.headers):
        kinds += [ProofInvalid, NonceNeeded]
    # A user's own account is for the app itself: an OAuth client's token does not count there.
    if route.auth not in ("none", "user") or (route.auth == "user" and Served(route).rate == "auth"):
        kinds += [Forbidden]
    if route.body is not None:
        kinds += [RequestTimeout, TooLarge, UnsupportedMedia]
    found: dict[int, list[type[LowtideError]]] = {}
    for kind in dict.fromkeys([*kinds, *route.errors]):
        found.setdefault(kind.status, []).append(kind)
    return found


KEY = Header(
    "Idempotency-Key",
    "A new random value for each new request, and the same when it is repeated: then it counts once.",
    pattern=r'^("[!#-\[\]-~]{1,255}"|[!#-+\--~]{1,255})$',
)
STRANGERS_KEY = msgspec.structs.replace(
    KEY,
    about=f"{KEY.about} At least {LEAST_UNKNOWN} characters.",
    pattern=KEY.pattern.replace("{1,", f"{{{LEAST_UNKNOWN},"),
)


class Operation:
    """One address as an Operation Object (OpenAPI 3.1, section 4.8.10)."""

    def __init__(self, address: Address, schemas: Schemas, responses: dict[str, Json]):
        self._address = address
        self._route = address.route
        self._schemas = schemas
        self._responses = responses

    def described(self) -> Json:
        route, address = self._route, self._address
        limits = f"Limits: {route.deadline:g} s"
        if route.body is not None:
            limits += f", a body of {_size(route.max_body)}"
        limits += f", rate class `{Served(route).rate}`."
        operation: Json = {
            "tags": list(address.tags or route.tags),
            "summary": address.summary,
            "description": "\n\n".join(filter(None, [address.description, f"{WHO[route.auth]} {limits}"])),
            "operationId": "_".join(
                filter(None, [*route.tags[:1], getattr(route.handler, "__name__", "call"), address.name])
            ),
        }
        if parameters := [*self._path(), *self._query(), *self._headers()]:
            operation["parameters"] = parameters
        if route.body is not None:
            operation["requestBody"] = {"required": True, "content": self._body()}
        operation["responses"] = self._answers()
        role = [] if route.auth in ("none", "user") else [route.auth]
        operation["security"] = [] if route.auth == "none" else [{"bearer": role}, {"dpop": role}]
        operation["x-rate-class"] = Served(route).rate
        operation["x-deadline-seconds"] = route.deadline
        if route.body is not None:
            operation["x-max-body-bytes"] = route.max_body
        return operation

    def _path(self) -> Iterator[Json]:
        for name in re.findall(r"\{(\w+)\}", self._address.path):
            # What the edge refuses in an address: control characters.
            schema = {"type": "string", "minLength": 1, "pattern": r"^[^\u0000-\u001f\u007f]+$"}
            yield {"name": name, "in": "path", "required": True, "schema": schema}

    def _query(self) -> Iterator[Json]:
        if self._route.query is None:
            return
        properties, required = self._schemas.fields(self._route.query)
        for name, field in properties.items():
            schema = dict(field)
            about = schema.pop("description", None)
            parameter: Json = {"name": name, "in": "query", "required": name in required}
            if about:
                parameter["description"] = about
            yield parameter | {"schema": _present(schema)}

    def _headers(self) -> Iterator[Json]:
        own: tuple[Header, ...] = ()
        if is_repeatable(self._route):
            own = (STRANGERS_KEY,) if self._route.auth == "none" else (KEY,)
        for header in (*self._route.headers, *own):
            yield {
                "name": header.name,
                "in": "header",
                "description": header.about,
                "required": header.required or (header in own and self._route.key == "required"),
                "schema": {"type": "string"} | ({"pattern": header.pattern} if header.pattern else {}),
            }

    def _body(self) -> Json:
        kind = self._route.form if self._route.body is bytes else self._route.body
        media = {} if kind is None else {"schema": self._schema(kind)}
        return dict.fromkeys(self._route.consumes, media)

    def _answers(self) -> Json:
        route = self._route
        usual = Answer(route.status, "", route.response, route.produces)
        if route.response is None and route.produces == "application/json":
            usual = Answer(204 if route.status == 200 else route.status, "")
        answers = {str(usual.status): self._answer(usual)}
        for answer in route.answers:
            answers[str(answer.status)] = self._answer(answer)
        for status, kinds in (errors_of(route) | {500: []}).items():
            problem = self._problem(status, kinds)
            own = answers.get(str(status))
            answers[str(status)] = problem if own is None else self._either(own, problem)
        return dict(sorted(answers.items()))

    def _answer(self, answer: Answer) -> Json:
        found: Json = {"description": answer.about or HTTPStatus(answer.status).phrase}
        if answer.headers:
            found["headers"] = {header.name: _response_header(header) for header in answer.headers}
        if answer.body is not None and answer.body is not bytes:
            found["content"] = {
                answer.media_type or "application/json": {"schema": self._schema(answer.body)}
            }
        elif answer.media_type:
            textual = answer.media_type.startswith("text/")
            found["content"] = {answer.media_type: {"schema": {"type": "string"}} if textual else {}}
        return found

    def _either(self, own: Json, problem: Json) -> Json:
        """An address's own answer, or the problem that is answered before the address is asked."""
        usual = self._responses[problem["$ref"].rpartition("/")[2]]
        return {
            "description": f"{own['description']}\n\nOr: {usual['description']}",
            "headers": usual["headers"] | own.get("headers", {}),
            "content": own.get("content", {}) | usual["content"],
        }

    def _problem(self, status: int, kinds: Sequence[type[LowtideError]]) -> Json:
        codes = sorted(kind.code for kind in kinds) or [INTERNAL]
        name = ".".join([str(status), *codes])
        if name not in self._responses:
            lines = [f"- `{kind.code}`: {words(kind.__doc__).partition(chr(10))[0]}" for kind in kinds]
            described = "\n".join([HTTPStatus(status).phrase, "", *(lines or ["- `internal`: Our fault."])])
            headers = {
                "X-Request-Id": _response_header(Header("X-Request-Id", "The request, in the log too."))
            }
            if status in (429, 503):
                headers["Retry-After"] = _response_header(Header("Retry-After", "Seconds to wait."))
            if status == 401:
                headers["WWW-Authenticate"] = _response_header(Header("WWW-Authenticate", "RFC 6750."))
            own = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
            self._responses[name] = {
                "description": described,
                "headers": headers,
                "content": {MEDIA_TYPE: {"schema": {"allOf": [{"$ref": f"{REF}Problem"}, own]}}},
            }
        return {"$ref": f"#/components/responses/{name}"}

    def _schema(self, kind: Any) -> Json:
        schema = self._schemas.of(kind)
        declared = self._address.declared
        if not declared:
            return schema
        suffix = f"_{self._address.name}"
        return app.specialised(schema, self._schemas, self._declared, suffix)

    def _declared(self, marker: str) -> Json:
        kind = self._address.declared[marker]
        return kind if isinstance(kind, dict) else self._schemas.of(kind)


def _present(schema: Json) -> Json:
    """A parameter's schema: absence is how a query says null."""
    parts = schema.get("anyOf")
    if parts is None or {"type": "null"} not in parts:
        return schema
    left = [part for part in parts if part != {"type": "null"}]
    own = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    if schema.get("default") is not None:
        own["default"] = schema["default"]
    return own | (left[0] if len(left) == 1 else {"anyOf": left})


def _response_header(header: Header) -> Json:
    return {"description": header.about, "schema": {"type": "string"}}


def _size(count: int) -> str:
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count} bytes"
