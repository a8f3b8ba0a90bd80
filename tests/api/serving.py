"""A process that serves: what ``test_server`` starts and stops. Prints what happens, a word a line."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop

from lowtide.api import Serving, serve
from lowtide.kernel.http import Outlet, Request, Route, StreamAnswer
from tests.api.edges import Handlers, build


def say(*words: object) -> None:
    print(*words, flush=True)


class Slow(Handlers):
    async def work(self, _: Request[None, None]) -> dict[str, bool]:
        say("working")
        await asyncio.sleep(1.0)
        say("worked")
        return {"done": True}

    async def stubborn(self, _: Request[None, None]) -> StreamAnswer:
        async def run(outlet: Outlet) -> None:
            outlet.on_drain(lambda: say("told"))
            try:
                await outlet.write(b"hello\n")
                await asyncio.sleep(600)
            finally:
                say("cut")

        return StreamAnswer(run=run)


async def main(grace: float, notice: float) -> None:
    handlers = Slow()
    edge = build(
        handlers,
        Route("GET", "/work", handlers.work, auth="none"),
        Route("GET", "/stubborn", handlers.stubborn, auth="none"),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    await serve(
        edge, listener, started=lambda: say("port", port), serving=Serving(grace=grace, notice=notice)
    )
    say("services close")


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]), float(sys.argv[2])))
    say("end")
