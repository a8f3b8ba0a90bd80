"""``lowtide schema``: the tables of a device, in the form that the client SDKs' core reads."""

from __future__ import annotations

import argparse
import json

from lowtide.cli.project import open_project
from lowtide.declare.clientschema import client_schema
from lowtide.sync.system import with_system


def run(arguments: argparse.Namespace) -> None:
    """Print them. Raises ``DeclarationError`` for an app that cannot start."""
    _, app = open_project()
    print(json.dumps(client_schema(with_system(app.compile())), indent=2))
