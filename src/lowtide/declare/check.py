"""Finding every mistake of an app before it serves anybody."""

from __future__ import annotations

import re

from lowtide.declare.check_functions import check_functions, check_hooks
from lowtide.declare.check_models import check_models
from lowtide.declare.check_streams import check_streams
from lowtide.declare.declared import Declared
from lowtide.declare.findings import Finding, Findings


def check(app: Declared) -> list[Finding]:
    """Everything found in ``app``, all at once, by file and line. No error among them: it compiles.

    It reads the declaration and the app's source files, and calls none of the app's functions.
    """
    found = Findings()
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", str(app.name)):
        found.error(
            app.place,
            "app-name",
            f"{app.name!r} cannot name an app",
            "Use up to 63 lowercase letters, digits, - and _, and start with a letter.",
        )
    check_models(found, app)
    check_streams(found, app)
    check_functions(found, app)
    check_hooks(found, app)
    return found.sorted()
