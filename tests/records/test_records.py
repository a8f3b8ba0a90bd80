"""Single records over REST: the same records, rules and merges that devices have."""

from __future__ import annotations

from typing import Any

import pytest

from tests.records.conftest import Rest

pytestmark = pytest.mark.anyio

TASK = {"team_id": "red", "title": "Mend the roof"}


async def test_a_record_is_created_and_read_with_its_values_as_functions_see_them(rest: Rest) -> None:
    """201 with Location and ETag; booleans, arrays and objects are JSON's own, former names stand beside."""
    sent = {
        **TASK,
        "tags": ["b", "a"],
        "urgent": True,
        "extra": "{}",
        "due": "2026-03-01T10:00:00+02:00",
    }
    answer = await rest.post("ann", "/v1/records/task", {"id": "t1", "data": sent})
    assert (answer.status, answer.headers["location"]) == (201, "/v1/records/task/t1")
    made = answer.json()
    assert answer.headers["etag"] == f'"{made["etag"]}"'
    assert made["created"] == made["updated"] == "2026-09-21T14:13:20.000Z"
    data = made["data"]
    assert data["urgent"] is True
    assert data["approved"] is False
    assert (sorted(data["tags"]), data["steps"], data["extra"]) == (["a", "b"], [], "{}")
    assert data["due"] == "2026-03-01T08:00:00.000Z"
    assert (data["notes"], data["remark"], data["votes"], data["price"]) == ("", "", 0, None)
    read = await rest.get("ann", "/v1/records/task/t1")
    assert (read.status, read.json(), read.headers["etag"]) == (200, made, answer.headers["etag"])
    assert read.headers["cache-control"] == "private, no-cache"


async def test_an_id_is_made_for_a_record_without_one(rest: Rest) -> None:
    """It is in the answer and in Location, and leads to the record."""
    answer = await rest.post("ann", "/v1/records/task", {"data": TASK})
    assert len(answer.json()["id"]) == 36
    assert (await rest.get("bob", answer.headers["location"])).json() == answer.json()


async def test_an_id_with_odd_characters_is_reached_by_its_location(rest: Rest) -> None:
    """Whatever is printable may be an id; the address escapes it."""
    answer = await rest.post("ann", "/v1/records/task", {"id": "a/b ?%é#", "data": TASK})
    assert answer.headers["location"] == "/v1/records/task/a%2Fb%20%3F%25%C3%A9%23"
    assert (await rest.get("ann", answer.headers["location"])).json()["id"] == "a/b ?%é#"


@pytest.mark.parametrize("who", ["eve", "ann@acme", "server@acme", "dev:eve"])
async def test_a_record_that_is_not_received_does_not_exist(rest: Rest, who: str) -> None:
    """Not to be read, changed or deleted: 404 for another team, another space, even another's server."""
    await rest.made("ann", "task", "t1", **TASK)
    before = (await rest.get("ann", "/v1/records/task/t1")).json()
    missing = await rest.get(who, "/v1/records/task/nope")
    answers = [
        await rest.get(who, "/v1/records/task/t1"),
        await rest.get(who, "/v1/records/task/t1", if_none_match=f'"{before["etag"]}"'),
        await rest.patch(who, "/v1/records/task/t1", {"data": {"title": "mine"}}),
        await rest.patch(who, "/v1/records/task/t1", {"data": {"title": "mine"}}, if_match='"1"'),
        await rest.patch(who, "/v1/records/task/t1", {"data": {"approved": True}}),
        await rest.delete(who, "/v1/records/task/t1"),
        await rest.delete(who, "/v1/records/task/t1", if_match='"1"'),
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "not_found")}
    shown = answers[0].json()["detail"].replace("t1", "nope")
    assert shown == missing.json()["detail"]
    assert (await rest.get("ann", "/v1/records/task/t1")).json() == before


@pytest.mark.parametrize("who", [None, "nobody", "ann@"])
async def test_nobody_reads_or_writes_without_a_token(rest: Rest, who: str | None) -> None:
    """401 before anything is looked at, but for a space's default."""
    await rest.made("ann", "task", "t1", **TASK)
    expected = 200 if who == "ann@" else 401
    assert (await rest.get(who, "/v1/records/task/t1")).status == expected
    sent = {"id": "t2", "data": TASK}
    assert (await rest.post(who, "/v1/records/task", sent)).status == (201 if who == "ann@" else 401)


async def test_what_somebody_may_put_in_but_not_see_stays_unseen(rest: Rest) -> None:
    """The answer has the id and no content; it cannot be read, changed or deleted afterwards."""
    answer = await rest.post("ann", "/v1/records/dropbox", {"id": "d", "data": {"text": "hello"}})
    assert (answer.status, answer.json()) == (201, {"id": "d", "data": None})
    assert "etag" not in answer.headers
    for who in ("ann", "eve"):
        assert (await rest.get(who, "/v1/records/dropbox/d")).status == 404
        assert (await rest.patch(who, "/v1/records/dropbox/d", {"data": {"text": "x"}})).status == 404
        assert (await rest.delete(who, "/v1/records/dropbox/d")).status == 404
    again = await rest.post("eve", "/v1/records/dropbox", {"id": "d", "data": {"text": "guess"}})
    assert (again.status, again.code) == (409, "conflict")
    assert "hello" not in again.body.decode()
    assert (await rest.get("server", "/v1/records/dropbox/d")).json()["data"] == {"text": "hello"}


async def test_a_record_that_leaves_its_writers_sight_is_not_shown_to_it(rest: Rest) -> None:
    """Moved into a team that the writer is not in: refused by the rule, and done by the server unseen."""
    await rest.made("ann", "draft", "d", owner_id="ann", body="b")
    refused = await rest.patch("ann", "/v1/records/draft/d", {"data": {"owner_id": "eve"}})
    assert (refused.status, refused.code) == (403, "forbidden")
    moved = await rest.patch("server", "/v1/records/draft/d", {"data": {"owner_id": "eve"}})
    assert moved.json()["data"]["owner_id"] == "eve"
    assert (await rest.get("ann", "/v1/records/draft/d")).status == 404
    assert (await rest.get("eve", "/v1/records/draft/d")).status == 200


async def test_what_a_subscription_would_bring_can_be_read(rest: Rest) -> None:
    """A stream of any topic opens its records to all of the space, one within a lookup to who holds it."""
    await rest.made("server", "article", "a", topic="sea", body="tide")
    await rest.made("server", "article", "b", body="no topic")
    await rest.made("server", "minute", "m", team_id="red", body="secret")
    assert (await rest.get("eve", "/v1/records/article/a")).status == 200
    assert (await rest.get("eve", "/v1/records/article/b")).status == 404
    assert (await rest.get("ann", "/v1/records/minute/m")).status == 200
    assert (await rest.get("eve", "/v1/records/minute/m")).status == 404


async def test_a_catalogue_of_another_space_is_read_and_not_written(rest: Rest) -> None:
    """Every space reads it; what the user's own space has under that model is not in the stream."""
    await rest.made("server@atlas", "city", "oslo", name="Oslo")
    await rest.made("server", "city", "home", name="Home")
    for who in ("ann", "ann@acme"):
        assert (await rest.get(who, "/v1/records/city/oslo")).json()["data"]["name"] == "Oslo"
        assert (await rest.get(who, "/v1/records/city/home")).status == 404
        assert (await rest.patch(who, "/v1/records/city/oslo", {"data": {"name": "Mine"}})).status == 404
        assert (await rest.delete(who, "/v1/records/city/oslo")).status == 404
    assert (await rest.get("server", "/v1/records/city/oslo")).status == 404


@pytest.mark.parametrize("model", ["relic", "lowtide_commands", "lowtide_rejections", "nope", "Task"])
async def test_only_declared_models_have_an_address(rest: Rest, model: str) -> None:
    """Removed models, the devices' own and unknown ones: 404 for everybody, the server among them."""
    for who in ("ann", "server"):
        assert (await rest.get(who, f"/v1/records/{model}/x")).status == 404
        assert (await rest.post(who, f"/v1/records/{model}", {"data": {}})).status == 404
        assert (await rest.patch(who, f"/v1/records/{model}/x", {"data": {}})).status == 404
        assert (await rest.delete(who, f"/v1/records/{model}/x")).status == 404


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ({**TASK, "admin": True}, 422, "invalid"),
        ({**TASK, "id": "x"}, 422, "invalid"),
        ({**TASK, "op": 1}, 422, "invalid"),
        ({**TASK, "created": "2020-01-01"}, 422, "invalid"),
        ({**TASK, "title": 5}, 422, "invalid"),
        ({**TASK, "title": "x" * 81}, 422, "invalid"),
        ({**TASK, "notes": "a", "remark": "b"}, 422, "invalid"),
        ({**TASK, "estimate": 1.5}, 422, "invalid"),
        ({"team_id": "red"}, 422, "invalid"),
        ({**TASK, "title": None}, 422, "invalid"),
        ({**TASK, "approved": True}, 403, "forbidden"),
        ({**TASK, "team_id": "blue"}, 403, "forbidden"),
        ({**TASK, "extra": "x" * 300_000}, 413, "too_large"),
    ],
)
async def test_content_that_is_not_allowed_is_refused(
    rest: Rest, data: dict[str, Any], status: int, code: str
) -> None:
    """Unknown fields, wrong values, what only the server writes, another's team: and nothing is created."""
    answer = await rest.post("ann", "/v1/records/task", {"id": "t", "data": data})
    assert (answer.status, answer.code) == (status, code), answer.body
    assert (await rest.get("server", "/v1/records/task/t")).status == 404


async def test_the_server_writes_what_only_the_server_writes(rest: Rest) -> None:
    """And a user may send such a field back as it stands."""
    made = await rest.made("server", "task", "t", **TASK, approved=True)
    assert made["data"]["approved"] is True
    same = await rest.patch("ann", "/v1/records/task/t", {"data": {"approved": True, "title": "New"}})
    assert (same.status, same.json()["data"]["title"]) == (200, "New")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data":[]}', b'{"data":{},"more":1}', b'{"id":5,"data":{}}'])
async def test_a_body_of_another_shape_is_malformed(rest: Rest, body: bytes) -> None:
    """400, in words."""
    headers = {"content-type": "application/json"}
    answer = await rest.client.post("/v1/records/task", body=body, headers=headers, token="ann")
    assert (answer.status, answer.code) == (400, "malformed")


async def test_the_same_creation_again_changes_nothing(rest: Rest) -> None:
    """201, then 200 with the same record; other content under the id is a conflict."""
    sent = {"id": "t", "data": TASK}
    first = await rest.post("ann", "/v1/records/task", sent)
    second = await rest.post("ann", "/v1/records/task", sent)
    assert (first.status, second.status) == (201, 200)
    assert (second.json(), second.headers["etag"]) == (first.json(), first.headers["etag"])
    other = await rest.post("ann", "/v1/records/task", {"id": "t", "data": {**TASK, "title": "Other"}})
    assert (other.status, other.code) == (409, "conflict")
    hidden = await rest.post("eve", "/v1/records/task", {"id": "t", "data": {**TASK, "team_id": "blue"}})
    assert (hidden.status, hidden.code) == (409, "conflict")
    assert (await rest.get("ann", "/v1/records/task/t")).json() == first.json()


async def test_what_the_app_refuses_says_so(rest: Rest) -> None:
    """A hook's code and hint are in the answer, and no code of its own is taken for one of ours."""
    rude = await rest.post("ann", "/v1/records/handle", {"data": {"name": "rude one"}})
    assert (rude.status, rude.code) == (409, "conflict")
    assert (rude.json()["refusal"], rude.json()["hint"]) == ("rude", "Choose another name.")
    await rest.made("ann", "handle", "h", name="anna")
    taken = await rest.post("eve", "/v1/records/handle", {"data": {"name": "anna"}})
    assert (taken.status, taken.code) == (409, "not_unique")


async def test_a_change_with_a_stale_etag_is_refused(rest: Rest) -> None:
    """412, and nothing is written; with the present one it is exact, and leaves no conflict behind."""
    made = await rest.made("ann", "task", "t", **TASK, tags=["a", "b"])
    old = f'"{made["etag"]}"'
    done = await rest.patch("bob", "/v1/records/task/t", {"data": {"tags": ["b"]}}, if_match=old)
    assert (done.status, done.json()["data"]["tags"]) == (200, ["b"])
    assert done.headers["etag"] != old
    for stale in (old, f"W/{done.headers['etag']}", '"x"', '""', '"18446744073709551616"'):
        late = await rest.patch("ann", "/v1/records/task/t", {"data": {"title": "Late"}}, if_match=stale)
        assert (late.status, late.code) == (412, "precondition_failed"), stale
        gone = await rest.delete("ann", "/v1/records/task/t", if_match=stale)
        assert (gone.status, gone.code) == (412, "precondition_failed")
    either = f"{old}, {done.headers['etag']}"
    assert (await rest.patch("ann", "/v1/records/task/t", {"data": {}}, if_match=either)).status == 200
    assert (await rest.patch("ann", "/v1/records/task/t", {"data": {}}, if_match="*")).status == 200
    assert (await rest.patch("ann", "/v1/records/task/no", {"data": {}}, if_match="*")).status == 404
    assert (await rest.delete("ann", "/v1/records/task/t", if_match=either)).status == 204
    server = rest.engine.who("server")
    assert await rest.engine.sync.journal.entries(server, "task", "t") == []


@pytest.mark.parametrize("header", ["", "5", '"a" "b"', ",".join(['"1"'] * 21), '"a', "W/*"])
async def test_an_if_match_that_cannot_be_read_is_never_ignored(rest: Rest, header: str) -> None:
    """400 or 412, and the record stays: a broken condition is not the absence of one."""
    await rest.made("ann", "task", "t", **TASK)
    answer = await rest.delete("ann", "/v1/records/task/t", if_match=header)
    assert answer.status in (400, 412)
    assert (await rest.get("ann", "/v1/records/task/t")).status == 200


async def test_an_unchanged_record_is_not_sent_again(rest: Rest) -> None:
    """304 for its ETag, weak or strong, in a list or as *; the whole record for another."""
    tag = f'"{(await rest.made("ann", "task", "t", **TASK))["etag"]}"'
    for known in (tag, f"W/{tag}", f'"1", {tag}', "*"):
        answer = await rest.get("ann", "/v1/records/task/t", if_none_match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert (await rest.get("ann", "/v1/records/task/t", if_none_match='"1"')).status == 200
    await rest.patch("bob", "/v1/records/task/t", {"data": {"title": "New"}})
    assert (await rest.get("ann", "/v1/records/task/t", if_none_match=tag)).json()["data"]["title"] == "New"


async def test_a_change_with_its_base_merges_as_a_devices_does(rest: Rest) -> None:
    """Counters add up, sets keep both sides; without base the value lost is in the conflict journal."""
    await rest.made("ann", "task", "t", **TASK, votes=1, tags=["a"])
    change = {"data": {"votes": 2, "tags": ["a", "b"]}, "base": {"votes": 1, "tags": ["a"]}}
    await rest.patch("ann", "/v1/records/task/t", change)
    change = {"data": {"votes": 2, "tags": ["a", "c"]}, "base": {"votes": 1, "tags": ["a"]}}
    merged = (await rest.patch("bob", "/v1/records/task/t", change)).json()["data"]
    assert (merged["votes"], sorted(merged["tags"])) == (3, ["a", "b", "c"])
    await rest.patch("bob", "/v1/records/task/t", {"data": {"title": "Blind"}})
    lost = await rest.engine.sync.journal.entries(rest.engine.who("ann"), "task", "t")
    assert [(entry.field, entry.lost, entry.won) for entry in lost] == [("title", "Mend the roof", "Blind")]


async def test_a_deleted_record_is_gone_until_it_is_created_anew(rest: Rest) -> None:
    """204, then 404 for every way to it; its id may be used again."""
    await rest.made("ann", "task", "t", **TASK)
    assert (await rest.delete("bob", "/v1/records/task/t")).status == 204
    assert (await rest.get("ann", "/v1/records/task/t")).status == 404
    assert (await rest.delete("ann", "/v1/records/task/t")).status == 404
    assert (await rest.patch("ann", "/v1/records/task/t", {"data": {"title": "x"}})).status == 404
    assert (await rest.post("ann", "/v1/records/task", {"id": "t", "data": TASK})).status == 201


async def test_why_it_was_denied_is_told_to_developers_alone(rest: Rest) -> None:
    """The rule, or the streams and the keys that are held; nothing of it for anybody else."""
    await rest.made("ann", "task", "t", **TASK)
    told = (await rest.get("dev:eve", "/v1/records/task/t")).json()["why"]
    assert told["rule"] == "streams"
    assert {"stream": "team", "by": "team_id", "keys": ['"blue"'], "any_key": False} in told["streams"]
    sent = {"data": TASK}
    refused = await rest.post("dev:eve", "/v1/records/task", sent)
    assert refused.json()["why"] == {
        "rule": 'member("team", "team_id")',
        "reason": "the write rule of task says no",
        "user": "eve",
        "streams": [{"stream": "team", "keys": ['"blue"'], "any_key": False}],
    }
    assert "why" not in (await rest.get("eve", "/v1/records/task/t")).json()
    assert "why" not in (await rest.post("eve", "/v1/records/task", sent)).json()


async def test_devices_and_rest_see_each_others_writes(rest: Rest) -> None:
    """What a device uploads is read here; what is written here is in the device's next download."""
    engine = rest.engine
    made = {"op": "put", "model": "task", "id": "p", "data": {**TASK, "urgent": 1}}
    await engine.upload("ann", made)
    read = (await rest.get("bob", "/v1/records/task/p")).json()
    assert (read["data"]["title"], read["data"]["urgent"]) == ("Mend the roof", True)
    await rest.patch("bob", "/v1/records/task/p", {"data": {"urgent": False}}, if_match=f'"{read["etag"]}"')
    await rest.made("bob", "task", "r", **TASK)
    rows = await engine.rows("ann")
    assert rows[("task", "p")]["urgent"] == 0
    assert rows[("task", "r")]["title"] == "Mend the roof"
    assert ("task", "r") not in await engine.rows("eve")
    await rest.delete("bob", "/v1/records/task/r")
    assert ("task", "r") not in await engine.rows("ann")
