"""Signing in with a code in a text message, and the provider that is asked to send it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import msgspec
import pytest

from lowtide.auth.methods.letters import code_text
from lowtide.auth.methods.messages import Message
from lowtide.auth.methods.sms import PER_NETWORK, PER_NUMBER, HttpSms, country_code
from lowtide.egress import Egress
from lowtide.kernel.errors import OutsideFailed, SetupError
from lowtide.storage.jobs import Hopeless
from tests.auth.methods.conftest import House

JSON = '{"messages": [{"to": "$to", "body": "$text"}], "from": "Notes", "ttl": 600}'


class Provider:
    """A provider of text messages over a real socket."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.place = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Egress]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.url = f"http://{self.place}/texts"
        egress = Egress(allowed=(self.place,))
        try:
            yield egress
        finally:
            egress.close()
            server.close()
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:]}
        self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % self.status)
        await writer.drain()
        writer.close()


def text(body: str = "1 is your code") -> Message:
    return Message(channel="sms", to="+41446681800", text=body, until=2**50)


@pytest.mark.anyio
class TestProvider:
    @pytest.mark.parametrize("body", ["plain", '"$to" \\ & = %\n$text', "$to$text$"])
    async def test_json_is_filled_in(self, body: str) -> None:
        """What a text holds stays a text, quotes and placeholders too; the job's number comes along."""
        provider = Provider()
        async with provider.serving() as egress:
            await HttpSms(egress, provider.url, JSON, "Bearer k").carry(text(body), "job-1")
        ((headers, sent),) = provider.got
        expected = {"messages": [{"to": "+41446681800", "body": body}], "from": "Notes", "ttl": 600}
        assert msgspec.json.decode(sent) == expected
        assert headers["content-type"] == "application/json"
        assert (headers["authorization"], headers["idempotency-key"]) == ("Bearer k", "job-1")

    async def test_a_form_is_filled_in(self) -> None:
        """As the providers want it that read forms."""
        provider = Provider()
        async with provider.serving() as egress:
            form = "From=%2B15005550006&To=$to&Body=$text"
            await HttpSms(egress, provider.url, form, "").carry(text("a&b=c"), "1")
        ((headers, sent),) = provider.got
        assert parse_qs(sent.decode()) == {
            "From": ["+15005550006"],
            "To": ["+41446681800"],
            "Body": ["a&b=c"],
        }
        assert "authorization" not in headers

    @pytest.mark.parametrize(
        ("status", "error"),
        [(400, Hopeless), (404, Hopeless), (401, OutsideFailed), (429, OutsideFailed), (500, OutsideFailed)],
    )
    async def test_what_is_refused_for_good_is_not_tried_again(
        self, status: int, error: type[Exception]
    ) -> None:
        """A number that the provider refuses is hopeless; its own troubles and a wrong key pass."""
        provider = Provider()
        provider.status = status
        async with provider.serving() as egress:
            with pytest.raises(error) as told:
                await HttpSms(egress, provider.url, JSON, "").carry(text(), "1")
        assert "+4144" not in str(told.value)

    @pytest.mark.parametrize("body", ["", "{}", '{"to": "$to"}', "{to", "Body=$text"])
    async def test_a_request_without_a_place_for_it_is_told_at_the_start(self, body: str) -> None:
        """A provider that would be sent nothing useful is a mistake of the operator's."""
        egress = Egress()
        with pytest.raises(SetupError):
            HttpSms(egress, "https://texts.example.com", body, "")
        egress.close()

    async def test_a_provider_on_the_inside_is_not_asked_unless_allowed(self) -> None:
        """The address is checked as every other one."""
        egress = Egress()
        with pytest.raises(SetupError):
            HttpSms(egress, "http://127.0.0.1/texts", JSON, "")
        egress.close()


@pytest.mark.anyio
class TestSigningIn:
    async def test_a_code_signs_a_new_user_in(self, house: House) -> None:
        """As the user with that number, however it is written; the code counts once."""
        ids = []
        for phone in ("+41 44 668 18 00", "+41446681800"):
            flow = (await house.post("sms/start", phone=phone)).json()
            (sent,) = await house.messages(1)
            assert (sent["channel"], sent["to"]) == ("sms", "+41446681800")
            code = sent["text"][:8]
            answer = await house.post("sms/finish", flow_id=flow["flow_id"], code=code)
            assert answer.status == 200, answer.body
            assert answer.json()["user"]["phone"] == "+41446681800"
            ids.append(answer.json()["user"]["id"])
            again = await house.post("sms/finish", flow_id=flow["flow_id"], code=code)
            assert again.code == "invalid_grant"
        assert ids[0] == ids[1]

    async def test_a_flow_ends_where_it_began(self, house: House) -> None:
        """A code from a text message proves no mailbox, and one from a mail no telephone."""
        flow = (await house.post("sms/start", phone="+41446681800")).json()
        (sent,) = await house.messages(1)
        answer = await house.post("email/finish", flow_id=flow["flow_id"], code=sent["text"][:8])
        assert answer.code == "invalid_grant"
        flow = (await house.post("email/start", email="ann@example.com")).json()
        answer = await house.post("sms/finish", flow_id=flow["flow_id"], code=await house.code())
        assert answer.code == "invalid_grant"
        assert await house.rows("SELECT id FROM users") == []

    async def test_a_number_is_not_flooded(self, house: House) -> None:
        """Six in a quarter of an hour, whoever asks."""
        statuses = []
        for number in range(PER_NUMBER[0].count + 1):
            client = house.at(f"198.51.100.{number}")
            answer = await client.post("/v1/auth/sms/start", json={"phone": "+41446681800"})
            statuses.append(answer.status)
        assert statuses == [200] * PER_NUMBER[0].count + [429]

    async def test_a_stranger_does_not_use_up_an_owners_texts(self, house: House) -> None:
        """One network gets fewer texts to a number than the number gets."""
        stranger = house.at("198.51.100.66")
        for _ in range(13):
            await stranger.post("/v1/auth/sms/start", json={"phone": "+41446681800"})
            house.clock.advance(450)
        assert (await house.post("sms/start", phone="+41446681800")).status == 200

    async def test_pumping_is_stopped(self, house: House) -> None:
        """One network asks for few; many networks together for no more than a country's share of the hour."""
        statuses = [
            (await house.post("sms/start", phone=f"+4144668{n:04}")).status
            for n in range(PER_NETWORK.most + 1)
        ]
        assert statuses == [200] * PER_NETWORK.most + [429]
        house.lowtide.methods.sms._per_country = type(PER_NETWORK)(12, 3600)
        answers = [
            await house.at(f"10.1.{n}.1").post("/v1/auth/sms/start", json={"phone": f"+35312345{n:02}"})
            for n in range(14)
        ]
        assert [answer.status for answer in answers] == [200] * 12 + [429] * 2
        elsewhere = await house.at("10.2.0.1").post("/v1/auth/sms/start", json={"phone": "+4930901820"})
        assert elsewhere.status == 200

    async def test_only_the_operators_countries_get_texts(self, house: House) -> None:
        """What is not on the list is refused before it costs anything."""
        house.lowtide.methods.sms._prefixes = ("+41", "+49")
        assert (await house.post("sms/start", phone="+882123456789")).code == "forbidden"
        assert (await house.post("sms/start", phone="+4930901820")).status == 200
        (sent,) = await house.messages(1)
        assert sent["to"] == "+4930901820"

    @pytest.mark.parametrize("phone", ["", "ann@example.com", "0446681800", "+41" + "1" * 60])
    async def test_what_is_no_number_is_refused(self, house: House, phone: str) -> None:
        """Nothing is sent to it."""
        assert (await house.post("sms/start", phone=phone)).status == 400


def test_a_text_is_bound_to_its_site() -> None:
    """Its last line lets a phone offer the code to this site's app only."""
    sent = code_text("notes", "+41446681800", "12345678", "https://api.example.com:8443", 1)
    assert sent.text.splitlines()[-1] == "@api.example.com #12345678"
    assert not re.search(r"@", code_text("notes", "+1", "12345678", "", 1).text)


@pytest.mark.parametrize(
    ("number", "code"),
    [("+15005550006", "+1"), ("+79161234567", "+7"), ("+41446681800", "+41"), ("+35312345678", "+353")],
)
def test_a_number_has_a_country(number: str, code: str) -> None:
    """Country codes have one, two or three digits, and none is the beginning of another."""
    assert country_code(number) == code
