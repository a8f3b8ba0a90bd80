"""Signing in with a code or a link from one mail."""

from __future__ import annotations

import asyncio
import re

import pytest

from lowtide.auth.methods.codes import GOOD_FOR, MAX_TRIES
from lowtide.auth.methods.email import PER_ADDRESS, PER_NETWORK, shown
from lowtide.auth.methods.networks import network
from lowtide.auth.methods.tries import NETWORK
from lowtide.auth.model import Ask
from lowtide.kernel.errors import TooManyRequests
from tests.api.client import Answer
from tests.auth.methods.conftest import House

pytestmark = pytest.mark.anyio


async def choose(house: House, link: str, number: int) -> Answer:
    """What the page behind ``link`` sends when a person taps ``number``."""
    path, _, token = link.partition("?token=")
    return await house.client.post(
        path,
        body=f"token={token}&number={number}".encode(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )


def wrong(code: str) -> str:
    """Another code."""
    return f"{(int(code.replace(' ', '')) + 1) % 10**8:08}"


async def test_a_code_signs_a_new_user_in(house: House) -> None:
    """Whoever reads the mail is signed in as the user with that address, each time the same."""
    first = await house.sign_in(" Ann@Example.com")
    assert first["outcome"] == "created"
    assert (first["user"]["email"], first["user"]["email_verified"]) == ("ann@example.com", True)
    again = await house.sign_in()
    assert (again["outcome"], again["user"]["id"]) == ("signed_in", first["user"]["id"])
    assert again["session_id"] != first["session_id"]


@pytest.mark.parametrize("form", ["{0}", " {0} ", "{1}", "{2}"])
async def test_a_code_is_read_as_people_type_it(house: House, form: str) -> None:
    """Spaces and hyphens between the digits do not matter."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    typed = form.format(code, code.replace(" ", ""), code.replace(" ", "-"))
    assert (await house.post("email/finish", flow_id=flow["flow_id"], code=typed)).status == 200


async def test_a_code_is_good_once(house: House) -> None:
    """The same code, and the flow without one, give nothing more."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    assert (await house.post("email/finish", flow_id=flow["flow_id"], code=code)).status == 200
    for more in ({"code": code}, {}):
        answer = await house.post("email/finish", flow_id=flow["flow_id"], **more)
        assert (answer.status, answer.code) == (401, "invalid_grant")


async def test_of_two_who_finish_at_once_one_gets_in(house: House) -> None:
    """A code that was copied does not make two sessions."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    answers = await asyncio.gather(
        *(house.post("email/finish", flow_id=flow["flow_id"], code=code) for _ in range(4))
    )
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]


async def test_a_code_expires(house: House) -> None:
    """After ten minutes it is worth nothing, and is forgotten."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    house.clock.advance(GOOD_FOR)
    answer = await house.post("email/finish", flow_id=flow["flow_id"], code=code)
    assert answer.code == "invalid_grant"


async def test_a_code_is_of_one_flow(house: House) -> None:
    """The code of one mail does not end the flow of another, not even for the same address."""
    one = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    other = (await house.post("email/start", email="ann@example.com")).json()
    if await house.code() != code:
        assert (await house.post("email/finish", flow_id=other["flow_id"], code=code)).status == 401
    assert (await house.post("email/finish", flow_id=one["flow_id"], code=code)).status == 200


async def test_codes_cannot_be_tried_out(house: House) -> None:
    """The fifth wrong code ends the flow: then the right one is as wrong. The audit log has it."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    left = []
    for _ in range(MAX_TRIES):
        answer = await house.post("email/finish", flow_id=flow["flow_id"], code=wrong(code))
        assert answer.code == "invalid_grant"
        left.append(answer.json()["tries_left"])
    assert left == [4, 3, 2, 1, 0]
    assert (await house.post("email/finish", flow_id=flow["flow_id"], code=code)).code == "invalid_grant"
    assert await house.audited("sign_in.code_exhausted") == 1


async def test_tries_at_once_count_each(house: House) -> None:
    """Twenty wrong codes at the same moment are not twenty tries."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    code = await house.code()
    bad = wrong(code)
    answers = await asyncio.gather(
        *(house.post("email/finish", flow_id=flow["flow_id"], code=bad) for _ in range(20))
    )
    assert sum(answer.json().get("detail") == "The code is wrong." for answer in answers) == MAX_TRIES - 1
    assert (await house.post("email/finish", flow_id=flow["flow_id"], code=code)).status == 401


async def test_the_database_signs_nobody_in(house: House) -> None:
    """What is kept of a flow holds neither its id, nor its code, nor the link's token."""
    flow = (await house.post("email/start", email="ann@example.com")).json()
    (sent,) = await house.messages(1)
    code = "".join(re.findall(r"\d{4}", sent["text"])[:2])
    token = sent["text"].partition("?token=")[2].split()[0]
    kept = str(await house.rows("SELECT * FROM code_flow"))
    assert "ann@example.com" in kept
    assert not any(secret in kept for secret in (flow["flow_id"], code, token))


async def test_the_answer_does_not_say_who_is_known(house: House) -> None:
    """For an address that has a user and one that has none, the answer and the mail are alike."""
    await house.sign_in()
    answers, mails = [], []
    for email in ("ann@example.com", "nobody@example.com"):
        answers.append(await house.post("email/start", email=email))
        mails += await house.messages(1)
    assert [set(answer.json()) for answer in answers] == [{"flow_id", "number", "expires_in"}] * 2
    texts = [re.sub(r"\d{4} \d{4}|token=\w+", "", mail["text"]) for mail in mails]
    assert texts[0] == texts[1]


async def test_a_mailbox_is_not_flooded(house: House) -> None:
    """Beyond ten in a quarter of an hour the mail is not sent, whoever asks; others get theirs."""
    for number in range(PER_ADDRESS[0].count):
        client = house.at(f"198.51.100.{number}")
        assert (await client.post("/v1/auth/email/start", json={"email": "ann@example.com"})).status == 200
    await house.messages(PER_ADDRESS[0].count)
    refused = await house.post("email/start", email="ANN@example.com ")
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert 0 < int(refused.headers["retry-after"]) <= 900
    assert (await house.post("email/start", email="bob@example.com")).status == 200
    (sent,) = await house.messages(1)
    assert sent["to"] == "bob@example.com"
    house.clock.advance(int(refused.headers["retry-after"]))
    assert (await house.post("email/start", email="ann@example.com")).status == 200


async def test_a_stranger_does_not_use_up_an_owners_mails(house: House) -> None:
    """One network gets fewer mails to an address than the address gets: the owner elsewhere has some left."""
    stranger = house.at("198.51.100.66")
    for _ in range(23):
        await stranger.post("/v1/auth/email/start", json={"email": "ann@example.com"})
        house.clock.advance(300)
    assert (await house.post("email/start", email="ann@example.com")).status == 200


async def test_a_network_does_not_send_to_the_world(house: House) -> None:
    """One address of the internet starts so many flows, and then waits; another is not held up."""
    statuses = [
        (await house.post("email/start", email=f"a{number}@example.com")).status
        for number in range(PER_NETWORK.most + 2)
    ]
    assert statuses == [200] * PER_NETWORK.most + [429, 429]
    other = await house.at("2001:db8::1").post("/v1/auth/email/start", json={"email": "b@example.com"})
    assert other.status == 200
    await house.messages(PER_NETWORK.most + 1)


class TestLink:
    async def test_the_device_that_began_is_signed_in(self, house: House) -> None:
        """The link is opened anywhere, the number is chosen, and the device that shows it goes on."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        link = await house.link()
        assert (await house.post("email/finish", flow_id=flow["flow_id"])).code == "sign_in_pending"
        elsewhere = House(house.lowtide, house.clock)
        elsewhere.client = house.at("192.0.2.99")
        assert (await choose(elsewhere, link, flow["number"])).status == 200
        answer = await house.post("email/finish", flow_id=flow["flow_id"])
        assert (answer.status, answer.json()["user"]["email"]) == (200, "ann@example.com")
        assert (await house.post("email/finish", flow_id=flow["flow_id"])).code == "invalid_grant"

    async def test_a_scanner_signs_nobody_in(self, house: House) -> None:
        """Whatever opens the link, however often, changes nothing."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        link = await house.link()
        for method in ("GET", "HEAD", "GET"):
            assert (await house.client.request(method, link)).status == 200
        assert (await house.post("email/finish", flow_id=flow["flow_id"])).code == "sign_in_pending"
        assert (await choose(house, link, flow["number"])).status == 200

    async def test_the_wrong_number_ends_it(self, house: House) -> None:
        """Who opens a stranger's mail in good faith picks another number, and nobody gets in."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        link = await house.link()
        page = (await house.client.get(link)).body.decode()
        numbers = [int(found) for found in re.findall(r'value="(\d\d)"', page)]
        assert len(set(numbers)) == 3
        assert flow["number"] in numbers
        assert "<b>" not in page
        other = next(number for number in numbers if number != flow["number"])
        assert (await choose(house, link, other)).status == 400
        assert (await choose(house, link, flow["number"])).status == 400
        assert (await house.post("email/finish", flow_id=flow["flow_id"])).code == "invalid_grant"

    async def test_not_me_ends_it(self, house: House) -> None:
        """The button for it makes the code in the mail worthless, too."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        (sent,) = await house.messages(1)
        link = sent["text"].partition("http://localhost")[2].split()[0]
        await choose(house, link, 0)
        code = sent["subject"][:9]
        assert (await house.post("email/finish", flow_id=flow["flow_id"], code=code)).status == 401

    async def test_a_link_is_good_once_and_for_a_while(self, house: House) -> None:
        """A used, an old and an invented link all lead to a page that says what to do."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        used = await house.link()
        await choose(house, used, flow["number"])
        late = (await house.post("email/start", email="ann@example.com")).json()
        old = await house.link()
        house.clock.advance(GOOD_FOR)
        for link in (used, old, "/v1/auth/email/link?token=" + "0" * 32, "/v1/auth/email/link"):
            answer = await house.client.get(link)
            assert (answer.status, answer.headers["content-type"]) == (410, "text/html; charset=utf-8")
            assert "Ask for a new one" in answer.body.decode()
        assert (await choose(house, old, late["number"])).status == 400

    async def test_the_page_runs_and_loads_nothing(self, house: House) -> None:
        """Its policy forbids scripts and frames; it is not cached, and its address is not told."""
        await house.post("email/start", email="ann@example.com")
        answer = await house.client.get(await house.link())
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(rb"<script|<link|<img|src=| on\w+=| style=", answer.body)

    async def test_what_a_device_says_is_only_text(self, house: House) -> None:
        """A device's name makes neither markup nor lines, in the page, in the mail and in the outbox."""
        name = "<script>x</script>\r\nBcc: eve@example.com\u202e" + "y" * 100
        await house.post("email/start", email="ann@example.com", device={"name": name})
        (sent,) = await house.messages(1)
        link = sent["text"].partition("http://localhost")[2].split()[0]
        assert "\nBcc" not in sent["text"]
        for path in (link, "/dev/outbox"):
            page = (await house.client.get(path)).body.decode()
            assert "<script" not in page
            assert "script" in page
            assert "\u202e" not in page

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"token",
            b"number=1",
            b"token=a&number=" + b"9" * 400,
            b"\xff",
            b"token=%00&number=x",
            b"&" * 4000,
        ],
    )
    async def test_a_form_that_is_none_confirms_nothing(self, house: House, body: bytes) -> None:
        """Whatever is posted gets a page, and no fault."""
        answer = await house.client.post(
            "/v1/auth/email/link", body=body, headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status == 400
        assert b"Nobody was signed in" in answer.body


async def test_an_anonymous_user_keeps_their_id(house: House) -> None:
    """With their token, the sign-in gives the same user an address."""
    guest = await house.lowtide.accounts.sign_in.anonymous(Ask())
    flow = (await house.post("email/start", email="ann@example.com")).json()
    answer = await house.post(
        "email/finish", guest.access_token, flow_id=flow["flow_id"], code=await house.code()
    )
    assert answer.json()["outcome"] == "upgraded"
    assert answer.json()["user"]["id"] == guest.user.id


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"flow_id": 1},
        {"flow_id": "x" * 129},
        {"flow_id": "", "code": "1" * 129},
        {"flow_id": "a", "b": 1},
    ],
)
async def test_what_is_no_request_is_refused(house: House, body: dict[str, object]) -> None:
    """Malformed bodies are 400, never 500, and cost no try."""
    assert (await house.client.post("/v1/auth/email/finish", json=body)).status == 400


@pytest.mark.parametrize(
    ("ip", "whose"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
async def test_limits_count_networks(ip: str, whose: str) -> None:
    """Who has a /64 has not 2^64 tries."""
    assert network(ip) == whose


async def test_a_refused_network_leaves_nothing(house: House) -> None:
    """Made-up accounts cost a row each only as long as their network has tries; and known ones lose none."""
    tries = house.lowtide.methods.passwords._tries
    for number in range(NETWORK.most):
        await tries.take("password", f"a{number}@example.com", "198.51.100.1")
    before = await house.rows("SELECT count(*) FROM rate")
    for number in range(30):
        with pytest.raises(TooManyRequests):
            await tries.take("password", f"b{number}@example.com", "198.51.100.1")
    assert await house.rows("SELECT count(*) FROM rate") == before
    await tries.take("password", "b1@example.com", "198.51.100.2")


async def test_a_name_is_one_short_line() -> None:
    """Control characters and lengths that would hide the rest are left out."""
    assert shown(" Ann's\n\tphone\u202e\0 ") == "Ann's phone"
    assert len(shown("x" * 1000)) == 60


async def test_a_name_is_no_link() -> None:
    """A stranger who has a mail sent to somebody cannot have it advertise a page."""
    for link in ("https://evil.example/win", "evil.example", "www.evil.example", "a@evil.example"):
        text = shown(f"Ann's iPhone (15): claim it at {link}")
        assert text.startswith("Ann's iPhone (15) claim it at ")
        assert not set(text) & set(":/.@")
