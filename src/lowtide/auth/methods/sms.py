"""Text messages: codes to telephones, through the operator's provider.

Whoever makes a server send texts to numbers that they earn from (SMS pumping) is stopped by three counts: per
number, per network, and per country and hour in all. A device on which a number's owner has signed in before
has counts of its own, so that such a flood does not lock owners out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from lowtide.auth.methods.addresses import phone_number
from lowtide.auth.methods.codes import MAX_SECRET, Charge, Charges, Codes, Flow
from lowtide.auth.methods.letters import code_text
from lowtide.auth.methods.messages import Message
from lowtide.auth.methods.networks import network
from lowtide.auth.methods.signing import HEADERS, REFUSED, UNLINKED, Answered, Linking, Signing
from lowtide.auth.model import DeviceFacts, Evidence, Proof
from lowtide.egress import Egress
from lowtide.kernel.errors import (
    AddressRefused,
    Forbidden,
    InvalidGrant,
    Malformed,
    NotSetUp,
    OutsideFailed,
    SetupError,
    TooManyRequests,
)
from lowtide.kernel.http import KIB, Request, Route
from lowtide.kernel.rates import Limit
from lowtide.storage.jobs import Hopeless

PER_NUMBER = (Limit(6, 900), Limit(15, 86_400))
"""Texts to one number: in a quarter of an hour, in a day."""
PER_PLACE = (Limit(2, 900), Limit(6, 86_400))
"""The same for what one network asks for: less, so that a stranger cannot use up all that its owner has."""
PER_DEVICE = (Limit(3, 900), Limit(8, 86_400))
"""The same for a device on which the owner has signed in before: counted apart, whatever strangers do."""
PER_NETWORK = Limit(20, 3_600, 10)
"""Texts that one network asks for."""
DEADLINE = 20.0
"""Seconds that the provider may take."""
MAX_ANSWER = 16 * KIB
"""Bytes of the provider's answer that are read."""

# ITU-T E.164: country codes of one and of two digits; all others have three.
_ONE = frozenset("17")
_TWO = frozenset(
    "20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 "  # noqa: SIM905
    "81 82 84 86 90 91 92 93 94 95 98".split()
)
_PLACE = re.compile(r"\$(?:to|text)\b")

Secret = Annotated[str, msgspec.Meta(max_length=MAX_SECRET)]


class HttpSms:
    """Carries texts to a provider, by one POST each."""

    def __init__(self, egress: Egress, url: str, body: str, authorization: str):
        """``body``: JSON or a form (``To=$to&Body=$text``), in which ``$to`` and ``$text`` are replaced.

        Raises ``SetupError`` for one that has neither, and for an address that cannot be asked.
        """
        self._egress = egress
        self._url = url
        self._headers = {"authorization": authorization} if authorization else {}
        try:
            egress.check(url)
        except AddressRefused as error:
            raise SetupError(f"The setting 'sms_url' cannot be asked: {error}", hint=error.hint) from error
        self._json: Any = None
        self._form: list[tuple[str, str]] = []
        if body.lstrip().startswith("{"):
            try:
                self._json = msgspec.json.decode(body)
            except msgspec.DecodeError as error:
                raise _wrong(f"it is not JSON ({error})") from error
        else:
            self._form = parse_qsl(body, keep_blank_values=True)
        if "$to" not in body or "$text" not in body:
            raise _wrong("it needs $to and $text")

    async def carry(self, message: Message, number: str) -> None:
        """Send ``message``. Raises ``Hopeless`` when the provider refuses it (4xx but 408, 425 and 429)."""
        values = {"$to": message.to, "$text": message.text}
        if self._json is not None:
            kind, body = "application/json", msgspec.json.encode(_filled(self._json, values))
        else:
            pairs = [(name, _filled(value, values)) for name, value in self._form]
            kind, body = "application/x-www-form-urlencoded", urlencode(pairs).encode()
        answer = await self._egress.request(
            "POST",
            self._url,
            headers={"content-type": kind, "idempotency-key": number, **self._headers},
            body=body,
            deadline=DEADLINE,
            max_bytes=MAX_ANSWER,
        )
        if 200 <= answer.status < 300:
            return
        if 400 <= answer.status < 500 and answer.status not in (401, 403, 408, 425, 429):
            raise Hopeless(f"The provider refuses the text message: {answer.status}.")
        raise OutsideFailed(f"The provider of text messages answers {answer.status}.")


class SmsStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose telephone is to be proved."""

    phone: Annotated[str, msgspec.Meta(max_length=40)]
    device: DeviceFacts = DeviceFacts()


class SmsFinish(Linking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a flow: with the code from the text message."""

    flow_id: Secret
    code: Secret


class Sms:
    """Sends codes to telephones, and signs in who has them."""

    def __init__(
        self,
        codes: Codes,
        signing: Signing,
        *,
        app: str,
        address: str,
        prefixes: Sequence[str],
        per_hour: int,
    ):
        """``prefixes``: which numbers get texts, all if empty. ``per_hour``: texts to one country."""
        self._codes = codes
        self._signing = signing
        self._app = app
        self._address = address
        self._prefixes = tuple(prefixes)
        self._per_country = Limit(per_hour, 3_600)
        if wrong := [prefix for prefix in prefixes if not (prefix[:1] == "+" and prefix[1:].isdigit())]:
            raise SetupError(
                f"The setting 'sms_prefixes' holds {wrong[0]!r}.", hint="A prefix has the form +41."
            )

    async def start(self, request: Request[SmsStart, None]) -> Flow:
        """Send a text message with a code. The answer is the same whether anybody has that number."""
        to = phone_number(request.body.phone)
        if self._prefixes and not to.startswith(self._prefixes):
            raise Forbidden("No text messages are sent to that country.", hint="Sign in another way.")
        charges: list[Charge] = [("sms.network", network(request.client), PER_NETWORK)]
        place = f"{to} {network(request.client)}"
        charges += [(f"sms.place.{limit.count}", place, limit) for limit in PER_PLACE]
        charges += [(f"sms.number.{limit.count}", to, limit) for limit in PER_NUMBER]
        country = country_code(to)
        charges.append(("sms.country", country, self._per_country))

        def known(place: str) -> list[Charge]:
            own = [(f"sms.known.{limit.count}", f"{to} {place}", limit) for limit in PER_DEVICE]
            return [*own, ("sms.known.country", country, self._per_country)]

        return await self._codes.start(
            "sms",
            to,
            Charges(charges, known),
            lambda secrets, until: code_text(self._app, to, secrets.code, self._address, until),
            installation=request.body.device.installation,
            ip=request.client,
        )

    async def finish(self, request: Request[SmsFinish, None]) -> Answered:
        """Sign in with the code from the text message."""
        body, ask = request.body, await self._signing.ask(request, request.body)
        proved = await self._codes.prove(body.flow_id, body.code, request=request.id)
        if proved.channel != "sms":
            raise InvalidGrant("This flow was begun with an e-mail address.")
        number = proved.address
        proof = Proof(provider="phone", subject=number, phone=number, phone_verified=True, amr=("sms",))
        return await self._signing.complete(Evidence(proof, proved.spend), ask, request.keep)

    def routes(self) -> list[Route]:
        """``/v1/auth/sms/...``"""
        return [
            Route(
                "POST",
                "/v1/auth/sms/start",
                self.start,
                body=SmsStart,
                response=Flow,
                auth="none",
                max_body=16 * KIB,
                summary="Send a text message with a code",
                errors=(Malformed, Forbidden, NotSetUp, TooManyRequests),
                tags=("sign-in",),
            ),
            Route(
                "POST",
                "/v1/auth/sms/finish",
                self.finish,
                body=SmsFinish,
                response=Answered,
                auth="none",
                max_body=16 * KIB,
                headers=HEADERS,
                summary="Sign in with the code from a text message",
                errors=(InvalidGrant, *REFUSED, *UNLINKED),
                tags=("sign-in",),
            ),
        ]


def country_code(number: str) -> str:
    """The country code of a number in the form of E.164, with its plus."""
    digits = number[1:]
    return "+" + (digits[:1] if digits[0] in _ONE else digits[:2] if digits[:2] in _TWO else digits[:3])


def _filled(value: Any, values: dict[str, str]) -> Any:
    """``value`` with what stands for a number and a text replaced, in every text that it holds."""
    if isinstance(value, str):
        # One pass: a text that holds "$to" is not read again.
        return _PLACE.sub(lambda found: values[found[0]], value)
    if isinstance(value, dict):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value


def _wrong(why: str) -> SetupError:
    return SetupError(
        f"The setting 'sms_body' is not a request: {why}.",
        hint='Write it as {"to": "$to", "text": "$text"}, or as a form: To=$to&Body=$text.',
    )
