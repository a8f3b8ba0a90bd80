"""``lowtide serve`` whose sessions' access tokens are good for two seconds, to the second."""

from __future__ import annotations

import sys

from lowtide.auth import sessions, tokens
from lowtide.cli import main

LIFE = 2

if __name__ == "__main__":
    assert sessions.ACCESS > LIFE
    assert tokens.CLOCKS_DIFFER > 0
    sessions.ACCESS, tokens.CLOCKS_DIFFER = LIFE, 0
    sys.exit(main(["serve"]))
