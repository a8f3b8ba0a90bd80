"""Passwords: what may be one, who knows it, and what a flood of them does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lowtide.auth.methods.blocklist import DIGEST, MARK, Blocklist, Leaked, leaked_digest
from lowtide.auth.methods.hashing import Hasher
from lowtide.auth.methods.leaks import build
from lowtide.auth.methods.passwords import normalised
from lowtide.auth.methods.tries import ACCOUNT, HERE, SIGNED_IN
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.errors import Busy, Malformed, SetupError
from lowtide.kernel.ids import SystemIds
from tests.api.client import Answer
from tests.auth.methods.conftest import House

GOOD = "seven grey herons wait"
OTHER = "a kettle on the moon"


async def with_password(house: House, password: str = GOOD, email: str = "ann@example.com") -> dict[str, Any]:
    """Ann has a password, and this session."""
    flow = (await house.post("email/start", email=email)).json()
    code = await house.code()
    answer = await house.post("password/set", flow_id=flow["flow_id"], code=code, password=password)
    assert answer.status == 200, answer.body
    (told,) = await house.messages(1)
    assert told["subject"] == "notes: Your password was changed"
    found: dict[str, Any] = answer.json()
    return found


async def enter(house: House, password: str, email: str = "ann@example.com", ip: str | None = None) -> Answer:
    client = house.client if ip is None else house.at(ip)
    return await client.post("/v1/auth/password", json={"email": email, "password": password})


async def change(house: House, token: str, **body: Any) -> Answer:
    return await house.client.request("PUT", "/v1/auth/me/password", json=body, token=token)


@pytest.mark.anyio
class TestSigningIn:
    async def test_the_right_password_signs_in(self, house: House) -> None:
        """As the user who set it, and however the address is written; anything else does not."""
        made = await with_password(house)
        answer = await enter(house, GOOD, " ANN@example.com")
        assert (answer.status, answer.json()["status"]) == (200, "signed_in")
        assert answer.json()["user"]["id"] == made["user"]["id"]
        for near in (GOOD.upper(), GOOD + " ", GOOD[:-1]):
            assert (await enter(house, near)).code == "invalid_grant"
            house.clock.advance(200)

    async def test_nobody_learns_who_has_an_account(self, house: House) -> None:
        """No user, no password, an unverified address or a wrong one: the same answer for the same work."""
        await with_password(house)
        await house.sign_in("bob@example.com")
        hasher = house.lowtide.methods.hasher
        answers = []
        for email in ("ann@example.com", "bob@example.com", "nobody@example.com"):
            before, written = hasher.begun, await house.audited("password.wrong")
            answer = await enter(house, OTHER, email)
            assert hasher.begun == before + 1
            assert await house.audited("password.wrong") == written + 1
            answers.append((answer.status, {**answer.json(), "request_id": ""}))
        assert answers[0] == answers[1] == answers[2]

    async def test_an_address_that_is_nobodys_is_not_kept(self, house: House) -> None:
        """It may be a stranger's, or a password in the wrong field: a keyed hash is enough."""
        await with_password(house)
        for email in ("ann@example.com", "Nobody@example.com", "nobody@example.com"):
            await enter(house, OTHER, email)
        kept = [row[0] for row in await house.rows("SELECT personal FROM audit_detail") if row[0]]
        assert not any("nobody@" in text.lower() for text in kept)
        hashes = [found for text in kept if (found := json.loads(text).get("email_hash"))]
        assert len(hashes) == 2
        assert hashes[0] == hashes[1] != hashlib.sha256(b"nobody@example.com").hexdigest()[:32]
        assert any(json.loads(text).get("email") == "ann@example.com" for text in kept)

    async def test_a_password_is_kept_as_a_slow_hash(self, house: House) -> None:
        """Argon2id, 19 MiB, two passes, a salt for each: the same password of two users looks different."""
        await with_password(house)
        await with_password(house, email="bob@example.com")
        kept = [str(row[0]) for row in await house.rows("SELECT hash FROM password")]
        assert all(text.startswith("$argon2id$v=19$m=19456,t=2,p=1$") for text in kept)
        assert len(set(kept)) == 2
        assert GOOD not in str(kept)

    async def test_a_hash_of_old_parameters_is_made_anew(self, house: House) -> None:
        """At the next sign-in, and the password stays the same."""
        from argon2.low_level import Type, hash_secret

        made = await with_password(house)
        old = hash_secret(GOOD.encode(), b"0" * 16, 1, 64, 1, 32, Type.ID).decode()
        await house.write("UPDATE password SET hash = $1 WHERE user_id = $2", old, made["user"]["id"])
        assert (await enter(house, GOOD)).status == 200
        ((kept,),) = await house.rows("SELECT hash FROM password")
        assert "m=19456" in kept
        assert (await enter(house, GOOD)).status == 200


@pytest.mark.anyio
class TestSetting:
    async def test_a_forgotten_password_is_set_by_mail(self, house: House) -> None:
        """The new one counts, the old one does not, and every other session ends."""
        first = await with_password(house)
        second = await with_password(house, OTHER)
        assert (await enter(house, GOOD)).status == 401
        assert (await enter(house, OTHER)).status == 200
        assert (await house.ended(first["session_id"]), await house.ended(second["session_id"])) == (
            True,
            False,
        )
        assert await house.audited("password.set") == 2

    @pytest.mark.parametrize(
        ("password", "reason"),
        [
            ("fourteen chars", "too_short"),
            ("passwordpassword", "common"),
            ("iloveyouiloveyou", "predictable"),
            ("qwertyuiopasdfghjkl", "predictable"),
            ("123412341234123412", "predictable"),
            ("Ann@Example.com", "predictable"),
        ],
    )
    async def test_a_weak_one_is_refused_before_the_code_is_used(
        self, house: House, password: str, reason: str
    ) -> None:
        """The answer says why, and the code in the mail is still good."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        code = await house.code()
        refused = await house.post("password/set", flow_id=flow["flow_id"], code=code, password=password)
        assert (refused.status, refused.code, refused.json()["reason"]) == (400, "password_refused", reason)
        assert await house.rows("SELECT * FROM password") == []
        answer = await house.post("password/set", flow_id=flow["flow_id"], code=code, password=GOOD)
        assert answer.status == 200

    async def test_without_a_flow_nothing_is_hashed(self, house: House) -> None:
        """Whoever has asked for no mail, or not confirmed it, costs no hash."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        before = house.lowtide.methods.hasher.begun
        for sent, code in (
            ({"flow_id": "0" * 32, "code": "1"}, "invalid_grant"),
            ({"flow_id": flow["flow_id"]}, "sign_in_pending"),
        ):
            assert (await house.post("password/set", password=GOOD, **sent)).code == code
        assert house.lowtide.methods.hasher.begun == before

    async def test_a_wrong_code_sets_nothing(self, house: House) -> None:
        """Without the mailbox there is no password."""
        flow = (await house.post("email/start", email="ann@example.com")).json()
        await house.code()
        answer = await house.post("password/set", flow_id=flow["flow_id"], code="0" * 8, password=GOOD)
        assert answer.status == 401
        assert await house.rows("SELECT * FROM password") == []

    async def test_a_change_takes_a_fresh_sign_in_or_the_present_one(self, house: House) -> None:
        """A phone that was left on a table does not change it; the other devices are signed out."""
        made = await with_password(house)
        other = (await enter(house, GOOD)).json()
        house.clock.advance(601)
        refreshed = await house.refreshed(made)
        assert (await change(house, refreshed, password=OTHER)).code == "step_up_required"
        assert (await change(house, refreshed, password=OTHER, current="wrong")).code == "invalid_grant"
        assert (await enter(house, GOOD)).status == 200
        assert (await change(house, refreshed, password=OTHER, current=GOOD)).status == 204
        assert await house.ended(other["session_id"])
        assert not await house.ended(made["session_id"])
        assert (await enter(house, OTHER)).status == 200


@pytest.mark.anyio
class TestBruteForce:
    async def test_wrong_tries_slow_down_and_lock_nobody_out(self, house: House) -> None:
        """Five at once, then one in 90 s from that network. From another network the right one gets in."""
        await with_password(house)
        answers = [await enter(house, "wrong horse, wrong battery") for _ in range(HERE.most + 3)]
        assert [answer.status for answer in answers] == [401] * HERE.most + [429] * 3
        wait = int(answers[-1].headers["retry-after"])
        assert 60 < wait <= 90
        assert (await enter(house, GOOD)).status == 429
        assert (await enter(house, GOOD, ip="198.51.100.1")).status == 200
        house.clock.advance(wait)
        assert (await enter(house, GOOD)).status == 200
        assert await house.audited("password.wrong") == HERE.most

    async def test_a_signed_in_device_is_not_held_up_by_strangers(self, house: House) -> None:
        """While thousands of networks try Ann's password, her own device changes it."""
        made = await with_password(house)
        statuses = {
            (await enter(house, "wrong horse, wrong battery", ip=f"198.51.100.{n}")).status
            for n in range(ACCOUNT.most + 2)
        }
        assert statuses == {401, 429}
        assert (await enter(house, GOOD, ip="192.0.2.1")).status == 429
        token = made["access_token"]
        assert (await change(house, token, password=OTHER, current=GOOD)).status == 204

    async def test_a_signed_in_device_cannot_try_for_ever(self, house: House) -> None:
        """The present password is tried out from a stolen device as slowly as from outside."""
        token = (await with_password(house))["access_token"]
        statuses = [
            (await change(house, token, password=OTHER, current="wrong")).status
            for _ in range(SIGNED_IN.most + 1)
        ]
        assert statuses == [401] * SIGNED_IN.most + [429]

    async def test_a_flood_of_sign_ins_is_answered_early_and_others_are_served(self, house: House) -> None:
        """With every thread busy a bounded number waits, the rest gets 503, and other routes answer."""
        await with_password(house)
        methods = house.lowtide.methods
        gate = threading.Event()
        blocked = Hasher(SystemIds(SystemClock()), threads=2, waiting=2)
        held = [asyncio.create_task(blocked._run(gate.wait)) for _ in range(2)]
        methods.passwords._hasher = blocked
        try:
            flood = [
                asyncio.create_task(enter(house, GOOD, f"u{n}@example.com", f"10.0.{n % 250}.1"))
                for n in range(60)
            ]
            done: set[asyncio.Task[Answer]] = set()
            async with asyncio.timeout(20):
                while len(done) < 56:
                    done |= (await asyncio.wait(flood, timeout=0.05, return_when="FIRST_COMPLETED"))[0]
                    assert (await house.client.get("/health/live")).status == 200
            refused = [task.result() for task in done]
            assert {(answer.status, answer.code) for answer in refused} == {(503, "busy")}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        finally:
            gate.set()
        await asyncio.gather(*held)
        waited = await asyncio.gather(*flood)
        assert sorted(answer.status for answer in waited) == [401] * 4 + [503] * 56
        blocked.close()


@pytest.mark.anyio
class TestHasher:
    async def test_who_leaves_gives_the_place_back(self) -> None:
        """A request that is cancelled while it waits is never hashed, and the next one is taken."""
        hasher = Hasher(SystemIds(SystemClock()), threads=1, waiting=1)
        gate = threading.Event()
        first = asyncio.create_task(hasher._run(gate.wait))
        ran: list[int] = []
        second = asyncio.create_task(hasher._run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await hasher.hash("x")
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.create_task(hasher._run(lambda: ran.append(3)))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, third)
        assert ran == [3]
        hasher.close()


class TestNormalising:
    @pytest.mark.parametrize(
        ("typed", "kept"),
        [
            ("A\u030angstro\u0308m", "\u00c5ngstr\u00f6m"),
            ("\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"),
            ("\uff46\uff55\uff4c\uff4c", "full"),
            ("a\u00a0b\u3000c", "a b c"),
            (" space ", " space "),
        ],
    )
    def test_one_password_has_one_form(self, typed: str, kept: str) -> None:
        """Two keyboards write the same password differently; it is the same."""
        assert normalised(typed) == kept

    @pytest.mark.parametrize("typed", ["", "a\0b", "a\nb", "a\ud800", "x" * 257, "\u20ac" * 400])
    def test_what_cannot_be_typed_is_refused(self, typed: str) -> None:
        """Control characters and lengths beyond 256 are no password."""
        with pytest.raises(Malformed):
            normalised(typed)

    @pytest.mark.parametrize("typed", ["x" * 64, "\U0001f98a" * 64, "correct horse battery staple " * 8])
    def test_long_ones_are_welcome(self, typed: str) -> None:
        """64 characters of any kind, and more."""
        assert normalised(typed) == typed


class TestBlocklist:
    @pytest.mark.parametrize(
        "password",
        [
            "correct horse battery staple",
            "correcthorsebatterystaple",
            GOOD,
            OTHER,
            "lllllolololovely tea pot",
            "Zwölf Boxkämpfer jagen",
            "v7#pQz!9",
            "4c9a-77f1-0e2d-b613",
            "ни пуха ни пера",
        ],
    )
    def test_good_ones_pass(self, password: str) -> None:
        """No rule of composition stands in the way of four words."""
        assert Blocklist().weakness(password, ["notes", "ann@example.com"]) is None

    @pytest.mark.parametrize(
        ("password", "why"),
        [
            ("hunter22", "common"),
            ("PASSWORD", "common"),
            ("aaaaaaaaaaaaaaaa", "predictable"),
            ("abcdefghijklmnop", "predictable"),
            ("87654321abcdefgh", "predictable"),
            ("asdfghjklasdfghjkl", "predictable"),
            ("password1234567", "predictable"),
            ("1111222233334444", "predictable"),
            ("notesnotes12345", "predictable"),
            ("annabelle.smith!!!", "predictable"),
            ("Annabelle.Smith@example.com", "predictable"),
            ("annabelle.smith@example.com1!", "predictable"),
        ],
    )
    def test_what_others_try_first_does_not(self, password: str, why: str) -> None:
        """Common ones in any case, runs, rows of keys, repetitions, and the words of app and address."""
        assert Blocklist().weakness(password, ["notes", "annabelle.smith@example.com"]) == why

    def test_leaked_ones_are_found(self, tmp_path: Path) -> None:
        """In a file of any size, the first and the last too; what is not in it is not."""
        leaked = [f"leaked phrase number {number}" for number in range(1000)]
        digests = sorted(leaked_digest(password) for password in leaked)
        (tmp_path / "leaked").write_bytes(MARK + b"".join(digests))
        blocklist = Blocklist(tmp_path / "leaked")
        assert all(blocklist.weakness(password) == "leaked" for password in leaked)
        assert not any(blocklist.weakness(f"unleaked phrase number {n}") for n in range(1000))

    @pytest.mark.parametrize("run", [1, 7, 10_000])
    def test_a_file_is_made_from_what_was_published(self, tmp_path: Path, run: int) -> None:
        """Digests with and without counts, plain passwords, unsorted and twice, in runs of any size."""
        digests = [hashlib.sha1(f"leaked {n}".encode()).hexdigest().encode() for n in range(30)]
        lines = [b"%s:%d\r\n" % (digest.upper(), n % 3) for n, digest in enumerate(digests[:20])]
        lines += [digest + b"\n" for digest in digests[15:]] + [b"a plain password here\n", b"\n"]
        target = tmp_path / "leaked"
        assert build(lines, target, least=1, run=run) == 30 - 5 + 1
        leaked = Leaked(target)
        kept = [n for n in range(30) if leaked.has(f"leaked {n}")]
        assert kept == [n for n in range(30) if n >= 15 or n % 3]
        assert leaked.has("a plain password here")
        assert [path.name for path in tmp_path.iterdir()] == ["leaked"]

    @pytest.mark.parametrize("content", [None, b"", b"x" * 100, MARK + b"1" * (DIGEST + 1)])
    def test_another_file_is_told_at_the_start(self, tmp_path: Path, content: bytes | None) -> None:
        """A file that is not there, empty, of another kind or cut ends the start, not the check."""
        if content is not None:
            (tmp_path / "leaked").write_bytes(content)
        with pytest.raises(SetupError):
            Blocklist(tmp_path / "leaked")


def test_argon2_is_not_loaded_at_the_start() -> None:
    """Whoever uses no passwords does not wait for them."""
    script = "import sys, lowtide.app; assert not {'argon2', 'pyotp', 'aiosmtplib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
