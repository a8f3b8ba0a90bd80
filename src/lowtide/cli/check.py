"""``lowtide check``: every mistake at once, each with its line."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

import msgspec

from lowtide.cli.project import open_settings
from lowtide.kernel.load import check_path


def run(arguments: argparse.Namespace) -> int:
    """Print what is found in this folder's settings and app; 1 if it cannot start."""
    settings = open_settings()
    findings = check_path(Path.cwd(), settings.app)
    for finding in findings:
        print(msgspec.structs.replace(finding, file=os.path.relpath(finding.file)))
    found = Counter(finding.severity for finding in findings)
    errors, warnings = _count(found["error"], "error"), _count(found["warning"], "warning")
    print(f"{errors}, {warnings}: the app {'cannot' if found['error'] else 'can'} start.")
    return 1 if found["error"] else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
