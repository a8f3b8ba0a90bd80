"""``lowtide check``: every mistake at once, each with its line; then what would break a device."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path

import msgspec

from lowtide.app import build
from lowtide.cli.opened import with_reader
from lowtide.cli.project import open_settings
from lowtide.declare.app import App
from lowtide.declare.evolve import compare
from lowtide.declare.load import check_path, load_app
from lowtide.kernel.errors import NoDatabase
from lowtide.settings import Settings
from lowtide.sync.deploy import read_deployed


def run(arguments: argparse.Namespace) -> int:
    """Print what is found in this folder's settings and app; 1 if it cannot start. Raises ``SetupError``."""
    settings = open_settings()
    findings = check_path(Path.cwd(), settings.app)
    for finding in findings:
        print(msgspec.structs.replace(finding, file=os.path.relpath(finding.file)))
    app = None
    if not any(finding.severity == "error" for finding in findings):
        app = load_app(Path.cwd(), settings.app)
        # A key of nobody's: to look makes none, and it may well not be on the machine that checks.
        build(msgspec.structs.replace(settings, secret_key="A" * 43), app)
    found = Counter(finding.severity for finding in findings)
    errors, warnings = _count(found["error"], "error"), _count(found["warning"], "warning")
    print(f"{errors}, {warnings}: the app {'cannot' if found['error'] else 'can'} start.")
    return 1 if app is None else _compare(settings, app)


def _compare(settings: Settings, app: App) -> int:
    """Print what changed since the app was deployed last; 1 if a device in the field would break."""
    try:
        old = with_reader(settings, read_deployed)
    except NoDatabase:
        print("No version is deployed yet: there is nothing to compare with.")
        return 0
    changes = [] if old is None else compare(old, app.compile())
    for change in changes:
        print(change)
    refused = sum(change.severity == "refuse" for change in changes)
    if refused:
        print(f"{_count(refused, 'change')} would break devices in the field: the app cannot be deployed.")
        return 1
    print(f"{_count(len(changes), 'change')} since the deployed version; devices in the field go on working.")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
