"""WebAuthn's two ceremonies: what an authenticator must answer, and each lie that is found."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.auth.passkeys.ceremony import (
    Assertion,
    AssertionCredential,
    NewCredential,
    RegistrationCredential,
    challenge_in,
    check_assertion,
    check_registration,
    creation_options,
    request_options,
    user_handle,
)
from lowtide.kernel.base64url import encode
from lowtide.kernel.errors import InvalidGrant, Malformed
from tests.auth.authenticator import BACKED_UP, ELIGIBLE, PRESENT, VERIFIED, Authenticator

ORIGINS = ("https://app.example", "android:apk-key-hash:pNiP5iKyQ8JwgGOaKA1zGPUPJIS-0H1xKCQcfIoGLck")
CHALLENGE = "a-challenge"
OPTIONS = creation_options(
    rp_id="app.example", rp_name="App", challenge=CHALLENGE, handle=user_handle("ann"), name="Ann", known=()
)
ASKED = request_options(rp_id="app.example", challenge=CHALLENGE)


def register(answer: dict[str, Any], challenge: str = CHALLENGE) -> NewCredential:
    credential = msgspec.convert(answer, RegistrationCredential)
    assert challenge_in(credential.response.client_data_json) == CHALLENGE
    return check_registration(credential, challenge=challenge, rp_id="app.example", origins=ORIGINS)


def sign_in(answer: dict[str, Any], made: NewCredential, counter: int = 0) -> Assertion:
    return check_assertion(
        msgspec.convert(answer, AssertionCredential),
        challenge=CHALLENGE,
        rp_id="app.example",
        origins=ORIGINS,
        public_key=made.public_key,
        counter=counter,
        backup_eligible=made.backup_eligible,
    )


class TestOptions:
    def test_a_passkey_is_discoverable_and_verifies_its_user(self) -> None:
        """What is asked for signs in without a name and counts as two factors; no attestation is wanted."""
        selection = OPTIONS["authenticatorSelection"]
        assert selection == {
            "residentKey": "required",
            "requireResidentKey": True,
            "userVerification": "required",
        }
        assert OPTIONS["attestation"] == "none"
        assert [one["alg"] for one in OPTIONS["pubKeyCredParams"]] == [-7, -257, -8]
        assert ASKED["userVerification"] == "required"
        assert ASKED["allowCredentials"] == []

    def test_the_handle_names_nobody(self) -> None:
        """An authenticator keeps 32 bytes from which the user's id cannot be read; always the same."""
        handle = user_handle("0190aaaa-user")
        assert handle == user_handle("0190aaaa-user") != user_handle("0190aaaa-other")
        assert len(handle) == 43
        assert "0190" not in handle

    def test_known_passkeys_are_excluded(self) -> None:
        """A device that holds one of the user's passkeys is told not to make another."""
        options = creation_options(
            rp_id="a.example", rp_name="A", challenge="c", handle="h", name="n", known=[("AAAA", ["usb"])]
        )
        assert options["excludeCredentials"] == [{"type": "public-key", "id": "AAAA", "transports": ["usb"]}]


class TestRegistration:
    def test_a_right_answer_makes_a_passkey(self) -> None:
        """Key, counter and the flags of backups are read out of the answer."""
        device = Authenticator()
        device.flags |= ELIGIBLE | BACKED_UP
        made = register(device.register(OPTIONS))
        assert made.credential_id == device.id
        assert (made.counter, made.backup_eligible, made.backed_up) == (0, True, True)
        plain = register(Authenticator().register(OPTIONS))
        assert (plain.backup_eligible, plain.backed_up) == (False, False)

    def test_an_android_app_is_an_origin(self) -> None:
        """The app's certificate stands where a web page's address would; another app's does not count."""
        assert register(Authenticator(origin=ORIGINS[1]).register(OPTIONS)).counter == 0
        with pytest.raises(InvalidGrant):
            register(Authenticator(origin=ORIGINS[1][:-1] + "A").register(OPTIONS))

    @pytest.mark.parametrize(
        "origin",
        [
            "http://app.example",
            "https://app.example.evil",
            "https://evil.example",
            "https://app.example:444",
            "https://app.example/",
            "null",
            "",
        ],
    )
    def test_another_origin_is_refused(self, origin: str) -> None:
        """An origin is matched as a whole: scheme, host and port."""
        with pytest.raises(InvalidGrant):
            register(Authenticator(origin=origin).register(OPTIONS))

    def test_another_site_is_refused(self) -> None:
        """A passkey for another rp id is not ours, even from our origin."""
        with pytest.raises(InvalidGrant):
            register(Authenticator(rp_id="evil.example").register(OPTIONS))

    def test_another_challenge_is_refused(self) -> None:
        """What was signed for one challenge does not answer another."""
        with pytest.raises(InvalidGrant):
            register(Authenticator().register(OPTIONS), challenge="another")

    @pytest.mark.parametrize("flags", [0, PRESENT, VERIFIED, PRESENT | VERIFIED | BACKED_UP])
    def test_a_user_who_did_not_verify_is_refused(self, flags: int) -> None:
        """Presence and verification are both needed, and backups without eligibility cannot be."""
        device = Authenticator()
        device.flags = flags
        with pytest.raises(InvalidGrant):
            register(device.register(OPTIONS))

    def test_a_frame_of_another_site_is_refused(self) -> None:
        """An answer from inside another site's page (crossOrigin) is not taken."""
        for value in (True, "false", 1, None):
            device = Authenticator()
            device.cross_origin = value
            with pytest.raises(InvalidGrant):
                register(device.register(OPTIONS))

    def test_an_assertion_is_no_registration(self) -> None:
        """The type inside the signed data decides, not the address that it was sent to."""
        device = Authenticator()
        answer = device.register(OPTIONS)
        answer["response"]["clientDataJSON"] = device.sign_in(ASKED)["response"]["clientDataJSON"]
        with pytest.raises(InvalidGrant):
            register(answer)

    def test_ids_that_differ_are_refused(self) -> None:
        """The id outside is the id inside."""
        answer = Authenticator().register(OPTIONS)
        other = encode(bytes(32))
        for changes in ({"id": other}, {"rawId": other}, {"id": other, "rawId": other}):
            with pytest.raises(InvalidGrant):
                register(answer | changes)

    @pytest.mark.parametrize("size", [0, 1, 15, 1024])
    def test_an_id_of_an_odd_size_is_refused(self, size: int) -> None:
        """Ids are 16 to 1,023 bytes long."""
        device = Authenticator()
        device.credential_id = bytes(size)
        with pytest.raises(InvalidGrant):
            register(device.register(OPTIONS))

    @pytest.mark.parametrize(
        "key",
        [
            {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)},
            {1: 2, 3: -7, -1: 1},
            {1: 2, 3: 0, -1: 1, -2: bytes(32), -3: bytes(32)},
            {1: 3, 3: -65535, -1: bytes(256), -2: b"\1\0\1"},
            {1: 4, 3: 5, -1: bytes(32)},
            {},
            [],
            "key",
            {1: []},
        ],
    )
    def test_a_key_that_is_none_is_refused(self, key: Any) -> None:
        """Points off their curve, SHA-1, symmetric keys, and what is no key at all."""
        device = Authenticator()
        answer = device.register(OPTIONS, public_key=cbor2.dumps(key))
        # Points are checked at the latest when they verify: such a passkey must never sign in.
        try:
            made = register(answer)
        except InvalidGrant:
            return
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)

    @pytest.mark.parametrize(
        "raw",
        [
            b"\x81" * 8000,
            b"\xa1\x01" * 4000,
            b"\xc1" * 8000,
            b"\x9f" * 8000,
            b"\x9b\x00\x00\x00\x0f\xff\xff\xff\xff",
            b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
            b"\xa3cfmtdnonegattStmt\xa0hauthDataX\x00",
            cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": bytes(36)}),
            cbor2.dumps({"fmt": "none", "attStmt": {"x5c": []}, "authData": bytes(300)}),
            cbor2.dumps({"fmt": ["none"], "attStmt": 7, "authData": "text"}),
            cbor2.dumps({"fmt": "tpm", "attStmt": {}, "authData": b"\x00" * 400}),
            cbor2.dumps([]),
            b"\x00",
            b"",
        ],
    )
    def test_hostile_cbor_is_refused(self, raw: bytes) -> None:
        """Deep, endless, lying and odd structures are a refusal, at once."""
        answer = Authenticator().register(OPTIONS)
        answer["response"]["attestationObject"] = encode(raw)
        with pytest.raises(InvalidGrant):
            register(answer)

    def test_a_huge_answer_is_not_read(self) -> None:
        """A part beyond 16 KiB does not fit the address."""
        answer = Authenticator().register(OPTIONS)
        answer["response"]["attestationObject"] = "A" * 16_385
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(answer, RegistrationCredential)


class TestSignIn:
    @pytest.fixture
    def device(self) -> Authenticator:
        return Authenticator()

    @pytest.fixture
    def made(self, device: Authenticator) -> NewCredential:
        return register(device.register(OPTIONS))

    def test_the_owner_is_let_in(self, device: Authenticator, made: NewCredential) -> None:
        """The signature of the passkey's key over the challenge is what counts."""
        found = sign_in(device.sign_in(ASKED), made)
        assert (found.counter, found.counter_went_back) == (0, False)

    def test_another_key_is_refused(self, device: Authenticator, made: NewCredential) -> None:
        """A signature of another key, however well-formed the rest is."""
        device.key = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("signature", ""),
            ("signature", "AAAA"),
            ("signature", "not base64url!"),
            ("authenticatorData", ""),
            ("authenticatorData", encode(bytes(37))),
            ("authenticatorData", encode(bytes(5000))),
        ],
    )
    def test_a_changed_part_is_refused(
        self, device: Authenticator, made: NewCredential, part: str, value: str
    ) -> None:
        """Nothing of the answer can be exchanged."""
        answer = device.sign_in(ASKED)
        answer["response"][part] = value
        with pytest.raises(InvalidGrant):
            sign_in(answer, made)

    @pytest.mark.parametrize("flags", [0, PRESENT, VERIFIED])
    def test_a_user_who_did_not_verify_is_refused(
        self, device: Authenticator, made: NewCredential, flags: int
    ) -> None:
        """A passkey counts as two factors because its user was verified, each time."""
        device.flags = flags
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)

    def test_another_place_is_refused(self, device: Authenticator, made: NewCredential) -> None:
        """A page of another origin, or a signature for another site."""
        device.origin = "https://evil.example"
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)
        device.origin, device.rp_id = "https://app.example", "evil.example"
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)

    def test_a_counter_must_grow(self, device: Authenticator, made: NewCredential) -> None:
        """Equal or less is a copy's sign, but where both are 0: that authenticator does not count."""
        for told, kept, back in ((0, 0, False), (5, 4, False), (4, 4, True), (3, 4, True), (0, 4, True)):
            device.counter = told
            found = sign_in(device.sign_in(ASKED), made, counter=kept)
            assert (found.counter, found.counter_went_back) == (told, back), (told, kept)

    def test_eligibility_for_backups_does_not_change(
        self, device: Authenticator, made: NewCredential
    ) -> None:
        """It is a property of the key (section 7.2): one that says otherwise now is not that key's."""
        device.flags |= ELIGIBLE
        with pytest.raises(InvalidGrant):
            sign_in(device.sign_in(ASKED), made)

    @pytest.mark.parametrize(
        "text",
        ["", "A", "!!!!", encode(b"[]"), encode(b"{}"), encode(b'{"challenge":5}'), encode(b"[" * 9000)],
    )
    def test_client_data_that_cannot_be_read_is_malformed(self, text: str) -> None:
        """No traceback and no 500: what is no JSON object with a challenge is told so."""
        with pytest.raises(Malformed):
            challenge_in(text)
