"""``lowtide webhooks``: where events go, whether they arrive, and what to do when they do not."""

from __future__ import annotations

import argparse

from lowtide.app import Lowtide
from lowtide.cli.db import moment
from lowtide.cli.opened import by_hand, with_backend, with_reader
from lowtide.cli.project import open_project
from lowtide.storage.db import Database
from lowtide.webhooks import Endpoint, Tried, listed

SHOWN = 400
"""Characters of an answer."""


def show(arguments: argparse.Namespace) -> None:
    """Print every endpoint, what it hears of, what waits for it, what fails, and why it is off."""
    settings, _ = open_project()

    async def look(database: Database) -> list[Endpoint]:
        return await database.read(listed)

    found = with_reader(settings, look)
    for one in found:
        print(f"{one.id}  {'on ' if one.enabled else 'off'}  {one.url}")
        print(f"    hears: {_hears(one)}")
        if one.waiting or one.dead:
            print(f"    records: {one.waiting} waiting, {one.dead} dead")
        for it in one.troubles:
            state = "dead" if it.dead else "waiting"
            print(f"    {state} after try {it.attempt}: {it.event} {_plain(it.record)}: {_plain(it.error)}")
        if not one.enabled:
            print(f"    off: {one.reason}")
        elif one.failing_since is not None:
            print(f"    nothing has arrived since {moment(one.failing_since)} UTC")
    if not found:
        print("There are no webhooks. Add one with POST /v1/admin/webhooks.")
    elif any(one.dead for one in found):
        print("\nSend dead messages again with: lowtide webhooks replay <id>")


def test(arguments: argparse.Namespace) -> int:
    """Send a signed ``webhook.test``, print what came back and what to do; 1 if it did not arrive.

    Raises ``NotFound``; ``AlreadyRunning`` while SQLite is being served: ask the server then, with
    ``POST /v1/admin/webhooks/<id>/test``.
    """
    settings, app = open_project()

    async def send(lowtide: Lowtide) -> Tried:
        return await lowtide.webhooks.try_now(arguments.id)

    tried = with_backend(settings, app, send)
    print(f"{tried.status or 'no answer'} after {tried.took} ms, message {tried.message}")
    for line in tried.body[:SHOWN].decode("utf-8", "replace").splitlines():
        print("    " + _plain(line))
    if tried.failure:
        print(tried.failure)
    print(advice(tried))
    return 1 if tried.failure else 0


def replay(arguments: argparse.Namespace) -> None:
    """Send an endpoint's dead messages again.

    Raises ``NotFound``, ``Conflict`` if it is off, ``AlreadyRunning`` as ``test`` does.
    """
    settings, app = open_project()

    async def again(lowtide: Lowtide) -> int:
        async def work(tx: object) -> int:
            count = await lowtide.webhooks.replay(tx, arguments.id)  # type: ignore[arg-type]
            await lowtide.audit.write(tx, by_hand("webhook.replay", f"webhook:{arguments.id}"))  # type: ignore[arg-type]
            return count

        return await lowtide.database.write(work)

    count = with_backend(settings, app, again)
    print(f"{count} messages wait to be sent again.")


def advice(tried: Tried) -> str:
    """What to do about a try."""
    match tried.status:
        case 0:
            return "Is the server up, and reachable from here over https? Look at its log and the firewall."
        case 400 | 401 | 403:
            return (
                "It looks as if the receiver does not believe the signature: give it this endpoint's secret, "
                "and verify the body's bytes as they come, before any parsing. Its clock counts, too."
            )
        case 404 | 405:
            return "The path takes no POST: look at the URL."
        case 410:
            return "The receiver wants no more: a real message would switch the endpoint off."
        case status if 300 <= status < 400:
            return "Redirects are not followed: name the address that it leads to."
        case status if status >= 500:
            return "The receiver failed: look into its log. Messages are tried again for a day."
        case status if 200 <= status < 300:
            return "It arrived."
        case _:
            return "Anything but 2xx is a failure: answer 204 once the message is kept."


def _plain(text: str) -> str:
    """A terminal obeys control characters, and what a stranger says may have some."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _hears(one: Endpoint) -> str:
    about = ", ".join(one.events)
    if one.models:
        about += f" of {', '.join(one.models)}"
    if one.spaces:
        about += f" in {', '.join(one.spaces)}"
    return about + (", with data" if one.data else "")
