"""What every test may ask for."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Lowtide runs on asyncio; its tests do too."""
    return "asyncio"
