"""The API's description, OpenAPI 3.1, made from the table that the edge serves.

Nothing is written twice: an address is described by its ``Route``, its types, its handler's docstring, and
by what the edge does to every address of its kind. What an app declared (its models and functions) has
addresses of its own in the description, with its own types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lowtide.api import declared as app
from lowtide.api.operation import SERVER_TOKEN, Address, Operation
from lowtide.api.problems import Problem
from lowtide.api.schemas import REF, Json, Schemas, words
from lowtide.api.table import NAME
from lowtide.kernel.http import Route
from lowtide.kernel.schema import Model, Schema

ABOUT = """\
Every address answers in JSON unless it says otherwise, a GET answers HEAD too, and every error is a problem
(RFC 9457) with a stable `code`, a `hint` and the request's id. Bodies may be compressed with gzip or zstd. An
unknown query parameter is an error. An app says what it is in `X-App-Version: ios/2.0.3`, and is answered 426
where it is too old. `RateLimit` and `RateLimit-Policy` say how much may still be asked, and `X-Request-Id` is
in the server's log."""
TAGS = {
    "records": "The app's records, for web pages, scripts and servers.",
    "functions": "The app's own functions.",
    "auth": "The keys with which tokens are verified.",
    "sign-in": "Ways to sign in: codes and links by mail, passwords, text messages, second factors.",
    "oauth": "Signing in through a browser, as OAuth 2.1 and OpenID Connect say.",
    "accounts": "Signing in and out, tokens, devices, and the user's own account.",
    "users": "Users, for admins and for the app's own servers.",
    "sync": "What a device's SDK speaks: its download, its uploads, its checkpoints.",
    "bridges": "WatermelonDB's and RxDB's protocols, for apps that have such a client.",
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


MODEL_PARTS = {"content": app.content, "part": app.part, "new": app.new, "changes": app.changes}
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
        operation = Operation(address, schemas, responses)
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
        yield from (
            kind
            for kind in (route.body, route.form, route.query, route.response)
            if kind not in (None, bytes)
        )
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
