"""Devices that their makers vouch for: with roots and keys of our own, and every lie that is found."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.x509.oid import NameOID

from lowtide.app import Lowtide
from lowtide.auth import jws
from lowtide.auth.attestation import Accepted, Attestation
from lowtide.auth.attestation.android import ConsoleKeys, check_verdict, read_console_keys
from lowtide.auth.attestation.apple import NONCE, ROOT, check_attestation
from lowtide.auth.attestation.service import KEPT, chosen
from lowtide.auth.challenges import LIFE, Challenges
from lowtide.auth.wellknown import AndroidApp
from lowtide.declare.app import App
from lowtide.kernel import base64url
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import AttestationRequired, InvalidGrant, NotFound, SetupError
from lowtide.kernel.http import Request, Route
from lowtide.kernel.ids import SystemIds
from lowtide.kernel.schema import Principal
from lowtide.settings import Settings
from tests.api.client import Client
from tests.auth.world import World, ask_for
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio
NOW = 1_790_000_000_000
APP = "ABCDE12345.com.example.app"
P256 = ec.SECP256R1()


class AppleCa:
    """A root and what stands between it and devices, made here."""

    def __init__(self) -> None:
        self.root_key = ec.generate_private_key(ec.SECP384R1())
        self.root = self.certificate("root", self.root_key.public_key(), "root", self.root_key, ca=True)
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.between = self.certificate("between", self.key.public_key(), "root", self.root_key, ca=True)

    @property
    def pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    def certificate(
        self,
        name: str,
        public: Any,
        issuer: str,
        key: Any,
        *,
        ca: bool = False,
        nonce: bytes | None = None,
        days: tuple[int, int] = (-1, 3),
    ) -> x509.Certificate:
        at = datetime.fromtimestamp(NOW / 1000, UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at + timedelta(days=days[0]))
            .not_valid_after(at + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if nonce is not None:
            made = made.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(NONCE), nonce), critical=False
            )
        return made.sign(key, hashes.SHA256())


CA = AppleCa()


class Phone:
    """An iPhone with a key in its secure chip; tests change what it says."""

    def __init__(self, ca: AppleCa = CA) -> None:
        self.ca = ca
        self.key = ec.generate_private_key(P256)
        self.point = self.key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.digest = hashlib.sha256(self.point).digest()
        self.id = base64.b64encode(self.digest).decode()
        self.app = APP
        self.aaguid = b"appattest" + bytes(7)
        self.counter = 0

    def attest(self, challenge: str, **changes: Any) -> str:
        credential = changes.get("credential", self.digest)
        data = self._data() + self.aaguid + len(credential).to_bytes(2, "big") + credential + b"\xa0"
        nonce = hashlib.sha256(data + hashlib.sha256(challenge.encode()).digest()).digest()
        wrapped = changes.get("nonce", b"\x30\x24\xa1\x22\x04\x20" + nonce)
        leaf = self.ca.certificate(
            "leaf",
            changes.get("public", self.key.public_key()),
            "between",
            self.ca.key,
            nonce=wrapped,
            days=changes.get("days", (-1, 3)),
        )
        x5c = [one.public_bytes(serialization.Encoding.DER) for one in (leaf, self.ca.between)]
        statement = {"x5c": changes.get("x5c", x5c), "receipt": b""}
        found = {"fmt": changes.get("fmt", "apple-appattest"), "attStmt": statement, "authData": data}
        return base64.b64encode(cbor2.dumps(changes.get("object", found))).decode()

    def assertion(self, challenge: str) -> str:
        self.counter += 1
        data = self._data()
        nonce = hashlib.sha256(data + hashlib.sha256(challenge.encode()).digest()).digest()
        signature = self.key.sign(nonce, ec.ECDSA(hashes.SHA256()))
        return base64.b64encode(cbor2.dumps({"signature": signature, "authenticatorData": data})).decode()

    def _data(self) -> bytes:
        return hashlib.sha256(self.app.encode()).digest() + b"\x40" + self.counter.to_bytes(4, "big")


def attest(phone: Phone, statement: str, challenge: str = "c", **options: Any) -> Any:
    asked: dict[str, Any] = {"key_id": phone.id, "apps": (APP,), "now": NOW, "root": CA.pem} | options
    return check_attestation(statement, challenge=challenge, **asked)


class TestAppAttest:
    def test_a_genuine_device_is_believed(self) -> None:
        """The chain leads to the root, and the nonce, the key, the app and the counter are right."""
        phone = Phone()
        key = attest(phone, phone.attest("c"))
        assert (key.app, key.environment, key.counter) == (APP, "production", 0)
        assert base64url.decode(key.key_id) == phone.digest

    def test_apples_own_root_is_in_the_program(self) -> None:
        """It signs itself, and nothing that was made here leads to it."""
        root = x509.load_pem_x509_certificate(ROOT)
        root.verify_directly_issued_by(root)
        assert "Apple App Attestation Root CA" in root.subject.rfc4514_string()
        phone = Phone()
        with pytest.raises(InvalidGrant, match="Apple's"):
            attest(phone, phone.attest("c"), root=ROOT)

    def test_the_sandbox_is_taken_only_where_it_is_allowed(self) -> None:
        """A development build's key is none for the world."""
        phone = Phone()
        phone.aaguid = b"appattestdevelop"
        with pytest.raises(InvalidGrant, match="sandbox"):
            attest(phone, phone.attest("c"))
        assert attest(phone, phone.attest("c"), development=True).environment == "development"

    @pytest.mark.parametrize(
        "changes",
        [
            {"nonce": b"\x30\x24\xa1\x22\x04\x20" + bytes(32)},
            {"nonce": b""},
            {"nonce": b"\x04\x20" + bytes(32)},
            {"public": ec.generate_private_key(P256).public_key()},
            {"public": ec.generate_private_key(ec.SECP384R1()).public_key()},
            {"credential": bytes(32)},
            {"credential": b""},
            {"fmt": "none"},
            {"fmt": 5},
            {"days": (-9, -1)},
            {"days": (1, 3)},
            {"x5c": []},
            {"x5c": None},
            {"x5c": [b"", b""]},
            {"x5c": ["text", 5]},
            {"x5c": [b"x" * 3000] * 3},
            {"object": {}},
            {"object": []},
            {"object": {"fmt": "apple-appattest", "attStmt": 5, "authData": b""}},
            {"object": {"fmt": "apple-appattest", "attStmt": {"x5c": []}, "authData": "text"}},
        ],
        ids=lambda changes: "-".join(changes),
    )
    def test_a_changed_statement_is_refused(self, changes: dict[str, Any]) -> None:
        """Another nonce, key, format or time, and shapes that are none."""
        phone = Phone()
        with pytest.raises(InvalidGrant):
            attest(phone, phone.attest("c", **changes))

    def test_another_challenge_app_key_or_authority_is_refused(self) -> None:
        """What was made for another purpose does not count here."""
        phone, other = Phone(), Phone()
        good = phone.attest("c")
        for options in ({"challenge": "d"}, {"apps": ("ABCDE12345.com.other",)}, {"key_id": other.id}):
            with pytest.raises(InvalidGrant):
                attest(phone, good, **options)
        with pytest.raises(InvalidGrant):
            attest(phone, good, now=NOW + 10 * 86_400_000)
        with pytest.raises(InvalidGrant):
            attest(phone, good, root=AppleCa().pem)
        used = Phone()
        used.counter = 1
        with pytest.raises(InvalidGrant, match="used"):
            attest(used, used.attest("c"))

    def test_a_certificate_that_may_not_sign_is_refused(self) -> None:
        """A leaf of Apple's, in place of the authority between, vouches for nobody."""
        forger = AppleCa()
        forger.root, forger.root_key = CA.root, CA.root_key
        key = ec.generate_private_key(ec.SECP384R1())
        forger.between = CA.certificate("between", key.public_key(), "root", CA.root_key, ca=False)
        forger.key = key
        phone = Phone(forger)
        with pytest.raises(InvalidGrant, match="may not sign"):
            attest(phone, phone.attest("c"))

    @pytest.mark.parametrize(
        "raw", [b"\x81" * 9000, b"\xa1\x01" * 9000, b"\x9f" * 9000, b"\x5b" + b"\xff" * 8, b"", b"\xc1" * 99]
    )
    def test_hostile_cbor_is_refused(self, raw: bytes) -> None:
        """Deep, endless and lying structures; and more than any statement needs."""
        phone = Phone()
        for text in (base64.b64encode(raw).decode(), "!!!", "A" * 40_000):
            with pytest.raises(InvalidGrant):
                attest(phone, text)


SECRET = os.urandom(32)
GOOGLE = ec.generate_private_key(P256)
KEYS = ConsoleKeys(SECRET, GOOGLE.public_key())
CERTIFICATE = hashlib.sha256(b"certificate").digest()
ANDROID = (AndroidApp("com.example.app", ":".join(f"{byte:02X}" for byte in CERTIFICATE)),)


def verdict(challenge: str = "c", **changes: Any) -> dict[str, Any]:
    """What Google says of a genuine app; ``changes`` by path."""
    found: dict[str, Any] = {
        "requestDetails": {
            "requestPackageName": "com.example.app",
            "timestampMillis": str(NOW),
            "nonce": base64.urlsafe_b64encode(hashlib.sha256(challenge.encode()).digest()).decode(),
        },
        "appIntegrity": {
            "appRecognitionVerdict": "PLAY_RECOGNIZED",
            "packageName": "com.example.app",
            "certificateSha256Digest": [base64url.encode(CERTIFICATE)],
            "versionCode": "42",
        },
        "deviceIntegrity": {"deviceRecognitionVerdict": ["MEETS_DEVICE_INTEGRITY"]},
    }
    for path, value in changes.items():
        part, _, name = path.partition("__")
        if name:
            found[part][name] = value
        else:
            found[part] = value
    return found


def sealed(
    claims: dict[str, Any],
    *,
    secret: bytes = SECRET,
    key: ec.EllipticCurvePrivateKey = GOOGLE,
    header: dict[str, Any] | None = None,
    inner: Callable[[str], str] = lambda token: token,
) -> str:
    """A token as Google makes it: a JWE around a JWS."""
    token = inner(jws.write({"alg": "ES256"}, claims, key))
    head = base64url.encode(json.dumps(header or {"alg": "A256KW", "enc": "A256GCM"}).encode())
    content, nonce = os.urandom(32), os.urandom(12)
    text = AESGCM(content).encrypt(nonce, token.encode(), head.encode())
    parts = [aes_key_wrap(secret, content), nonce, text[:-16], text[-16:]]
    return ".".join([head, *map(base64url.encode, parts)])


def check(token: str, **options: Any) -> Any:
    asked: dict[str, Any] = {"keys": KEYS, "challenge": "c", "apps": ANDROID, "now": NOW} | options
    return check_verdict(token, **asked)


class TestPlayIntegrity:
    def test_a_genuine_device_is_believed(self) -> None:
        """Decrypted and verified here, for classic and for standard requests."""
        found = check(sealed(verdict()))
        assert found.package == "com.example.app"
        standard = verdict()
        standard["requestDetails"]["requestHash"] = standard["requestDetails"].pop("nonce")
        assert "MEETS_DEVICE_INTEGRITY" in check(sealed(standard)).device

    @pytest.mark.parametrize(
        "changes",
        [
            {"requestDetails__nonce": "AAAA"},
            {"requestDetails__nonce": None},
            {"requestDetails__timestampMillis": str(NOW - 500_000)},
            {"requestDetails__timestampMillis": str(NOW + 500_000)},
            {"requestDetails__timestampMillis": "soon"},
            {"requestDetails__timestampMillis": None},
            {"requestDetails__requestPackageName": "com.evil"},
            {"appIntegrity__packageName": "com.evil"},
            {"appIntegrity__appRecognitionVerdict": "UNRECOGNIZED_VERSION"},
            {"appIntegrity__appRecognitionVerdict": "UNEVALUATED"},
            {"appIntegrity__certificateSha256Digest": [base64url.encode(bytes(32))]},
            {"appIntegrity__certificateSha256Digest": []},
            {"appIntegrity__certificateSha256Digest": None},
            {"deviceIntegrity__deviceRecognitionVerdict": []},
            {"deviceIntegrity__deviceRecognitionVerdict": ["MEETS_VIRTUAL_INTEGRITY"]},
            {"deviceIntegrity": {}},
            {"appIntegrity": 5},
            {"requestDetails": []},
        ],
        ids=str,
    )
    def test_another_verdict_is_refused(self, changes: dict[str, Any]) -> None:
        """For another challenge, app or time, or of a device that Google does not vouch for."""
        with pytest.raises(InvalidGrant):
            check(sealed(verdict(**changes)))

    def test_a_forged_token_is_refused(self) -> None:
        """Other keys, other algorithms, changed parts, and what is no token."""
        other = ec.generate_private_key(P256)
        good = sealed(verdict())
        parts = good.split(".")
        unsigned = base64url.encode(b'{"alg":"none"}')
        for token in (
            sealed(verdict(), secret=os.urandom(32)),
            sealed(verdict(), key=other),
            sealed(verdict(), header={"alg": "dir", "enc": "A256GCM"}),
            sealed(verdict(), header={"alg": "A256KW", "enc": "A128CBC-HS256"}),
            sealed(verdict(), header={"alg": "A256KW", "enc": "A256GCM", "zip": "DEF"}),
            sealed(verdict(), inner=lambda token: ".".join([unsigned, *token.split(".")[1:]])),
            sealed(verdict(), inner=lambda token: token.rpartition(".")[0] + "."),
            sealed(verdict(), inner=lambda _: "no token"),
            ".".join([*parts[:3], parts[3][:-2] + "AA", parts[4]]),
            ".".join([*parts[:4], base64url.encode(bytes(16))]),
            ".".join(parts[:4]),
            jws.write({"alg": "ES256"}, verdict(), GOOGLE),
            "",
            "....",
            "é" * 9,
            "A" * 20_000,
        ):
            with pytest.raises(InvalidGrant):
                check(token)

    def test_the_consoles_keys_are_read(self) -> None:
        """As the Play Console shows them; both or none, and everything else is found at start."""
        public = GOOGLE.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        texts = [base64.b64encode(one).decode() for one in (SECRET, public)]
        keys = read_console_keys(*texts)
        assert keys is not None
        assert check(sealed(verdict()), keys=keys).package == "com.example.app"
        assert read_console_keys("", "") is None
        for wrong in (("", texts[1]), (texts[0], ""), ("x", "y"), (texts[1], texts[0]), ("AAAA", texts[1])):
            with pytest.raises(SetupError):
                read_console_keys(*wrong)


class TestSessions:
    @pytest.fixture
    def attestation(self, world: World) -> Attestation:
        accepted = Accepted(apple_apps=(APP,), android_apps=ANDROID, play=KEYS, root=CA.pem)
        challenges = Challenges(world.vault, world.clock, world.ids)
        return Attestation(world.database, challenges, world.clock, accepted)

    async def someone(self, world: World) -> Principal:
        return world.who(await world.sign_in.anonymous(ask_for()))

    async def test_a_device_binds_its_session(self, world: World, attestation: Attestation) -> None:
        """Only the session that showed it; on every node; for a week."""
        who, other, phone = await self.someone(world), await self.someone(world), Phone()
        challenge = attestation.challenge(who)
        assert not await attestation.attested(who)
        until = await attestation.attest_apple(who, challenge, phone.id, phone.attest(challenge))
        assert until == world.clock.now() + KEPT * 86_400_000
        assert await attestation.attested(who)
        assert not await attestation.attested(other)
        assert not await attestation.attested(Principal(user=who.user))
        elsewhere = Attestation(
            world.database, Challenges(world.vault, world.clock, world.ids), world.clock, Accepted()
        )
        assert await elsewhere.attested(who)
        world.clock.advance(KEPT * 86_400)
        assert not await attestation.attested(who)
        assert not await elsewhere.attested(who)

    async def test_a_challenge_is_one_sessions_and_good_once(
        self, world: World, attestation: Attestation, clock: ManualClock
    ) -> None:
        """Another's, a used one, and one that is over: refused, and nothing is bound."""
        who, other, phone = await self.someone(world), await self.someone(world), Phone()
        challenge = attestation.challenge(who)
        statement = phone.attest(challenge)
        with pytest.raises(InvalidGrant):
            await attestation.attest_apple(other, challenge, phone.id, statement)
        await attestation.attest_apple(who, challenge, phone.id, statement)
        with pytest.raises(InvalidGrant):
            await attestation.attest_apple(who, challenge, phone.id, statement)
        late = attestation.challenge(other)
        clock.advance(LIFE)
        with pytest.raises(InvalidGrant, match="expired"):
            await attestation.attest_android(other, late, sealed(verdict(late)))
        assert not await attestation.attested(other)

    async def test_an_assertion_counts_once(self, world: World, attestation: Attestation) -> None:
        """A kept key binds new sessions; its counter only grows; unknown and other keys do not count."""
        who, later, phone = await self.someone(world), await self.someone(world), Phone()
        challenge = attestation.challenge(who)
        await attestation.attest_apple(who, challenge, phone.id, phone.attest(challenge))
        challenge = attestation.challenge(later)
        stranger = Phone()
        with pytest.raises(InvalidGrant, match="does not know"):
            await attestation.assert_apple(later, challenge, stranger.id, stranger.assertion(challenge))
        with pytest.raises(InvalidGrant, match="signature"):
            await attestation.assert_apple(later, challenge, phone.id, stranger.assertion(challenge))
        with pytest.raises(InvalidGrant, match="signature"):
            await attestation.assert_apple(later, challenge, phone.id, phone.assertion("another"))
        assert not await attestation.attested(later)
        await attestation.assert_apple(later, challenge, phone.id, phone.assertion(challenge))
        assert await attestation.attested(later)
        phone.counter = 0
        challenge = attestation.challenge(later)
        with pytest.raises(InvalidGrant, match="before one"):
            await attestation.assert_apple(later, challenge, phone.id, phone.assertion(challenge))

    async def test_android_binds_too(self, world: World, attestation: Attestation) -> None:
        """With the console's keys; without them the address is not there."""
        who = await self.someone(world)
        challenge = attestation.challenge(who)
        clock_now = world.clock.now()
        claims = verdict(challenge, requestDetails__timestampMillis=str(clock_now))
        await attestation.attest_android(who, challenge, sealed(claims))
        assert await attestation.attested(who)
        bare = Attestation(
            world.database, Challenges(world.vault, world.clock, world.ids), world.clock, Accepted()
        )
        with pytest.raises(NotFound):
            await bare.attest_android(who, bare.challenge(who), "x")

    async def test_a_guarded_address_asks_for_it(self, world: World, attestation: Attestation) -> None:
        """Enforced it refuses, monitored and off it does not; the app's servers are let through."""

        async def handler(request: Request[Any, Any]) -> str:
            """Answers."""
            return "answer"

        who, phone = await self.someone(world), Phone()
        route = Route("GET", "/x", handler)
        (guarded,) = attestation.guard([route], "enforce", ())
        assert AttestationRequired in guarded.errors
        request: Request[Any, Any] = Request(body=None, query=None, who=who)
        with pytest.raises(AttestationRequired):
            await guarded.handler(request)
        (watched,) = attestation.guard([route], "monitor", ())
        assert await watched.handler(request) == "answer"
        assert attestation.guard([route], "off", ()) == [route]
        server: Request[Any, Any] = Request(body=None, query=None, who=Principal(user="app", server=True))
        assert await guarded.handler(server) == "answer"
        challenge = attestation.challenge(who)
        await attestation.attest_apple(who, challenge, phone.id, phone.attest(challenge))
        assert await guarded.handler(request) == "answer"

    def test_a_policy_is_for_addresses_that_exist(self) -> None:
        """By name, by how they begin, or all for users but signing in; a typing mistake is found at start."""

        async def handler(request: Request[Any, Any]) -> None:
            """Answers."""

        routes = [
            Route("GET", "/v1/records/{id}", handler),
            Route("POST", "/v1/records/{id}", handler),
            Route("POST", "/v1/auth/attestation/apple", handler),
            Route("GET", "/health", handler, auth="none"),
        ]
        every = {("GET", "/v1/records/{id}"), ("POST", "/v1/records/{id}")}
        assert chosen(routes, ()) == every
        assert chosen(routes, ("POST /v1/records*",)) == {("POST", "/v1/records/{id}")}
        for wrong in ("GET /health", "/v1/records*", "PUT /v1/records*", "GET /nowhere"):
            with pytest.raises(SetupError, match=re.escape(wrong)):
                chosen(routes, (wrong,))


@pytest.fixture
def enforcing(tmp_path: Path) -> Lowtide:
    """A whole backend that wants attestation. Compiling an app reads its source: not on a loop."""
    clock = SystemClock()
    settings = Settings(
        database=str(tmp_path / "data.db"), secret_key=SECRET_KEY, rate_limits=0, attestation="enforce"
    )
    return Lowtide(settings, App("attested"), clock, SystemIds(clock))


async def test_a_server_that_enforces_refuses_who_did_not_prove(enforcing: Lowtide) -> None:
    """Records are refused, signing in and proving are not, and the description says so."""
    await enforcing.start()
    try:
        client = Client(enforcing.asgi)
        token = (await enforcing.accounts.sign_in.anonymous(ask_for())).access_token
        pulled = await client.post("/v1/sync/pull", json={}, token=token)
        assert (pulled.status, pulled.code) == (403, "attestation_required")
        assert (await client.get("/v1/auth/me", token=token)).status == 200
        asked = await client.post("/v1/auth/attestation/challenge", token=token)
        assert asked.status == 200
        body = {"challenge": asked.json()["challenge"], "key_id": "AAAA", "statement": "AAAA"}
        assert (
            await client.post("/v1/auth/attestation/apple", json=body, token=token)
        ).code == "invalid_grant"
        paths = (await client.get("/v1/openapi.json")).json()["paths"]
        assert "attestation_required" in json.dumps(paths["/v1/sync/pull"])
    finally:
        await enforcing.stop()
