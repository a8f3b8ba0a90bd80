"""The outbox: there in development, and nowhere else."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lowtide import App
from lowtide.app import Lowtide
from lowtide.auth.methods.messages import Message
from lowtide.auth.methods.outbox import MAX_SENT, Outbox
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import SetupError
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from tests.api.client import Client
from tests.auth.methods.conftest import House


def message(number: int) -> Message:
    return Message(channel="mail", to="ann@example.com", subject=f"<{number}>", text="&", until=2**50)


@pytest.mark.anyio
async def test_the_latest_hundred_are_kept_newest_first(house: House) -> None:
    """A message that is carried twice is there once, and the oldest ones go."""
    outbox = Outbox(house.lowtide.database, house.clock)
    for number in range(MAX_SENT + 5):
        house.clock.advance(0.001)
        for _ in range(2):
            await outbox.carry(message(number), f"job-{number}")
    sent = (await house.client.get("/dev/outbox.json")).json()["messages"]
    assert [each["subject"] for each in sent] == [f"<{n}>" for n in range(MAX_SENT + 4, 4, -1)]
    page = (await house.client.get("/dev/outbox")).body.decode()
    assert page.index("&lt;104&gt;") < page.index("&lt;5&gt;")
    assert "<104>" not in page


@pytest.mark.anyio
async def test_a_server_in_production_has_none(tmp_path: Path) -> None:
    """Without ``lowtide dev`` there is no such address, and whoever asks for a mail is told what to set."""
    clock = SystemClock()
    made = partial(Lowtide, Settings(database=str(tmp_path / "d.db")), App("notes"), clock, SystemIds(clock))
    lowtide = await asyncio.to_thread(made)
    await lowtide.start()
    try:
        client = Client(lowtide.asgi)
        assert (await client.get("/dev/outbox")).status == 404
        assert (await client.get("/dev/outbox.json")).status == 404
        answer = await client.post("/v1/auth/email/start", json={"email": "ann@example.com"})
        assert (answer.status, answer.code) == (501, "not_set_up")
        assert "smtp_url" in answer.json()["hint"]
    finally:
        await lowtide.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_url": "mail.example.com", "mail_from": "a@b.example"},
        {"smtp_url": "smtp://mail.example.com"},
        {"sms_url": "http://10.0.0.1/"},
        {"sms_prefixes": ("41",)},
        {"leaked_passwords": "not-there"},
    ],
)
def test_settings_that_cannot_be_end_the_start(wrong: dict[str, str], tmp_path: Path) -> None:
    """The operator hears of it at once, not when somebody signs in."""
    clock = ManualClock()
    settings = Settings(database=str(tmp_path / "d.db"), **wrong)  # type: ignore[arg-type]
    with pytest.raises(SetupError):
        Lowtide(settings, App("notes"), clock, SystemIds(clock))


def test_the_commands_print_and_build(tmp_path: Path) -> None:
    """``lowtide outbox`` beside a project, and ``lowtide passwords build`` from a list on standard input."""

    def run(*words: str, text: str = "") -> str:
        command = [sys.executable, "-m", "lowtide", *words]
        ran = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    folder = tmp_path
    run("new", "notes")
    folder = tmp_path / "notes"
    run("db", "migrate")
    assert "Nothing was sent." in run("outbox")
    assert "2 passwords" in run("passwords", "build", "-", text="one leaked phrase\nanother leaked phrase\n")
    assert (folder / "leaked-passwords").is_file()
    shutil.rmtree(folder)
