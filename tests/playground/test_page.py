"""The playground as it is served: by whom, to whom, with which headers, and built from which sources."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lowtide import App, Counter, Model, Text, me, member, owner
from lowtide.app import Lowtide
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.files import folder_of
from lowtide.kernel.ids import SystemIds
from lowtide.playground.view import MAX_SHOWN, TEAM, look
from lowtide.settings import Settings
from tests.api.client import Client
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
PAGE = folder_of("lowtide.playground") / "page"
FILES = sorted(path.name.removesuffix(".gz") for path in PAGE.glob("*.gz"))
NAMES = "/playground", "/playground/phone/a", "/playground/app.json", "/playground/server"

app = App("places")


@app.model
class Membership(Model):
    team_id = Text()
    user_id = Text()
    write = owner("team_id")


@app.model
class Place(Model):
    team_id = Text()
    name = Text()
    visits = Counter()
    write = member("team", "team_id")


@app.model
class Visit(Model):
    user_id = Text()
    write = owner("user_id")


app.stream("mine", carries={Visit: "user_id"}, keys=me)
app.stream(
    "team",
    carries={Membership: "team_id", Place: "team_id"},
    keys=Membership.where(user_id=me).team_id,
)


def build(folder: Path, *, dev: bool, database: str = "") -> Lowtide:
    clock = SystemClock()
    store = database or str(folder / "data.db")
    settings = Settings(database=store, secret_key=SECRET_KEY, rate_limits=0)
    return Lowtide(settings, app, clock, SystemIds(clock), dev=dev)


@pytest.fixture
def built(tmp_path: Path) -> Lowtide:
    """As ``lowtide dev`` has it. Compiling an app reads its source: not on a loop."""
    return build(tmp_path, dev=True)


@pytest.fixture
async def backend(built: Lowtide) -> AsyncIterator[Lowtide]:
    await built.start()
    yield built
    await built.stop()


@pytest.fixture
def client(backend: Lowtide) -> Client:
    return Client(backend.asgi)


async def files_at(client: Client) -> str:
    """Where the page's files are, as the page says it."""
    page = await client.get("/playground")
    assert page.status == 200
    return page.body.decode().partition('href="/playground/files/')[2].partition("/")[0]


class TestWhere:
    @pytest.fixture
    def production(self, tmp_path: Path) -> Lowtide:
        return build(tmp_path, dev=False)

    async def test_production_has_none_of_it(self, production: Lowtide) -> None:
        """What 'lowtide serve' serves knows no playground, and gives nobody a token for the asking."""
        await production.start()
        client = Client(production.asgi)
        for address in NAMES:
            assert (await client.get(address)).status == 404
        assert (await client.post("/playground/token", json={"user": "ann"})).status == 404
        await production.stop()

    @pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::1", ""])
    async def test_it_answers_to_this_machine_alone(self, backend: Lowtide, peer: str) -> None:
        """A phone on the network, or a peer without an address, gets no page and no token."""
        client = Client(backend.asgi, peer=peer)
        for address in NAMES:
            assert (await client.get(address)).code == "forbidden"
        answer = await client.post("/playground/token", json={"user": "ann", "server": True})
        assert answer.code == "forbidden"
        assert b"eyJ" not in answer.body

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
    async def test_pages_of_other_origins_get_no_token(self, client: Client, site: str) -> None:
        """Another page in the developer's browser is on this machine, too: the browser says whose it is."""
        headers = {"sec-fetch-site": site, "origin": "http://localhost:3000"}
        answer = await client.post("/playground/token", json={"user": "ann"}, headers=headers)
        assert answer.code == "forbidden"

    @pytest.mark.parametrize("user", ["", "Ann", "a/b", "x" * 65, "a b", 7, None])
    async def test_a_token_is_for_a_plain_name(self, client: Client, user: object) -> None:
        """What cannot be one of the page's users is malformed, and signs nothing."""
        answer = await client.post("/playground/token", json={"user": user})
        assert answer.status == 400

    async def test_a_token_is_whose_it_says(self, client: Client) -> None:
        """A user's token is no server's."""
        asked = await client.post("/playground/token", json={"user": "ann"})
        token = asked.json()["token"]
        assert (await client.get("/v1/sync/conflicts", token=token)).status == 403
        asked = await client.post("/playground/token", json={"user": "ann", "server": True})
        assert (await client.get("/v1/sync/conflicts", token=asked.json()["token"])).status == 200


class TestFiles:
    async def test_each_has_its_type_and_is_kept_for_ever(self, client: Client) -> None:
        """A browser asks once for each version, and is sent the packed bytes as they are."""
        version = await files_at(client)
        types = {"css": "text/css", "js": "text/javascript", "wasm": "application/wasm", "txt": "text/plain"}
        assert {name.rpartition(".")[2] for name in FILES} == set(types)
        for name in FILES:
            address = f"/playground/files/{version}/{name}"
            answer = await client.get(address, headers={"accept-encoding": "br, gzip"})
            assert answer.headers["content-type"].startswith(types[name.rpartition(".")[2]]), name
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.headers["vary"] == "accept-encoding"
            plain = await client.get(address)
            assert "content-encoding" not in plain.headers
            assert plain.body == gzip.decompress(answer.body)
            again = await client.get(address, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status, again.body) == (304, b"")

    @pytest.mark.parametrize(
        "path", ["0" * 16 + "/shell.js", "{}/index.html", "{}/..%2Froutes.py", "{}/no.js"]
    )
    async def test_there_are_no_others(self, client: Client, path: str) -> None:
        """Another version, or a file beside them, is not found, and never kept."""
        answer = await client.get(f"/playground/files/{path.replace('{}', await files_at(client))}")
        assert answer.status == 404
        assert answer.headers["cache-control"] == "no-store"

    async def test_web_assembly_is_for_the_worker_alone(self, client: Client) -> None:
        """Each page may load its own files only, and nothing inline; one file may compile, and no page."""
        version = await files_at(client)
        for address in NAMES[:2]:
            page = await client.get(address)
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert page.headers["cache-control"] == "no-cache"
            assert b"<script>" not in page.body
            assert b"style=" not in page.body
        allowed = []
        for name in FILES:
            answer = await client.get(f"/playground/files/{version}/{name}")
            if "wasm-unsafe-eval" in answer.headers["content-security-policy"]:
                allowed.append(name)
        assert allowed == ["worker.js"]

    async def test_there_are_three_phones(self, client: Client) -> None:
        """The address of a fourth one is none."""
        assert [(await client.get(f"/playground/phone/{name}")).status for name in "abcd"] == [
            200,
            200,
            200,
            404,
        ]


class TestView:
    async def test_it_follows_the_head(self, client: Client) -> None:
        """A line says what the server holds at once, and again when a record has changed."""
        asked = await client.post("/playground/token", json={"user": "x", "server": True})
        token = asked.json()["token"]
        async with client.open("GET", "/playground/server") as call:
            assert (await call.next())["status"] == 200
            first = json.loads(await call.line())
            assert first["records"] == {"membership": [], "place": [], "visit": []}
            content = {"id": "p1", "data": {"team_id": TEAM, "name": "Pier"}}
            await client.post("/v1/records/place", json=content, token=token)
            then = json.loads(await call.line())
            call.leave()
        assert then["head"] > first["head"]
        assert [one["data"]["name"] for one in then["records"]["place"]] == ["Pier"]

    @pytest.fixture
    def stored(self, dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Lowtide:
        """On each database."""
        if dialect == "sqlite":
            return build(tmp_path, dev=True)
        return build(tmp_path, dev=True, database=request.getfixturevalue("postgres_dsn"))

    async def test_it_shows_some_of_many_and_nothing_of_others(self, stored: Lowtide) -> None:
        """However much a developer has stored, the page finds its own team's records, and no more of them."""
        await stored.start()
        client = Client(stored.asgi)
        asked = await client.post("/playground/token", json={"user": "x", "server": True})
        teams = ["red"] * (MAX_SHOWN + 1) + [TEAM] * (MAX_SHOWN + 1)
        writes = [
            {"op": "create", "model": "place", "id": f"p{n:03}", "data": {"team_id": team, "name": "Pier"}}
            for n, team in enumerate(teams)
        ]
        await client.post("/v1/records", json={"writes": writes}, token=asked.json()["token"])
        writes = [
            {"op": "create", "model": "visit", "id": id, "data": {"user_id": "ann"}}
            for id in ("a", "playground", "playground-1", "playground-2", "playgrounds", "z")
        ]
        await client.post("/v1/records", json={"writes": writes}, token=asked.json()["token"])
        seen = await look(stored.sync)
        await stored.stop()
        assert [one.data["team_id"] for one in seen.records["place"]] == [TEAM] * MAX_SHOWN
        assert [one.id for one in seen.records["visit"]] == ["playground-1", "playground-2"]

    async def test_it_calls_users_by_their_addresses(self, stored: Lowtide) -> None:
        """A guest has none; and nobody but the developer is told."""
        await stored.start()
        client = Client(stored.asgi)
        guest = (await client.post("/v1/auth/anonymous", json={})).json()["user"]["id"]
        seen = await look(stored.sync)
        await stored.stop()
        assert seen.people == {guest: ""}

    async def test_the_page_learns_what_the_app_declares(self, client: Client) -> None:
        """Tables for the phones, and how each field merges: it can say what an app lacks."""
        facts = (await client.get("/playground/app.json")).json()
        assert facts["name"] == "places"
        assert facts["merges"]["place"] == {"team_id": "latest", "name": "latest", "visits": "counter"}
        assert {table["name"] for table in facts["tables"]} >= {"membership", "place", "lowtide_rejections"}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built from the sources that are here."""
    folder = tmp_path_factory.mktemp("page")
    command = ["node", str(ROOT / "clients/playground/build.mjs"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return folder


class TestBuild:
    def test_what_is_committed_is_built_from_these_sources(self, again: Path) -> None:
        """'make playground' gives the same files again, to the byte: nobody has to believe a bundle."""
        assert {path.name for path in again.iterdir()} == {path.name for path in PAGE.iterdir()}
        for path in again.iterdir():
            built, committed = path.read_bytes(), (PAGE / path.name).read_bytes()
            if path.suffix == ".gz":  # another version of zlib may pack otherwise
                built, committed = gzip.decompress(built), gzip.decompress(committed)
            assert built == committed, f"{path.name}: run 'make playground'"

    def test_the_sources_have_types(self) -> None:
        """What TypeScript checks holds."""
        command = [str(ROOT / "node_modules/.bin/tsc"), "-p", str(ROOT / "clients/playground")]
        found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
        assert found.returncode == 0, found.stdout

    def test_the_licences_of_what_is_in_it_lie_beside_it(self) -> None:
        """Every package that went into the bundle is named with its version and the text of its licence."""
        notice = gzip.decompress((PAGE / "NOTICE.txt.gz").read_bytes()).decode()
        for name in ("@powersync/web", "@powersync/common", "@journeyapps/wa-sqlite", "comlink", "preact"):
            assert f"\n{name} " in notice
        assert "Apache License" in notice
        assert "The MIT License" in notice
        assert "Licensed under" not in notice.replace("Licensed under the Apache License", "")

    def test_it_stays_small(self) -> None:
        """One WebAssembly, and all of it in less than 0.7 MB, in every wheel."""
        sizes = {path.name: path.stat().st_size for path in PAGE.iterdir()}
        assert [name for name in sizes if "wasm" in name] == ["wa-sqlite.wasm.gz"]
        assert sum(sizes.values()) < 700_000
