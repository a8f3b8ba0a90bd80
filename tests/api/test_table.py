"""The route table: which address answers, and what its parameters are."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from lowtide.api.table import QueryReader, Table
from lowtide.kernel.codec import Int64
from lowtide.kernel.errors import DeclarationError, Malformed, MethodNotAllowed, NotFound, UnknownParameter
from lowtide.kernel.http import Method, Request, Route


async def handler(request: Request[Any, Any]) -> None: ...


def route(method: Method, path: str, **options: Any) -> Route:
    return Route(method, path, handler, **options)


TABLE = Table(
    [
        route("GET", "/"),
        route("GET", "/a"),
        route("POST", "/a"),
        route("GET", "/a/{x}"),
        route("GET", "/a/b"),
        route("GET", "/a/{x}/c"),
        route("GET", "/a/b/d"),
        route("PUT", "/a/{x}/{y}"),
        route("GET", "/f/{rest:rest}"),
        route("GET", "/f/top"),
    ]
)


class TestFind:
    @pytest.mark.parametrize(
        ("method", "path", "template", "params"),
        [
            ("GET", "/", "/", {}),
            ("GET", "/a", "/a", {}),
            ("HEAD", "/a", "/a", {}),
            ("GET", "/a/b", "/a/b", {}),
            ("GET", "/a/z", "/a/{x}", {"x": "z"}),
            ("GET", "/a/b/c", "/a/{x}/c", {"x": "b"}),
            ("GET", "/a/b/d", "/a/b/d", {}),
            ("PUT", "/a/1/2", "/a/{x}/{y}", {"x": "1", "y": "2"}),
            ("GET", "/a/%2F", "/a/{x}", {"x": "/"}),
            ("GET", "/a/b%2Fc", "/a/{x}", {"x": "b/c"}),
            ("GET", "/a/%C3%BC", "/a/{x}", {"x": "ü"}),
            ("GET", "/a/%2e%2e", "/a/{x}", {"x": ".."}),
            ("GET", "/a/%25", "/a/{x}", {"x": "%"}),
            ("GET", "/a/100%", "/a/{x}", {"x": "100%"}),
            ("GET", "/a/a+b", "/a/{x}", {"x": "a+b"}),
            ("GET", "/f/top", "/f/top", {}),
            ("GET", "/f/x", "/f/{rest:rest}", {"rest": "x"}),
            ("GET", "/f/x/y//z", "/f/{rest:rest}", {"rest": "x/y//z"}),
        ],
    )
    def test_a_path_finds_its_route(
        self, method: str, path: str, template: str, params: dict[str, str]
    ) -> None:
        """Literals win over parameters, and a parameter is one decoded segment."""
        served, found = TABLE.find(method, path)
        assert served.route.path == template
        assert found == params

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "a",
            "//",
            "/a/",
            "/A",
            "/a//",
            "/a/b/",
            "//a",
            "/nope",
            "/f",
            "/f/",
            "/a/b/c/d",
            "*",
            "/%61",
            "/a/x/",
        ],
    )
    def test_nothing_else_is_found(self, path: str) -> None:
        """No guessing: another case, a trailing slash or an escaped letter is another address."""
        with pytest.raises(NotFound):
            TABLE.find("GET", path)

    @pytest.mark.parametrize("path", ["/a/%FF", "/a/%00", "/a/x%0A", "/a/%7F", "/a/%C3"])
    def test_a_parameter_is_text(self, path: str) -> None:
        """What is not UTF-8, or holds a control character, reaches no handler and no database."""
        with pytest.raises(Malformed):
            TABLE.find("GET", path)

    @pytest.mark.parametrize(
        ("method", "path", "known"),
        [
            ("DELETE", "/a", ["GET", "HEAD", "POST", "OPTIONS"]),
            ("POST", "/a/x", ["GET", "HEAD", "OPTIONS"]),
            ("GET", "/a/1/2", ["PUT", "OPTIONS"]),
            ("HEAD", "/a/1/2", ["PUT", "OPTIONS"]),
            ("X" * 5000, "/a", ["GET", "HEAD", "POST", "OPTIONS"]),
        ],
    )
    def test_another_method_is_told_which_are_known(self, method: str, path: str, known: list[str]) -> None:
        """405 names the methods that the address has; HEAD comes with GET."""
        with pytest.raises(MethodNotAllowed) as caught:
            TABLE.find(method, path)
        assert caught.value.details["allowed"] == known
        assert len(caught.value.message) < 100

    def test_a_deep_path_ends(self) -> None:
        """The longest path that a request line can hold is answered, not recursed into."""
        with pytest.raises(NotFound):
            TABLE.find("GET", "/a" * 16_000)


class TestDeclaration:
    @pytest.mark.parametrize(
        "routes",
        [
            [route("GET", "/a"), route("GET", "/a")],
            [route("GET", "/a/{x}"), route("GET", "/a/{y}")],
            [route("GET", "a")],
            [route("GET", "/{a}{b}")],
            [route("GET", "/x{a}")],
            [route("GET", "/{A}")],
            [route("GET", "/{a}/{a}")],
            [route("GET", "/{a:rest}/b")],
            [route("GET", "/{a:int}")],
            [route("GET", "/a", body=dict)],
            [route("POST", "/a", body=dict, max_body=0)],
            [route("GET", "/a", deadline=0)],
        ],
    )
    def test_a_table_that_cannot_work_is_refused(self, routes: list[Route]) -> None:
        """Mistakes are found when the server starts, not when a request comes."""
        with pytest.raises(DeclarationError):
            Table(routes)

    def test_a_parameter_must_fit_a_database(self) -> None:
        """An integer without bounds would let a request make the database fail."""

        class Wild(msgspec.Struct):
            n: int | None = None

        class Low(msgspec.Struct):
            n: list[Annotated[int, msgspec.Meta(ge=0)]] = []

        for kind in (Wild, Low):
            with pytest.raises(DeclarationError):
                QueryReader(kind)


class Filter(msgspec.Struct, rename={"from_": "from"}):
    limit: Int64 = 10
    ratio: float = 0.5
    name: str | None = None
    tags: list[str] = []
    deep: bool = False
    from_: str = ""


class TestQuery:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (b"", Filter()),
            (b"limit=5", Filter(limit=5)),
            (b"limit=-9223372036854775808", Filter(limit=-(2**63))),
            (b"ratio=1e3", Filter(ratio=1000.0)),
            (b"name=", Filter(name="")),
            (b"name=a+b%20c", Filter(name="a b c")),
            (b"name=%C3%BC%26", Filter(name="ü&")),
            (b"tags=a&tags=b", Filter(tags=["a", "b"])),
            (b"tags=a", Filter(tags=["a"])),
            (b"deep=true", Filter(deep=True)),
            (b"from=x", Filter(from_="x")),
            (b"&&limit=1&", Filter(limit=1)),
        ],
    )
    def test_a_query_is_read(self, raw: bytes, expected: Filter) -> None:
        """Each parameter becomes the field of its name and type."""
        assert QueryReader(Filter).read(raw) == expected

    @pytest.mark.parametrize(
        "raw",
        [
            b"limit=x",
            b"limit=",
            b"limit=1.5",
            b"limit=9223372036854775808",
            b"limit=" + b"9" * 5000,
            b"limit=1&limit=2",
            b"ratio=x",
            b"deep=maybe",
            b"name=%FF",
            b"name=%00",
            b"name=\xff",
            b"tags=%00",
            b"&".join([b"tags=a"] * 65),
        ],
    )
    def test_a_bad_query_is_refused(self, raw: bytes) -> None:
        """Another type, twice, not UTF-8, NUL, too many: 400, and no guess."""
        with pytest.raises(Malformed):
            QueryReader(Filter).read(raw)

    @pytest.mark.parametrize("raw", [b"limti=5", b"x", b"from_=x", b"limit=1&x=2", b"=1"])
    def test_an_unknown_parameter_is_refused(self, raw: bytes) -> None:
        """A typing mistake is told, with the names that are known."""
        with pytest.raises(UnknownParameter) as caught:
            QueryReader(Filter).read(raw)
        assert caught.value.details["known"] == ["deep", "from", "limit", "name", "ratio", "tags"]

    def test_a_route_without_a_query_takes_none(self) -> None:
        """Where nothing is declared, nothing is accepted."""
        assert QueryReader(None).read(b"") is None
        with pytest.raises(UnknownParameter):
            QueryReader(None).read(b"a=1")
