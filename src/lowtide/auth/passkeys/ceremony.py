"""WebAuthn's two ceremonies as pure functions: what is asked of an authenticator, and whether it answered.

W3C Web Authentication Level 3, sections 7.1 (registration) and 7.2 (authentication). Every passkey is
discoverable and verifies its user (a finger, a face, a PIN), so that it signs in without a name and counts
as two factors. No attestation is asked for: which maker's device it is decides nothing here.

The checks of signatures and formats are those of the package ``webauthn``, imported when first needed: 0.3 s,
so call ``check_...`` in a thread. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from lowtide.kernel.base64url import decode, encode
from lowtide.kernel.errors import InvalidGrant, Malformed

MAX_RESPONSE = 16_384
"""Characters of each part of an authenticator's answer; a usual one has 400."""
MAX_CREDENTIAL_ID = 1023
"""Bytes (Level 3, section 5.8.3)."""
TIMEOUT = 300
"""Seconds that a user has to answer the authenticator's question."""
ALGORITHMS = (-7, -257, -8)
"""What a passkey may sign with: ES256, RS256, EdDSA (IANA's COSE numbers), the first preferred."""

Encoded = Annotated[str, msgspec.Meta(max_length=MAX_RESPONSE)]


class Registered(msgspec.Struct, rename="camel", kw_only=True):
    """What an authenticator answers to a registration (AuthenticatorAttestationResponseJSON).

    What else a browser sends along repeats parts of these, and is not read.
    """

    client_data_json: Encoded = msgspec.field(name="clientDataJSON")
    attestation_object: Encoded
    transports: Annotated[list[Annotated[str, msgspec.Meta(max_length=32)]], msgspec.Meta(max_length=16)] = []


class Asserted(msgspec.Struct, rename="camel", kw_only=True):
    """What an authenticator answers to a sign-in (AuthenticatorAssertionResponseJSON)."""

    client_data_json: Encoded = msgspec.field(name="clientDataJSON")
    authenticator_data: Encoded
    signature: Encoded
    user_handle: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class RegistrationCredential(msgspec.Struct, rename="camel", kw_only=True):
    """RegistrationResponseJSON (Level 3, section 5.1), as every platform's API gives it."""

    id: Encoded
    raw_id: Encoded
    response: Registered
    type: Literal["public-key"] = "public-key"


class AssertionCredential(msgspec.Struct, rename="camel", kw_only=True):
    """AuthenticationResponseJSON (Level 3, section 5.1), as every platform's API gives it."""

    id: Encoded
    raw_id: Encoded
    response: Asserted
    type: Literal["public-key"] = "public-key"


class NewCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey that was just made."""

    credential_id: str
    """base64url."""
    public_key: str
    """A COSE key (RFC 9052), base64url."""
    counter: int
    aaguid: str
    """The kind of authenticator, as far as it says; all zeros where it does not."""
    backup_eligible: bool
    """May the user's account at the maker copy it to other devices?"""
    backed_up: bool
    """Has it?"""


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey's answer that is right. ``counter`` is what it counts now; whether it went back is in
    ``counter_went_back``: then somebody may hold a copy."""

    counter: int
    backed_up: bool
    counter_went_back: bool


def user_handle(user: str) -> str:
    """What authenticators keep instead of the user's id: 32 bytes, base64url. It names nobody."""
    return encode(hashlib.sha256(b"lowtide/passkey/" + user.encode()).digest())


def creation_options(
    *,
    rp_id: str,
    rp_name: str,
    challenge: str,
    handle: str,
    name: str,
    known: Sequence[tuple[str, Sequence[str]]],
) -> dict[str, Any]:
    """PublicKeyCredentialCreationOptionsJSON: make a passkey on a device that holds none of ``known``."""
    return {
        "rp": {"id": rp_id, "name": rp_name},
        "user": {"id": handle, "name": name, "displayName": name},
        "challenge": encode(challenge.encode()),
        "pubKeyCredParams": [{"type": "public-key", "alg": algorithm} for algorithm in ALGORITHMS],
        "timeout": TIMEOUT * 1000,
        "excludeCredentials": [_descriptor(*one) for one in known],
        "authenticatorSelection": {
            "residentKey": "required",
            "requireResidentKey": True,
            "userVerification": "required",
        },
        "attestation": "none",
    }


def request_options(
    *, rp_id: str, challenge: str, allowed: Sequence[tuple[str, Sequence[str]]] = ()
) -> dict[str, Any]:
    """PublicKeyCredentialRequestOptionsJSON: sign with a passkey, any of ``rp_id`` or one of ``allowed``."""
    return {
        "rpId": rp_id,
        "challenge": encode(challenge.encode()),
        "timeout": TIMEOUT * 1000,
        "userVerification": "required",
        "allowCredentials": [_descriptor(*one) for one in allowed],
    }


def challenge_in(client_data: str) -> str:
    """The challenge that an answer's ``clientDataJSON`` holds. Nothing is proved yet. ``Malformed``."""
    try:
        found = json.loads(decode(client_data))
        challenge = decode(found["challenge"]).decode("ascii")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("The passkey's clientDataJSON cannot be read.") from error
    if found.get("crossOrigin", False) is not False:
        raise InvalidGrant("The passkey was asked for from inside another site's page.")
    return challenge


def check_registration(
    credential: RegistrationCredential, *, challenge: str, rp_id: str, origins: Sequence[str]
) -> NewCredential:
    """The passkey that ``credential`` made for ``challenge``. Raises ``InvalidGrant``."""
    from webauthn import verify_registration_response
    from webauthn.helpers.cose import COSEAlgorithmIdentifier
    from webauthn.helpers.structs import CredentialDeviceType

    try:
        made = verify_registration_response(
            credential=_plain(credential),
            expected_challenge=challenge.encode(),
            expected_rp_id=rp_id,
            expected_origin=list(origins),
            require_user_verification=True,
            supported_pub_key_algs=[COSEAlgorithmIdentifier(algorithm) for algorithm in ALGORITHMS],
        )
    # Whatever the package trips over in bytes that a stranger made is the stranger's fault.
    except Exception as error:
        raise _refused(error) from error
    credential_id = encode(made.credential_id)
    if credential_id != credential.id or not 16 <= len(made.credential_id) <= MAX_CREDENTIAL_ID:
        raise InvalidGrant("The passkey's id is not one that an authenticator makes.")
    return NewCredential(
        credential_id=credential_id,
        public_key=encode(made.credential_public_key),
        counter=made.sign_count,
        aaguid=made.aaguid,
        backup_eligible=made.credential_device_type == CredentialDeviceType.MULTI_DEVICE,
        backed_up=made.credential_backed_up,
    )


def check_assertion(
    credential: AssertionCredential,
    *,
    challenge: str,
    rp_id: str,
    origins: Sequence[str],
    public_key: str,
    counter: int,
    backup_eligible: bool,
) -> Assertion:
    """What ``credential`` proves for ``challenge``. Raises ``InvalidGrant``.

    A counter that did not grow is told and not raised, so that the caller can write it down: authenticators
    that do not count send 0 always (section 6.1.1).
    """
    from webauthn import verify_authentication_response
    from webauthn.helpers.structs import CredentialDeviceType

    try:
        found = verify_authentication_response(
            credential=_plain(credential),
            expected_challenge=challenge.encode(),
            expected_rp_id=rp_id,
            expected_origin=list(origins),
            credential_public_key=decode(public_key),
            credential_current_sign_count=-1,
            require_user_verification=True,
        )
    except Exception as error:
        raise _refused(error) from error
    if (found.credential_device_type == CredentialDeviceType.MULTI_DEVICE) != backup_eligible:
        # Section 7.2, step 18: it is a property of the key, and never changes.
        raise InvalidGrant("The passkey says something else of its backups than when it was made.")
    return Assertion(
        counter=found.new_sign_count,
        backed_up=found.credential_backed_up,
        counter_went_back=(found.new_sign_count > 0 or counter > 0) and found.new_sign_count <= counter,
    )


def _plain(credential: RegistrationCredential | AssertionCredential) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(credential)
    # The package wants one spelling of an id: base64url without padding.
    if credential.id != credential.raw_id:
        raise InvalidGrant("The passkey's id and rawId differ.")
    return plain


def _refused(error: Exception) -> InvalidGrant:
    if isinstance(error, InvalidGrant):
        return error
    return InvalidGrant("The passkey's answer is not right.", reason=f"{type(error).__name__}: {error}"[:300])


def _descriptor(credential_id: str, transports: Sequence[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {"type": "public-key", "id": credential_id}
    return found | {"transports": list(transports)} if transports else found
