"""``lowtide users``: the first admin."""

from __future__ import annotations

import argparse

from lowtide.app import Lowtide
from lowtide.auth.admin import Admin
from lowtide.auth.model import User
from lowtide.cli.opened import by_hand, with_backend
from lowtide.cli.project import open_project


def admin(arguments: argparse.Namespace) -> None:
    """Make whoever proves an e-mail address an admin."""
    settings, app = open_project()

    async def work(lowtide: Lowtide) -> User:
        actor = by_hand("user.change").actor
        return await Admin(lowtide.database, lowtide.accounts).make_admin(arguments.email, actor)

    user = with_backend(settings, app, work)
    print(f"{user.email} is an admin: user {user.id}")
