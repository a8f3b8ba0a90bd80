"""The texts that are sent: plain words, nothing loaded, nothing that a mail program would hide."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

from lowtide.auth.methods.messages import Message
from lowtide.auth.methods.pages import escaped

MINUTES = 10


def code_letter(
    app: str, to: str, code: str, link: str | None, *, device: str, asked_at: int, until: int
) -> Message:
    """The mail with a code and, where the server knows its own address, a link."""
    spaced = _spaced(code)
    when = datetime.fromtimestamp(asked_at / 1000, UTC).strftime("%H:%M UTC")
    where = f"on {device}, at {when}" if device else f"at {when}"
    lines = [f"Your code for {app}: {spaced}", "", f"Type it into the app. It is good for {MINUTES} minutes."]
    if link is not None:
        lines += ["", "Or open this link, on any device, and choose the number that the app shows:", link]
    calm = "If that was not you, ignore this mail, and give the code to nobody."
    lines += ["", f"It was asked for {where}. {calm}", ""]
    button = (
        ""
        if link is None
        else '<p style="margin:0 0 8px">Or confirm with a tap, and choose the number that the app shows:</p>'
        f'<p style="margin:0 0 24px"><a href="{escaped(link)}" style="display:inline-block;padding:14px 24px;'
        'border-radius:12px;background:#0b6e8f;color:#ffffff;font-weight:600;text-decoration:none">'
        "Sign in</a></p>"
    )
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"></head>'
        '<body style="margin:0;padding:24px;background:#eef3f6;'
        "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:#12242f\">"
        '<div style="max-width:420px;margin:0 auto;padding:32px 28px;background:#ffffff;border-radius:16px">'
        f'<p style="margin:0 0 4px">Your code for {escaped(app)}</p>'
        '<p style="margin:0 0 8px;font-size:34px;font-weight:700;letter-spacing:2px;white-space:nowrap">'
        f"{spaced}</p>"
        '<p style="margin:0 0 24px;color:#546a77">Type it into the app. '
        f"It is good for {MINUTES} minutes.</p>"
        f"{button}"
        f'<p style="margin:0;font-size:14px;color:#546a77">It was asked for {escaped(where)}. {calm}</p>'
        "</div></body></html>"
    )
    return Message(
        channel="mail",
        to=to,
        subject=f"{spaced} is your code for {app}",
        text="\n".join(lines),
        html=html,
        until=until,
    )


def code_text(app: str, to: str, code: str, address: str | None, until: int) -> Message:
    """The text message with a code; the last line lets phones offer it only to the app of ``address``."""
    text = f"{code} is your code for {app}. Give it to nobody."
    host = urlsplit(address).hostname if address else None
    if host is not None:
        text += f"\n\n@{host} #{code}"  # domain-bound codes: WICG "Origin-bound one-time codes"
    return Message(channel="sms", to=to, text=text, until=until)


def notice(
    app: str,
    to: str,
    what: str,
    until: int,
    *,
    unless: str = "If that was not you",
    then: str = "set a new one",
) -> Message:
    """A mail that tells of something that was done to an account.

    ``unless``: whom it should alarm. ``then``: what else to do about it.
    """
    calm = f"{unless}, sign in to {app}, end the sessions that you do not know, and {then}."
    text = f"{what}\n\n{calm}\n"
    return Message(channel="mail", to=to, subject=f"{app}: {what.rstrip('.')}", text=text, until=until)


def _spaced(code: str) -> str:
    return f"{code[:4]} {code[4:]}"
