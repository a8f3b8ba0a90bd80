"""Zstandard: Python's own from 3.14 on, its backport before."""

from __future__ import annotations

import functools
import sys
from typing import Any


@functools.cache
def library() -> Any:
    """``compression.zstd``, or what stands for it; loaded by the first call."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
