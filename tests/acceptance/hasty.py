"""``lowtide serve`` whose sessions' access tokens are good for two seconds, to the second."""

from __future__ import annotations

import sys

from lowtide.auth import Tokens, sessions
from lowtide.cli import main

LIFE = 2

if __name__ == "__main__":
    sessions.ACCESS = LIFE
    defaults = Tokens.__init__.__kwdefaults__
    assert defaults is not None
    defaults["leeway"] = 0
    sys.exit(main(["serve"]))
