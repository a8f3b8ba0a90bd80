"""The API's description, OpenAPI 3.1, made from the table that the edge serves.

Nothing is written twice: an address is described by its ``Route``, its types, its handler's docstring, and
by what the edge does to every address of its kind. What an app declared (its models and functions) has
addresses of its own in the description, with its own types.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from lowtide.api import declared as app
from lowtide.api.problems import MEDIA_TYPE, Problem
from lowtide.api.repeats import LEAST_UNKNOWN
from lowtide.api.schemas import REF, Json, Schemas, words
from lowtide.api.table import NAME, Served, is_repeatable
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
from lowtide.kernel.schema import Model, Schema

INTERNAL = "internal"
SERVER_TOKEN = "The token of one of the app's own servers (scope `server`)."  # noqa: S105 - words
WHO = {
    "none": "Anyone may ask; no token is read.",
    "user": "Needs a token.",
    "server": f"Needs a token. {SERVER_TOKEN}",
    "admin": "Needs a token of an administrator (role `admin`), or of one of the app's own servers.",
}
ABOUT = """\
Every address answers in JSON unless it says otherwise, a GET answers HEAD too, and every error is a problem
(RFC 9457) with a stable `code`, a `hint` and the request's id. Bodies may be compressed with gzip or zstd. An
unknown query parameter is an error."""
TAGS = {
    "records": "The app's records, for web pages, scripts and servers.",
    "functions": "The app's own functions.",
    "auth": "The keys with which tokens are verified.",
    "sign-in": "Ways to sign in: codes and links by mail, passwords, text messages, second factors.",
    "oauth": "Signing in through a browser, as OAuth 2.1 and OpenID Connect say.",
    "accounts": "Signing in and out, tokens, devices, and the user's own account.",
    "users": "Users, for admins and for the app's own servers.",
    "sync": "What a device's SDK speaks: its download, its uploads, its checkpoints.",
    "devices": "Where a device is, and how to heal it.",
    "conflicts": "Values that lost a conflict, and how to bring one back.",
    "passkeys": "Signing in with what a device holds: made, used, named and deleted.",
    "outside": "Signing in with Apple, Google and other OpenID providers.",
    "attestation": "Devices and apps that their makers vouch for.",
    "apps": "Which phone apps belong to this site.",
    "admin": "For administrators and the app's own servers.",
    "health": "Is the server alive, and ready for requests?",
    "problems": "What an error means.",
    "reference": "This description.",
    "webhooks": "Events as signed messages to other servers: for admins and the app's own servers.",
}
"""What each tag is about, in the order of the reference."""


MODEL_PARTS = {"content": app.content, "new": app.new, "changes": app.changes}
"""The kernel's markers that stand for a model's fields, and what makes them."""


def describe(routes: Sequence[Route], schema: Schema, version: str) -> Json:
    """The OpenAPI document of ``routes``, served by the app that declared ``schema``.

    A new document at each call; some ten milliseconds for a hundred addresses, more the first time, when the
    source of the types is read.
    """
    addresses = list(_addresses(routes, schema))
    schemas = Schemas(_types(addresses))
    for model in _models(schema):
        for part, make in MODEL_PARTS.items():
            schemas.components[f"{model.name}.{part}"] = make(model)
    responses: dict[str, Json] = {}
    paths: dict[str, Json] = {}
    identities: set[str] = set()
    for address in addresses:
        operation = _Operation(address, schemas, responses)
        described = operation.described()
        wanted = re.sub(r"\W", "_", described["operationId"])
        described["operationId"] = _unique(wanted, address, identities)
        paths.setdefault(address.path, {})[address.route.method.lower()] = described
    components = _reachable(schemas.components, [paths, responses])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": schema.name,
            "version": version,
            "summary": f"The API of {schema.name}, served by Lowtide.",
            "description": ABOUT,
        },
        "servers": [{"url": "/"}],
        "tags": _tags(addresses),
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": dict(sorted(responses.items())),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": f"An access token (RFC 9068, RFC 6750). Role `server`: {SERVER_TOKEN}",
                },
                "dpop": {
                    "type": "http",
                    "scheme": "dpop",
                    "description": "A token that is bound to a key, and a proof of it in `DPoP` (RFC 9449).",
                },
            },
        },
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


def _addresses(routes: Iterable[Route], schema: Schema) -> Iterator[Address]:
    for route in routes:
        path = NAME.sub(lambda found: "{" + found[1] + "}", route.path)
        about = words(getattr(route.handler, "__doc__", None))
        if route.each is None:
            yield Address(route, path, route.summary, about)
        elif route.each == "function":
            for function in schema.functions.values():
                first, _, more = words(function.call.__doc__).partition("\n")
                yield Address(
                    route,
                    _named(path, function.name),
                    first.rstrip(".") or f"Call {function.name}",
                    "\n\n".join(filter(None, [more.strip(), about])),
                    function.name,
                    {"arguments": app.arguments(function), "result": app.result(function)},
                )

        else:
            for model in _models(schema):
                by = "" if model.write else "Only the app's own servers write it."
                declared = {part: {"$ref": f"{REF}{model.name}.{part}"} for part in MODEL_PARTS}
                yield Address(
                    route,
                    _named(path, model.name),
                    route.summary,
                    "\n\n".join(filter(None, [by if route.method != "GET" else "", about])),
                    model.name,
                    declared,
                    tuple(f"{tag}: {model.name}" for tag in route.tags),
                )


def _named(path: str, name: str) -> str:
    return re.sub(r"\{\w+\}", lambda _: name, path, count=1)


def _models(schema: Schema) -> Iterator[Model]:
    for model in schema.models.values():
        if not model.removed and not model.name.startswith("lowtide_"):
            yield model


def _types(addresses: Iterable[Address]) -> Iterator[Any]:
    yield Problem
    for address in addresses:
        route = address.route
        yield from (kind for kind in (route.body, route.query, route.response) if kind not in (None, bytes))
        yield from (answer.body for answer in route.answers if answer.body not in (None, bytes))
        yield from (kind for kind in address.declared.values() if not isinstance(kind, dict))


def _tags(addresses: Iterable[Address]) -> list[Json]:
    used = sorted({tag for address in addresses for tag in address.tags or address.route.tags})
    order = {tag: at for at, tag in enumerate(TAGS)}
    used.sort(key=lambda tag: order.get(tag.partition(": ")[0], len(order)))
    found = []
    for tag in used:
        group, _, model = tag.partition(": ")
        found.append({"name": tag, "description": f"Records of `{model}`." if model else TAGS.get(group, "")})
    return found


def _unique(wanted: str, address: Address, taken: set[str]) -> str:
    found = wanted if wanted not in taken else f"{wanted}_{address.route.method.lower()}"
    number = 2
    while found in taken:
        found = f"{wanted}_{number}"
        number += 1
    taken.add(found)
    return found


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


class _Operation:
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
        media = {} if self._route.body is bytes else {"schema": self._schema(self._route.body)}
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
        return _specialised(schema, self._schemas, self._declared, suffix)

    def _declared(self, marker: str) -> Json:
        kind = self._address.declared[marker]
        return kind if isinstance(kind, dict) else self._schemas.of(kind)


def _specialised(schema: Json, schemas: Schemas, declared: Callable[[str], Json], suffix: str) -> Json:
    """``schema`` with the declared types in place of markers, in copies of the components that hold any."""

    def of(part: Any) -> Any:
        if isinstance(part, list):
            return [of(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "x-declared" in part:
            return declared(part["x-declared"])
        target = part.get("$ref")
        if isinstance(target, str) and target.startswith(REF):
            name = target.removeprefix(REF)
            if not _holds_marker(schemas, name, set()):
                return part
            if name + suffix not in schemas.components:
                mine: Json = {}
                schemas.components[name + suffix] = mine
                mine.update(of(copy.deepcopy(schemas.components[name])))
                mine["title"] = name + suffix
                _need_what_is_needed(mine, schemas)
            return part | {"$ref": target + suffix}
        return {key: of(value) for key, value in part.items()}

    found: Json = of(schema)
    return found


def _need_what_is_needed(schema: Json, schemas: Schemas) -> None:
    """A new record's fields must be given where one of them has no default."""
    for name, field in schema.get("properties", {}).items():
        target = field.get("$ref", "").removeprefix(REF)
        if target.endswith(".new") and schemas.components[target]["required"]:
            schema["required"] = sorted({*schema.get("required", []), name})


def _holds_marker(schemas: Schemas, name: str, seen: set[str]) -> bool:
    seen.add(name)
    text = msgspec.json.encode(schemas.components[name]).decode()
    if '"x-declared"' in text:
        return True
    inner = set(re.findall(rf'"\$ref":"{REF}([^"]+)"', text)) - seen
    return any(_holds_marker(schemas, one, seen) for one in inner)


def _reachable(components: Mapping[str, Json], roots: Any) -> dict[str, Json]:
    """The components that ``roots`` name, and those that they name."""
    found: dict[str, Json] = {}
    waiting = [roots]
    while waiting:
        text = msgspec.json.encode(waiting.pop()).decode()
        for name in set(re.findall(rf'"\$ref":"{REF}([^"]+)"', text)) - found.keys():
            found[name] = components[name]
            waiting.append(components[name])
    return found


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
