"""The reference as a page: the OpenAPI document, laid out for people.

Rendered on the server, once, from the document alone; its style and its script are files of the wheel. It
asks nothing of any other host, and works without the script, which adds searching, copying and marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
DEEPEST = 5
"""Levels of a type that are shown inside each other."""
ORIGIN = '<span class="origin">http://localhost:8420</span>'
"""Where the examples call; the script puts the page's own origin there."""


def render(document: Json) -> bytes:
    """The page, as HTML in UTF-8. A few milliseconds for a hundred addresses."""
    return _Page(document).html().encode()


class _Page:
    def __init__(self, document: Json):
        self._document = document
        self._components: Json = document["components"]

    def html(self) -> str:
        info = self._document["info"]
        title = f"{escape(info['title'])} API"
        groups = [(tag, list(self._tagged(tag["name"]))) for tag in self._document["tags"]]
        return "".join(
            [
                '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{title}</title>",
                '<link rel="stylesheet" href="/docs/reference.css">',
                '<script src="/docs/reference.js" defer></script></head><body>',
                '<a class="skip" href="#main">Skip to the addresses</a>',
                f'<header><a class="name" href="#top"><b>{title}</b> ',
                f"<small>{escape(info['version'])}</small></a>",
                '<button id="menu" aria-expanded="false" aria-controls="side">Contents</button></header>',
                '<nav id="side" aria-label="Addresses">',
                '<label class="find"><span>Search</span><input id="find" type="search" autocomplete="off" '
                'spellcheck="false" placeholder="Address, field, error" aria-keyshortcuts="/"><kbd>/</kbd>',
                '</label><p id="none" hidden>Nothing is called that.</p>',
                *(self._listed(tag, operations) for tag, operations in groups),
                '</nav><main id="main" tabindex="-1">',
                f'<section class="about" id="top"><h1>{title}</h1>{_prose(info["description"])}',
                '<p><a href="/v1/openapi.json">OpenAPI 3.1</a></p></section>',
                *(self._group(tag, operations) for tag, operations in groups),
                "</main></body></html>\n",
            ]
        )

    def _tagged(self, tag: str) -> Iterator[tuple[str, str, Json]]:
        for path, item in self._document["paths"].items():
            for method in METHODS:
                operation = item.get(method)
                if operation is not None and operation["tags"][:1] == [tag]:
                    yield method, path, operation

    def _listed(self, tag: Json, operations: Iterable[tuple[str, str, Json]]) -> str:
        items = "".join(
            f'<li><a href="#{operation["operationId"]}" data-words="{escape(self._words(path, operation))}">'
            f"{_method(method)}<span>{_breakable(path)}</span></a></li>"
            for method, path, operation in operations
        )
        return f"<section><h2>{escape(tag['name'])}</h2><ul>{items}</ul></section>"

    def _words(self, path: str, operation: Json) -> str:
        """What the search looks at: path, summary, parameters, fields, errors."""
        found = [path, operation["summary"], *(one["name"] for one in operation.get("parameters", []))]
        waiting, seen = [json.dumps(operation)], set()
        while waiting:
            for kind, name in re.findall(r'#/components/(\w+)/([^"]+)"', waiting.pop()):
                if name in seen:
                    continue
                seen.add(name)
                if kind == "schemas":
                    component = self._components[kind][name]
                    found += [name, *component.get("properties", {})]
                    waiting.append(json.dumps(component))
                else:
                    found += name.split(".")
        return " ".join(dict.fromkeys(" ".join(found).lower().split()))

    def _group(self, tag: Json, operations: Iterable[tuple[str, str, Json]]) -> str:
        inner = "".join(self._operation(method, path, operation) for method, path, operation in operations)
        return (
            f'<section class="group" id="tag-{escape(tag["name"])}"><h2>{escape(tag["name"])}</h2>'
            f"{_prose(tag['description'])}{inner}</section>"
        )

    def _operation(self, method: str, path: str, operation: Json) -> str:
        name = operation["operationId"]
        return "".join(
            [
                f'<article id="{name}" aria-labelledby="{name}-title">',
                f'<h3 id="{name}-title"><a class="anchor" href="#{name}">',
                f"{escape(operation['summary'])}</a></h3>",
                f'<p class="address">{_method(method)}<code>{_breakable(path)}</code></p>',
                '<div class="columns"><div>',
                _prose(operation["description"]),
                self._parameters(operation.get("parameters", [])),
                self._body(operation),
                self._answers(operation["responses"]),
                "</div>",
                self._example(method, path, operation),
                "</div></article>",
            ]
        )

    def _parameters(self, parameters: Iterable[Json]) -> str:
        rows = [
            self._field(
                one["name"],
                dict(one["schema"], description=one.get("description", "")),
                required=one["required"],
                place=one["in"],
                inside=(),
            )
            for one in parameters
        ]
        return f"<h4>Parameters</h4><ul class='fields'>{''.join(rows)}</ul>" if rows else ""

    def _body(self, operation: Json) -> str:
        body = operation.get("requestBody")
        if body is None:
            return ""
        media = next(iter(body["content"].values()))
        return f"<h4>Body</h4>{_types(body['content'])}{self._shape(media.get('schema', {}), ())}"

    def _answers(self, responses: Json) -> str:
        parts = ["<h4>Answers</h4>"]
        problems = []
        for status, response in responses.items():
            target = response.get("$ref", "")
            if target:
                found = self._components["responses"][target.removeprefix("#/components/responses/")]
                problems.append((status, found))
                continue
            parts.append(
                f'<details class="answer" open><summary><b class="s{status[0]}">{status}</b> '
                f"{escape(response['description'])}</summary>{self._given(response)}</details>"
            )
        lines = "".join(
            f"<li><b>{status}</b> {_prose(found['description'].partition(chr(10))[2])}</li>"
            for status, found in problems
        )
        parts.append(
            f'<details class="answer"><summary>Errors</summary><ul class="errors">{lines}</ul></details>'
        )
        return "".join(parts)

    def _given(self, response: Json) -> str:
        parts = [
            f"<p><code>{escape(name)}</code> {_inline(header['description'])}</p>"
            for name, header in response.get("headers", {}).items()
        ]
        for kind, media in response.get("content", {}).items():
            parts.append(_types([kind]) + self._shape(media.get("schema", {}), ()))
        return "".join(parts)

    # -- types --------------------------------------------------------------------------------------------

    def _shape(self, schema: Json, inside: tuple[str, ...]) -> str:
        """The fields of what ``schema`` holds, as nested lists."""
        names, found = self._resolved(schema)
        if any(name in inside for name in names) or len(inside) >= DEEPEST:
            return f"<p class='again'>As {escape(names[0])} above.</p>" if names else ""
        inside = (*inside, *names)
        parts = [_prose(found.get("description", ""))] if names else []
        parts += [self._shape(choice, inside) for choice in self._choices(found)]
        if "items" in found:
            parts.append(self._shape(found["items"], inside))
        if isinstance(found.get("additionalProperties"), dict):
            parts.append(self._shape(found["additionalProperties"], inside))
        rows = [
            self._field(name, one, required=name in found.get("required", ()), place="", inside=inside)
            for name, one in found.get("properties", {}).items()
        ]
        if rows:
            parts.append(f"<ul class='fields'>{''.join(rows)}</ul>")
        return "".join(parts)

    def _field(self, name: str, schema: Json, *, required: bool, place: str, inside: tuple[str, ...]) -> str:
        inner = self._shape({k: v for k, v in schema.items() if k != "description"}, inside)
        marks = [f'<span class="kind">{escape(self._kind(schema))}</span>']
        marks += [f'<span class="place">{place}</span>'] if place else []
        marks += ['<span class="must">required</span>'] if required else []
        marks += [f'<span class="bound">{escape(bound)}</span>' for bound in _bounds(schema)]
        about = _prose(schema.get("description", ""))
        head = f"<code>{escape(name)}</code> {' '.join(marks)}"
        if inner:
            return f"<li>{head}{about}<details><summary>fields</summary>{inner}</details></li>"
        return f"<li>{head}{about}</li>"

    def _resolved(self, schema: Json) -> tuple[tuple[str, ...], Json]:
        target = schema.get("$ref")
        if target is None:
            return (), schema
        name = target.rpartition("/")[2]
        return (name,), self._components["schemas"][name]

    def _choices(self, schema: Json) -> list[Json]:
        parts = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
        return [part for part in parts if part.get("type") != "null"]

    def _kind(self, schema: Json) -> str:
        names, found = self._resolved(schema)
        if names:
            return names[0]
        if "const" in found:
            return json.dumps(found["const"])
        if "enum" in found:
            return " | ".join(json.dumps(one) for one in found["enum"])
        choices = [*found.get("anyOf", ()), *found.get("oneOf", ())]
        if choices:
            return " | ".join(dict.fromkeys(self._kind(one) for one in choices))
        kind = found.get("type", "any")
        if kind == "array":
            return f"[{self._kind(found.get('items', {}))}]"
        return " | ".join(kind) if isinstance(kind, list) else str(kind)

    # -- examples -----------------------------------------------------------------------------------------

    def _example(self, method: str, path: str, operation: Json) -> str:
        target = path
        query = []
        lines: list[str] = []
        for one in operation.get("parameters", []):
            if not one["required"]:
                continue
            value = str(self._sample(one["schema"], one["name"], ()))
            if one["in"] == "path":
                target = target.replace("{" + one["name"] + "}", one["name"].upper())
            elif one["in"] == "query":
                query.append(f"{one['name']}={value}")
            else:
                lines.append(f"-H '{one['name']}: {value}'")
        target += "?" + "&".join(query) if query else ""
        if operation["security"]:
            lines.insert(0, '-H "Authorization: Bearer $TOKEN"')
        body = operation.get("requestBody")
        if body is not None:
            kind, media = next(iter(body["content"].items()))
            form = "form" in kind and "schema" in media
            if not form:
                lines.append(f"-H 'Content-Type: {kind if kind != '*/*' else 'application/octet-stream'}'")
            if form:
                sample = self._sample(media["schema"], "", ())
                lines += [f"--data-urlencode '{name}={value}'" for name, value in sample.items()] or ["-d ''"]
            elif "json" in kind:
                sample = self._sample(media.get("schema", {}), "", ())
                text = json.dumps(sample, indent=2, ensure_ascii=False)
                lines.append(f"-d '{text}'" if "'" not in text else "-d @body.json")
            else:
                lines.append("--data-binary @file")
        verb = "" if method == "get" or (method == "post" and body is not None) else f"-X {method.upper()} "
        first = f"curl {verb}'{ORIGIN}{escape(target)}'"
        text = " \\\n  ".join([first, *map(escape, lines)])
        return (
            '<div class="example"><button class="copy" type="button">Copy</button>'
            f'<pre tabindex="0" aria-label="Example"><code>{text}</code></pre></div>'
        )

    def _sample(self, schema: Json, name: str, inside: tuple[str, ...]) -> Any:
        """A value that fits ``schema``: what must be given, and no more."""
        names, found = self._resolved(schema)
        if len(inside) > DEEPEST or any(one in inside for one in names):
            return None
        inside = (*inside, *names)
        for key in ("example", "default", "const"):
            if found.get(key) is not None:
                return found[key]
        if "enum" in found:
            return found["enum"][0]
        choices = self._choices(found)
        if choices:
            return self._sample(choices[0], name, inside)
        match found.get("type"):
            case "object":
                fields = found.get("properties", {})
                wanted = found.get("required") or list(fields)[:3]
                return {one: self._sample(fields[one], one, inside) for one in wanted if one in fields}
            case "array":
                return [self._sample(found.get("items", {}), name, inside)]
            case "integer" | "number":
                return max(found.get("minimum", 1), 1)
            case "boolean":
                return True
            case "string":
                return {
                    "date-time": "2026-01-31T12:00:00Z",
                    "uuid": "018f4e9c-0000-7000-8000-000000000000",
                }.get(found.get("format", ""), name or "text")
            case _:
                return {}


def _method(method: str) -> str:
    return f'<b class="method {method}">{method.upper()}</b>'


def _breakable(path: str) -> str:
    return escape(path).replace("/", "/<wbr>")


def _types(kinds: Iterable[str]) -> str:
    return f"<p class='types'>{' '.join(f'<code>{escape(kind)}</code>' for kind in kinds)}</p>"


def _bounds(schema: Json) -> Iterator[str]:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "exclusiveMinimum": "more than {}",
        "exclusiveMaximum": "less than {}",
        "minLength": "{} characters or more",
        "maxLength": "at most {} characters",
        "minItems": "{} or more",
        "maxItems": "at most {} of them",
        "format": "{}",
    }
    for name, text in words.items():
        value = schema.get(name)
        if value is not None and not (name == "minLength" and value == 1) and abs(_number(value)) < 2**62:
            yield text.format(value)
    if schema.get("default") not in (None, "", [], {}):
        yield f"default {json.dumps(schema['default'])}"


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _prose(text: str) -> str:
    """The little Markdown that docstrings hold: paragraphs, lists, code."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines and all(line.startswith(("- ", "  ")) for line in lines):
            items = re.split(r"(?m)^- ", block)[1:]
            parts.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")
        elif lines:
            parts.append(f"<p>{_inline(block)}</p>")
    return "".join(parts)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(" ".join(text.split())))
