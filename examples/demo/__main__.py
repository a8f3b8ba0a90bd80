"""``python -m examples.demo``: the server, three phones with the real client core, and a bad network.

The phones edit the same records while they come and go. At the end they must be equal to the byte,
and every edit must be accounted for: in the list, in the conflict journal, or as a rejection.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import httpx2
from rich.console import Console

from examples.demo.account import differences, rejections_missing, unaccounted
from examples.demo.network import Network, Quality
from examples.demo.people import THINGS, Person
from examples.demo.screen import Screen
from examples.demo.session import Session
from lowtide.declare.clientschema import client_schema
from lowtide.sync.system import with_system
from tests.phones.phone import Phone, Tables

NAMES = ("ann", "bob", "cleo")
LOWTIDE = [sys.executable, "-m", "lowtide"]
PATIENCE = 30.0
"""Seconds in which the phones must agree once everybody is home."""


def main() -> int:
    """0 when everything is equal and accounted for, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the server up at the end")
    parser.add_argument("--seconds", type=float, default=20, help="how long the people edit (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="who edits what, where and when (default: 1)")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="lowtide-demo-") as folder:
        server = Server(Path(folder))
        console.print(f"Lowtide serves the packing list on {server.address}.")
        try:
            good = asyncio.run(play(server, arguments.seconds, Random(arguments.seed), console))  # noqa: S311
            if arguments.keep:
                keep(server, console)
        finally:
            server.stop()
    return 0 if good else 1


class Server:
    """``lowtide serve`` in a folder of its own."""

    def __init__(self, folder: Path):
        shutil.copy(Path(__file__).with_name("app.py"), folder / "app.py")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._environment = {**os.environ, "LOWTIDE_PORT": str(self.port)}
        self._log = (folder / "server.log").open("w")
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*LOWTIDE, "serve"], cwd=folder, env=self._environment, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                if httpx2.get(f"{self.address}/health/ready").status_code == 200:
                    return
            except httpx2.HTTPError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("error: the server did not start:\n" + (folder / "server.log").read_text())
                time.sleep(0.05)

    def token(self, user: str, *more: str) -> str:
        """A token, from the command that an operator would use."""
        command = [*LOWTIDE, "token", "--user", user, "--ttl", "2h", *more]
        done = subprocess.run(  # noqa: S603
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def stop(self) -> None:
        """End it as an operator would."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


async def play(server: Server, seconds: float, random: Random, console: Console) -> bool:
    """The whole demonstration; is everything as it should be?"""
    from examples.demo.app import app

    tables: Tables = {
        table["name"]: {column["name"]: column["type"] for column in table["columns"]}
        for table in client_schema(with_system(app.compile()))["tables"]
    }
    tokens = {name: server.token(name) for name in NAMES}
    boss = {"authorization": f"Bearer {server.token('app', '--server')}"}
    async with httpx2.AsyncClient(base_url=server.address, headers=boss) as http:
        team = {"team": "trip", "users": list(NAMES)}
        (await http.post("/v1/functions/found_team", json=team)).raise_for_status()
        networks = {name: Network(server.port, random) for name in NAMES}
        people = []
        for name, network in networks.items():
            await network.start()
            phone = Phone(
                name,
                tables,
                now=lambda: time.time_ns() // 1_000_000,
                token=lambda: f"{random.getrandbits(64):016x}",
            )
            session = Session(phone, f"http://127.0.0.1:{network.port}", tokens[name], random)
            people.append(Person(name, session, random))
            session.start()
        try:
            await _begin(people)
            with Screen(people, networks, console) as screen:
                await _edit(people, networks, seconds, random, screen)
                agreed = await _come_home(people, networks, seconds, screen)
            journal = {}
            for thing in THINGS:
                answer = await http.get("/v1/sync/conflicts", params={"model": "item", "id": thing})
                journal[thing] = [entry["lost"] for entry in answer.json()["conflicts"]]
        finally:
            await asyncio.gather(*(person.session.close() for person in people))
            await asyncio.gather(*(network.close() for network in networks.values()))
    return _report(people, agreed, journal, console)


async def _begin(people: list[Person]) -> None:
    phone = people[0].session.phone
    phone.write(*(phone.insert("item", thing, team_id="trip", title=thing, votes=0) for thing in THINGS))
    people[0].session.wrote()
    async with asyncio.timeout(PATIENCE):
        # A phone's database says nothing of what arrives in it: looking is what there is.
        while any(  # noqa: ASYNC110
            len(person.session.phone.rows("item")) < len(THINGS) for person in people
        ):
            await asyncio.sleep(0.05)


async def _edit(
    people: list[Person], networks: dict[str, Network], seconds: float, random: Random, screen: Screen
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    moves = dict.fromkeys(NAMES, 0.0)
    while (now := loop.time() - began) < seconds:
        for person in people:
            if now >= moves[person.name]:
                qualities: tuple[Quality, ...] = ("fine", "train", "basement", "plane")
                networks[person.name].set(random.choice(qualities))
                moves[person.name] = now + random.uniform(2, 5)
                person.session.network_is_back()
            if random.random() < 0.35:
                person.edit()
        screen.show(now, seconds)
        await asyncio.sleep(0.15)


async def _come_home(
    people: list[Person], networks: dict[str, Network], seconds: float, screen: Screen
) -> bool:
    for person in people:
        networks[person.name].set("fine")
        person.session.network_is_back()
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while loop.time() < until:
        queued = any(person.session.phone.queued() for person in people)
        answered = all(len(person.session.results) >= len(person.edits) for person in people)
        if not queued and answered and not differences(people) and not rejections_missing(people):
            return True
        screen.show(seconds, seconds)
        await asyncio.sleep(0.1)
    return False


def _report(people: list[Person], agreed: bool, journal: dict[str, list[object]], console: Console) -> bool:
    edits = sum(len(person.edits) for person in people)
    refused = sum(1 for person in people for edit in person.edits if not edit.valid)
    lost = sum(map(len, journal.values()))
    problems = differences(people) + unaccounted(people, journal)
    if not agreed and not problems:
        problems = ["the phones did not agree in time"]
    console.print()
    for problem in problems:
        console.print(f"[red]✗[/] {problem}")
    if problems:
        return False
    console.print(f"[green]✓[/] {len(people)} phones hold the same rows, to the byte")
    console.print(
        f"[green]✓[/] {edits} edits are accounted for: {edits - refused - lost} in the list or seen before "
        f"they were replaced, {lost} in the conflict journal, {refused} came back as rejections",
        soft_wrap=True,
    )
    return True


def keep(server: Server, console: Console) -> None:
    """Leave the server up until Ctrl-C."""
    console.print(f"\nThe server stays up on {server.address}; Ctrl-C stops it. For example:")
    console.print(
        f'  curl -H "Authorization: Bearer {server.token("ann")}" \\\n'
        f'    "{server.address}/v1/sync/conflicts?model=item&id=tent"',
        soft_wrap=True,
        highlight=False,
    )
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopped.")


if __name__ == "__main__":
    sys.exit(main())
