"""The pages that people see: small, without script, usable with a keyboard, a thumb or a screen reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from lowtide.auth.methods.pages import escaped as _e
from lowtide.auth.methods.pages import page
from lowtide.auth.provider.consents import App
from lowtide.auth.provider.discovery import LOGOUT, SCRIPT
from lowtide.kernel.clients import Client
from lowtide.kernel.http import Response

WORDS = {
    "openid": "know that it is you",
    "profile": "see your name",
    "email": "see your e-mail address",
    "phone": "see your telephone number",
    "offline_access": "stay signed in until you sign out",
    "api": "read and change your data in this app",
}
"""What a scope means to whoever grants it."""


class SignInPage(msgspec.Struct, frozen=True, kw_only=True):
    """What the sign-in page offers."""

    form: str
    """How every form of the page begins."""
    email: str
    bad: str
    password: bool
    opened: bool
    """Show the password."""
    passkey: Mapping[str, Any] | None
    """What to ask of a device."""
    elsewhere: Sequence[tuple[str, str]]
    """Outside providers: what people call each, and the address that leads there."""


class Pages:
    """Makes the pages of the app called ``title``. ``address``: the server's, where the script lies."""

    def __init__(self, title: str, address: str):
        self._title = title
        self._script = address + SCRIPT

    def sign_in(self, client: Client, page: SignInPage, *, leads_to: str, status: int) -> Response:
        """Who are you?"""
        to = "" if client.first_party else f'<p class="soft">to go on to {_e(client.name)}</p>'
        secret = (
            f"<details{' open' if page.opened else ''}><summary>Use a password instead</summary>"
            '<label>Password<input type="password" name="password" autocomplete="current-password" '
            'maxlength="1024"></label><button>Sign in</button></details>'
        )
        more = "".join(
            f'<a class="way" href="{_e(address)}"><span aria-hidden="true">{_e(title[:1].upper())}</span>'
            f"Continue with {_e(title)}</a>"
            for title, address in page.elsewhere
        )
        if page.passkey is not None:
            more = _passkey(page.form + _step("passkey"), page.passkey, conditional=True) + more
        # Without outside providers there is nothing else until the script shows the passkey.
        others = f'<section{"" if page.elsewhere else " hidden"}><p class="or">or</p>{more}</section>'
        return self._page(
            "Sign in",
            f"{self._mark()}<h1>Sign in to {_e(self._title)}</h1>{to}{_bad(page.bad)}"
            f"{page.form}{_step('email')}"
            '<label>E-mail address<input type="email" name="email" autocomplete="username webauthn" '
            'inputmode="email" autocapitalize="none" spellcheck="false" maxlength="254" required '
            f'value="{_e(page.email)}" autofocus></label><button>Send me a code</button>'
            f"{secret if page.password else ''}</form>{others if more else ''}",
            leads_to=leads_to,
            status=status,
            script=page.passkey is not None,
        )

    def code(self, form: str, *, email: str, number: str, bad: str, leads_to: str) -> Response:
        """The code that was sent, or its link, for which the page shows a number."""
        link = (
            f"<details><summary>Use the link instead</summary><p>Open the link in the mail, and choose the "
            f'number <strong class="shown">{_e(number)}</strong> there. Then come back.</p>'
            f'{form}{_step("link")}<button class="plain">I have done that</button></form>'
            "</details>"
        )
        return self._page(
            "Your code",
            f"{self._mark()}<h1>Look into your mailbox</h1>"
            f"<p>A code is on its way to <strong>{_e(email)}</strong>.</p>{_bad(bad)}"
            f"{form}{_step('code')}"
            '<label>Code<input class="code" name="code" autocomplete="one-time-code" inputmode="numeric" '
            'autocapitalize="none" maxlength="32" required autofocus></label><button>Sign in</button></form>'
            f"{link}"
            f"{form}{_step('start')}"
            '<button class="plain">Use another address</button></form>',
            leads_to=leads_to,
            status=400 if bad else 200,
        )

    def second(
        self,
        form: str,
        *,
        factors: Sequence[str],
        passkey: Mapping[str, Any] | None,
        bad: str,
        leads_to: str,
    ) -> Response:
        """The second factor."""
        hint = " A recovery code is good, too." if "recovery" in factors else ""
        more = ""
        if passkey is not None:
            button = _passkey(form + _step("second"), passkey, conditional=False)
            more = f'<section hidden><p class="or">or</p>{button}</section>'
        return self._page(
            "Second step",
            f"{self._mark()}<h1>One more step</h1>"
            f"<p>Open your authenticator app and type the code that it shows.{hint}</p>{_bad(bad)}"
            f"{form}{_step('second')}"
            '<label>Code<input class="code" name="code" autocomplete="one-time-code" autocapitalize="none" '
            f'maxlength="64" required autofocus></label><button>Sign in</button></form>{more}',
            leads_to=leads_to,
            status=400 if bad else 200,
            script=passkey is not None,
        )

    def consent(
        self, client: Client, form: str, *, who: str, scope: Sequence[str], leads_to: str
    ) -> Response:
        """Do you agree?"""
        wants = "".join(f"<li>{_e(WORDS[name])}</li>" for name in scope)
        return self._page(
            "Do you agree?",
            f"{self._mark()}<h1>{_e(client.name)} wants to use your account</h1>"
            f'<p class="soft">You are signed in as {_e(who)}.</p><p>It will:</p><ul>{wants}</ul>'
            f'{form}{_step("consent")}<button name="answer" value="yes">Allow</button>'
            '<button class="plain" name="answer" value="no">Not now</button></form>',
            leads_to=leads_to,
        )

    def sign_out(self, form: str, *, who: str, leads_to: str) -> Response:
        """Do you want to sign out?"""
        return self._page(
            "Sign out",
            f"{self._mark()}<h1>Sign out?</h1><p>You are signed in as <strong>{_e(who)}</strong> in this "
            f'browser.</p>{form}<button name="answer" value="yes">Sign out</button>'
            '<button class="plain" name="answer" value="no">Stay signed in</button></form>',
            leads_to=leads_to,
        )

    def apps(self, apps: Sequence[App], form: str, *, who: str, done: bool, bad: str) -> Response:
        """What apps may act for the user, each with a button that ends it."""
        said = '<p class="good" role="status">That is withdrawn.</p>' if done else ""
        shown = "".join(self._one(app, form) for app in apps) or "<p>No app uses your account.</p>"
        return self._page(
            "Your apps",
            f"{self._mark()}<h1>Apps that use your account</h1>"
            f'<p class="soft">You are signed in as {_e(who)}.</p>{said}{_bad(bad)}{shown}'
            f'<p class="foot"><a href="{LOGOUT}">Sign out of this browser</a></p>',
            leads_to="",
            status=400 if bad else 200,
        )

    def _one(self, app: App, form: str) -> str:
        wants = "".join(f"<li>{_e(WORDS[name])}</li>" for name in WORDS if name in app.scopes)
        facts = ["part of " + self._title] if app.first_party else []
        facts += [f"agreed on {_day(app.agreed_at)}"] if app.agreed_at is not None else []
        facts += [f"last used on {_day(app.used_at)}"] if app.used_at is not None else ["not signed in"]
        told = ", ".join(facts)
        # Every button says whose it is: a screen reader reads it alone.
        return (
            f'<article><h2>{_e(app.name)}</h2><p class="soft">{_e(told[:1].upper() + told[1:])}.</p>'
            f"<p>It may:</p><ul>{wants}</ul>{form}{hidden(client=app.client)}"
            f'<button class="plain" aria-label="Withdraw from {_e(app.name)}">Withdraw</button>'
            "</form></article>"
        )

    def said(self, title: str, text: str, *, status: int = 200) -> Response:
        """A page that only says something."""
        return self._page(
            title, f"{self._mark()}<h1>{_e(title)}</h1><p>{_e(text)}</p>", leads_to="", status=status
        )

    def _mark(self) -> str:
        return f'<div class="mark" aria-hidden="true">{_e(self._title[:1].upper())}</div>'

    def _page(
        self, title: str, body: str, *, leads_to: str, status: int = 200, script: bool = False
    ) -> Response:
        return page(
            f"{title} - {self._title}",
            body,
            status=status,
            leads_to=leads_to,
            script=self._script if script else "",
        )


def begun(address: str = "") -> str:
    """How a form begins that is sent to ``address``, or to where its page stands."""
    action = f' action="{_e(address)}"' if address else ""
    return f'<form method="post"{action}>'


def hidden(**values: str) -> str:
    """Fields of a form that nobody sees."""
    return "".join(
        f'<input type="hidden" name="{name}" value="{_e(value)}">' for name, value in values.items()
    )


def go(location: str) -> Response:
    """On to ``location``. 303: a form that was posted is not posted on (RFC 9700 section 4.12)."""
    return Response(status=303, headers={"location": location, "referrer-policy": "no-referrer"})


def _day(milliseconds: int) -> str:
    day = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{day.day} {day:%B %Y}"


def _passkey(form: str, options: Mapping[str, Any], *, conditional: bool) -> str:
    """The form that the script shows where the browser knows passkeys."""
    about = _e(msgspec.json.encode(options).decode())
    named = f'<form id="passkey" hidden data-options="{about}"{" data-conditional" if conditional else ""} '
    return (
        f'{form.replace("<form ", named, 1)}<input type="hidden" name="credential">'
        f'<button class="way">{_KEY}Use a passkey</button>'
        '<p id="passkey-said" class="bad" role="alert"></p></form>'
    )


_KEY = (
    '<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none" stroke="currentColor" '
    'stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round"><circle cx="9" cy="8" r="3.5"/>'
    '<path d="M3 20c0-3.5 2.6-6 6-6 1 0 2 .2 2.8.6"/><circle cx="17.5" cy="13.5" r="2.5"/>'
    '<path d="M17.5 16v5l1.5-1.5M17.5 18.5 19 17"/></svg>'
)
"""Somebody, and a key."""


def _step(name: str) -> str:
    return hidden(step=name)


def _bad(text: str) -> str:
    return f'<p class="bad" role="alert">{_e(text)}</p>' if text else ""
