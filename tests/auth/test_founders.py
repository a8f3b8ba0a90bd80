"""The app that ``lowtide new`` writes: a guest who founds a team takes it along into an account."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowtide.app import Lowtide
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.templates import app as starter
from tests.api.client import Client
from tests.auth.test_account_routes import enter
from tests.auth.test_merging import Change, Shop, batch
from tests.auth.world import ask_for, code
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio


@pytest.fixture
def built(tmp_path: Path) -> Lowtide:
    """Compiling an app reads its source: not on a loop."""
    clock = SystemClock()
    settings = Settings(database=str(tmp_path / "data.db"), secret_key=SECRET_KEY, rate_limits=0)
    return Lowtide(settings, starter.app, clock, SystemIds(clock))


def founding(user: str, name: str) -> list[Change]:
    """What a phone writes when its user begins a list."""
    return [
        ("put", "membership", f"m-{name}", {"team_id": user, "user_id": user}),
        ("put", "todo_list", f"l-{name}", {"team_id": user, "title": name}),
        ("put", "todo", f"t-{name}", {"team_id": user, "list_id": f"l-{name}", "title": name}),
        ("put", "note", f"n-{name}", {"user_id": user, "text": name}),
    ]


@pytest.mark.parametrize("founded", [False, True], ids=["the first team", "beside a team"])
async def test_what_a_guest_founds_goes_along(built: Lowtide, founded: bool) -> None:
    """Lists and to-dos of before, and those that were queued, are the account's; nothing is out of reach."""
    await built.start()
    guest = await built.accounts.sign_in.anonymous(ask_for())
    ann = await enter(built, code("ann@example.com"))
    shop = Shop(built, Client(built.asgi), guest, ann)
    old, new = guest.user.id, ann.user.id
    if founded:
        await shop.upload(ann, batch("tablet", 1, *founding(new, "hers")))
    assert await shop.upload(guest, batch("phone", 1, *founding(old, "sent"))) == ["applied"] * 4
    ann = await shop.merged()
    queued = batch("phone", 5, *founding(old, "queued")[1:])
    assert await shop.upload(ann, queued) == ["applied"] * 3
    held = await shop.held(ann)
    await built.stop()
    wanted = {f"{model}-{name}" for name in ("sent", "queued") for model in "ltn"}
    assert wanted <= {key.partition("/")[2] for key in held}
    assert old not in str(held), "a membership of an empty team was left"


async def test_a_member_may_not_found_in_anothers_name(built: Lowtide) -> None:
    """Whoever was let in writes the team's to-dos, and gives no list to a team that is not theirs."""
    await built.start()
    ann, ben = await enter(built, code("ann@example.com")), await enter(built, code("ben@example.com"))
    shop = Shop(built, Client(built.asgi), ben, ann)
    hers, his = ann.user.id, ben.user.id
    await shop.upload(ann, batch("tablet", 1, *founding(hers, "hers")))
    let_in: Change = ("put", "membership", "m-ben", {"team_id": hers, "user_id": his})
    before = await shop.upload(ben, batch("b", 1, ("patch", "todo", "t-hers", {"title": "his"})))
    await shop.upload(ann, batch("tablet", 5, let_in))
    writes: list[Change] = [
        ("patch", "todo", "t-hers", {"title": "theirs"}),
        ("put", "todo_list", "l-new", {"team_id": "cleo", "title": "Not ours"}),
        ("patch", "todo_list", "l-hers", {"team_id": his}),
    ]
    after = await shop.upload(ben, batch("b", 2, *writes))
    held = await shop.held(ann)
    await built.stop()
    assert (before, after[1:]) == (["refused"], ["refused", "refused"])
    assert after[0] != "refused"
    assert held["todo/t-hers"]["title"] == "theirs"
    assert held["todo_list/l-hers"]["team_id"] == hers
