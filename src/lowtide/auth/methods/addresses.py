"""Addresses of people, in the one form under which they are kept and compared."""

from __future__ import annotations

import re

from lowtide.auth.model import MAX_EMAIL
from lowtide.kernel.errors import Malformed

# What HTML's <input type=email> takes, with a dot in the domain. ASCII only: in other alphabets two
# addresses look the same that are not.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})+")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")


def email_address(text: str) -> str:
    """``text`` as an e-mail address in lower case, without spaces around. Raises ``Malformed``."""
    address = text.strip()
    if len(address) > MAX_EMAIL or _EMAIL.fullmatch(address) is None:
        raise Malformed(
            "That is not an e-mail address.",
            hint="It has the form name@example.com, in ASCII; a domain in other letters in its xn-- form.",
        )
    return address.lower()


def phone_number(text: str) -> str:
    """``text`` as a number in the form of E.164: a plus and 7 to 15 digits. Raises ``Malformed``.

    Spaces, dots, hyphens and brackets between the digits are left out.
    """
    number = re.sub(r"[ ().\-]", "", text[:40])
    if len(text) > 40 or _PHONE.fullmatch(number) is None:
        raise Malformed(
            "That is not a telephone number.",
            hint="Write it with its country's code, as in +41 44 668 18 00.",
        )
    return number
