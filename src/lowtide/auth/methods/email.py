"""Signing in by e-mail: one mail with a code to type and a link to tap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec

from lowtide.auth.methods.addresses import email_address
from lowtide.auth.methods.codes import MAX_SECRET, Asked, Charge, Charges, Codes, Flow, Proved
from lowtide.auth.methods.letters import code_letter
from lowtide.auth.methods.networks import network
from lowtide.auth.methods.pages import escaped, page
from lowtide.auth.methods.signing import HEADERS, REFUSED, UNLINKED, Answered, Linking, Signing
from lowtide.auth.model import MAX_EMAIL, DeviceFacts, Evidence, Proof
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    InvalidGrant,
    Malformed,
    NotSetUp,
    SignInPending,
    TooManyRequests,
)
from lowtide.kernel.http import KIB, Answer, Request, Response, Route
from lowtide.kernel.rates import Limit

LINK = "/v1/auth/email/link"
PER_ADDRESS = (Limit(10, 900), Limit(40, 86_400))
"""Mails to one address: in a quarter of an hour, in a day."""
PER_PLACE = (Limit(4, 900), Limit(12, 86_400))
"""The same for what one network asks for: less, so that a stranger cannot use up all that its owner has."""
PER_DEVICE = (Limit(5, 900), Limit(20, 86_400))
"""The same for a device on which the owner has signed in before: counted apart, whatever strangers do."""
PER_NETWORK = Limit(60, 3_600, 20)
"""Mails that one network asks for."""
_NAMES = frozenset("'\u2019-_()+,")
"""Besides letters and digits, what names of devices hold."""
FORM = "application/x-www-form-urlencoded"

Secret = Annotated[str, msgspec.Meta(max_length=MAX_SECRET)]
Address = Callable[[Request[Any, Any]], str | None]
"""The beginning of links: where the user's browser reaches this server; None if that is not known."""


PAGES = (
    Answer(400, "A page that says what is wrong.", media_type="text/html"),
    Answer(410, "A page that says that the link is over.", media_type="text/html"),
)


class EmailStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose mailbox is to be proved."""

    email: Annotated[str, msgspec.Meta(max_length=2 * MAX_EMAIL)]
    device: DeviceFacts = DeviceFacts()


class EmailFinish(Linking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a flow: with the code, or without it once the link was confirmed."""

    flow_id: Secret
    code: Secret | None = None


class LinkOpened(msgspec.Struct, frozen=True):
    """A link that was opened."""

    token: Secret = ""


class LinkChosen(msgspec.Struct, frozen=True):
    """The form of the page behind a link."""

    token: str
    number: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}$")]
    """The one that the app shows, or 0: it was somebody else."""


def email_proof(address: str, *amr: str) -> Proof:
    """What a code from a mailbox proves."""
    return Proof(provider="email", subject=address, email=address, email_verified=True, amr=amr)


class Email:
    """Sends codes to mailboxes, and signs in who has them."""

    def __init__(self, codes: Codes, signing: Signing, clock: Clock, *, app: str, address: Address):
        """``app``: what mails call it."""
        self._codes = codes
        self._signing = signing
        self._clock = clock
        self._app = app
        self._address = address

    async def start(self, request: Request[EmailStart, None]) -> Flow:
        """Send a mail with a code and a link. The answer is the same whether anybody has that address."""
        to = email_address(request.body.email)
        device, now = shown(request.body.device.name), self._clock.now()
        base = self._address(request)
        charges: list[Charge] = [("email.network", network(request.client), PER_NETWORK)]
        place = f"{to} {network(request.client)}"
        charges += [(f"email.place.{limit.count}", place, limit) for limit in PER_PLACE]
        charges += [(f"email.address.{limit.count}", to, limit) for limit in PER_ADDRESS]

        def known(place: str) -> list[Charge]:
            return [(f"email.known.{limit.count}", f"{to} {place}", limit) for limit in PER_DEVICE]

        return await self._codes.start(
            "mail",
            to,
            Charges(charges, known),
            lambda secrets, until: code_letter(
                self._app,
                to,
                secrets.code,
                None if base is None else f"{base}{LINK}?token={secrets.link}",
                device=device,
                asked_at=now,
                until=until,
            ),
            device=device,
            installation=request.body.device.installation,
            ip=request.client,
        )

    async def check(self, flow_id: str, code: str | None) -> str:
        """The address of a flow, which goes on. Raises as ``prove`` for one that is over, or waits."""
        return await self._codes.check(flow_id, code)

    async def prove(self, flow_id: str, code: str | None, request: str) -> Evidence:
        """What a flow has proved. Raises ``InvalidGrant``, ``SignInPending``."""
        proved = await self._codes.prove(flow_id, code, request=request)
        return Evidence(self._proof(proved), proved.spend)

    async def finish(self, request: Request[EmailFinish, None]) -> Answered:
        """Sign in with the code from the mail, or, without one, once the link was confirmed."""
        body, ask = request.body, await self._signing.ask(request, request.body)
        evidence = await self.prove(body.flow_id, body.code, request.id)
        return await self._signing.complete(evidence, ask, request.keep)

    async def opened(self, request: Request[None, LinkOpened]) -> Response:
        """The page behind a mail's link. It changes nothing: mail scanners open links, too."""
        asked = await self._codes.look(request.query.token)
        return _over() if asked is None else self._question(request.query.token, asked)

    async def chosen(self, request: Request[bytes, None]) -> Response:
        """What the page sends: the number that was chosen. Only the right one lets the app go on."""
        token, number = _form(request.body)
        if await self._codes.confirm(token, number):
            return page(
                "Signed in",
                '<div class="mark" aria-hidden="true">&#10003;</div><h1>That was you</h1>'
                "<p>The app signs you in now. You may close this page.</p>",
            )
        return page(
            "Not signed in",
            "<h1>Nobody was signed in</h1><p>That was not the number that the app shows, or the link was "
            'used before. If it was you, begin again in the app.</p><p class="soft">If it was not, nothing '
            "else is to be done.</p>",
            status=400,
        )

    def _proof(self, proved: Proved) -> Proof:
        if proved.channel != "mail":
            raise InvalidGrant("This flow was begun with a telephone number.")
        return email_proof(proved.address, "otp")

    def _question(self, token: str, asked: Asked) -> Response:
        when = datetime.fromtimestamp(asked.asked_at / 1000, UTC).strftime("%H:%M UTC")
        facts = [
            ("Account", asked.address),
            ("Device", asked.device),
            ("Network", asked.ip),
            ("Asked at", when),
        ]
        rows = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in facts if value)
        buttons = "".join(
            f'<button name="number" value="{number}">{number}</button>' for number in asked.numbers
        )
        return page(
            f"Sign in to {self._app}",
            f'<div class="mark" aria-hidden="true">{escaped(self._app[:1].upper())}</div>'
            f"<h1>Sign in to {escaped(self._app)}?</h1>"
            f"<p>Tap the number that the app shows.</p><dl>{rows}</dl>"
            f'<form method="post" action="{LINK}"><input type="hidden" name="token" value="{escaped(token)}">'
            f'<div class="numbers">{buttons}</div>'
            '<button class="plain" name="number" value="0">It was not me</button></form>',
        )

    def routes(self) -> list[Route]:
        """``/v1/auth/email/...``"""
        return [
            Route(
                "POST",
                "/v1/auth/email/start",
                self.start,
                body=EmailStart,
                response=Flow,
                auth="none",
                max_body=16 * KIB,
                summary="Send a mail with a code and a link",
                errors=(Malformed, NotSetUp, TooManyRequests),
                tags=("sign-in",),
            ),
            Route(
                "POST",
                "/v1/auth/email/finish",
                self.finish,
                body=EmailFinish,
                response=Answered,
                headers=HEADERS,
                auth="none",
                max_body=16 * KIB,
                summary="Sign in with the code from a mail, or after its link was confirmed",
                errors=(InvalidGrant, SignInPending, *REFUSED, *UNLINKED),
                tags=("sign-in",),
            ),
            Route(
                "GET",
                LINK,
                self.opened,
                query=LinkOpened,
                auth="none",
                produces="text/html",
                answers=PAGES,
                summary="The page behind a mail's link",
                tags=("sign-in",),
            ),
            Route(
                "POST",
                LINK,
                self.chosen,
                body=bytes,
                form=LinkChosen,
                auth="none",
                max_body=4 * KIB,
                consumes=(FORM,),
                produces="text/html",
                answers=PAGES,
                summary="Confirm a mail's link",
                tags=("sign-in",),
            ),
        ]


def shown(text: str) -> str:
    """What a device calls itself, as a person is shown it: one short line, of which no mail program makes
    a link. Anybody can have a mail sent to anybody, and choose these words."""
    return " ".join("".join(c if c.isalnum() or c in _NAMES else " " for c in text[:200]).split())[:60]


def _form(body: bytes) -> tuple[str, int]:
    """The token and the number that a form sends; ("", 0) for what no page of ours sends."""
    try:
        fields = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=4, errors="strict")
        token, number = fields["token"][0], fields["number"][0]
    except (ValueError, KeyError):
        return "", 0
    return token, int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 0


def _over() -> Response:
    return page(
        "This link is over",
        "<h1>This link is over</h1><p>It was used, or it is older than ten minutes. Ask for a new one in the "
        "app.</p>",
        status=410,
    )
