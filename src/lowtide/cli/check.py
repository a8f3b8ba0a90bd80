"""``lowtide check``: every mistake at once, each with its line."""

from __future__ import annotations

import argparse
import os
from collections import Counter

import msgspec

from lowtide.cli.project import open_project
from lowtide.kernel.check import check


def run(arguments: argparse.Namespace) -> int:
    """Print what is found in this folder's app; 1 if it cannot start."""
    _, app = open_project()
    findings = check(app)
    for finding in findings:
        print(msgspec.structs.replace(finding, file=os.path.relpath(finding.file)))
    found = Counter(finding.severity for finding in findings)
    if found["error"]:
        print(f"{_count(found['error'], 'mistake')}: '{app.name}' cannot start.")
        return 1
    declared = {"model": len(app.models), "stream": len(app.streams), "function": len(app.functions)}
    parts = [_count(number, noun) for noun, number in declared.items()]
    print(f"'{app.name}' can start: {', '.join(parts)}.")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
