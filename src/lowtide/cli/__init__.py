"""The command line: what can be asked, and how an error is told.

A command is a function ``run(arguments)`` in a module of its own, imported only when it is asked
for, so that ``lowtide --help`` answers at once. It returns the exit code, or nothing for 0, and
raises ``LowtideError`` for what the caller can mend: that becomes two lines on stderr and exit code
1. A wrong command line exits with 2, Ctrl-C with 130. A traceback is shown with ``--debug`` only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from lowtide import __version__
from lowtide.kernel.errors import LowtideError, NotFound, Unavailable

DESCRIPTION = "A mobile backend that keeps working when the network does not."
LISTS = ("jobs", "keys", "webhooks")
"""Commands that print, alone, what their others name."""
FIRST_STEPS = """first steps:
  lowtide new app && cd app && lowtide dev
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    module, _, function = arguments.command.partition(":")
    try:
        code = getattr(import_module(f"lowtide.cli.{module}"), function)(arguments)
    except LowtideError as error:
        if arguments.debug:
            raise
        return _told(error.message, _hint(error, module))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stderr.close()
        return 1
    except Exception as error:
        if arguments.debug:
            raise
        return _told(f"{type(error).__name__}: {error}", "Run it again with --debug for the whole story.")
    return code or 0


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, without the modules behind it."""
    parser = _Parser(
        prog="lowtide",
        description=DESCRIPTION,
        epilog=FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    parser.set_defaults(debug=False, command=None)
    commands = parser.add_subparsers(title="commands", metavar="command")
    _add_development(commands)
    _add_data(commands)
    _add_operation(commands)
    return parser


def _add_development(commands: Any) -> None:
    new = _command(commands, "new", "new:run", "Write a small example app into a new folder.")
    new.add_argument("folder", help="the folder to make; its name becomes the app's name")

    dev = _command(
        commands, "dev", "dev:run", "Serve this folder's app, and start again when a file changes."
    )
    dev.add_argument("--port", type=_port, metavar="N", help="default: the setting, or the next free port")
    dev.add_argument("--lan", action="store_true", help="listen for phones on this network, too")

    child = _command(commands, "dev-child", "dev:run_child", "")
    child.add_argument("--fd", type=int, required=True)
    child.add_argument("--lan", action="store_true")
    child.add_argument("--again", action="store_true")

    _command(commands, "check", "check:run", "Look for mistakes in the settings and the app.")
    _command(commands, "schema", "schema:run", "Print the tables that devices have, as JSON for their SDKs.")
    client = _command(
        commands, "client", "client:run", "Write the schema, typed models and the connector for a platform."
    )
    client.add_argument("platform", choices=("typescript", "swift", "kotlin", "dart"))
    client.add_argument("-o", "--output", default=".", metavar="FOLDER", help="default: this folder")

    _command(
        commands, "outbox", "outbox:run", "Print what 'lowtide dev' would have sent: mails, text messages."
    )

    token = _command(commands, "token", "token:run", "Print a signed token for a user.")
    token.add_argument("--user", required=True, metavar="ID", help="whose token it is")
    token.add_argument("--space", default="main", help="in which space the user acts (default: main)")
    token.add_argument("--ttl", default="1h", help="how long it is good: 90s, 15m, 2h (default: 1h)")
    token.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a claim of the app's own; repeatable",
    )
    token.add_argument(
        "--role",
        action="append",
        default=[],
        metavar="NAME",
        help="what the user is in the space, such as developer; repeatable",
    )
    token.add_argument(
        "--server", action="store_true", help="for the app's own servers: no write rule binds it"
    )


def _add_data(commands: Any) -> None:
    out = _command(commands, "export", "transfer:export_records", "Write a model's records as NDJSON or CSV.")
    out.add_argument("model")
    out.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    into = _command(commands, "import", "transfer:import_records", "Create or update records from a file.")
    into.add_argument("model")
    into.add_argument("file", help="a .csv or .ndjson file; - for standard input")
    for sub in (out, into):
        sub.add_argument("--csv", action="store_true", help="CSV, whatever the file is called")
        sub.add_argument("--space", default="main", help="default: main")

    backup = _command(commands, "backup", "backup:backup", "Copy the database while it is in use.")
    backup.add_argument("file")
    restore = _command(commands, "restore", "backup:restore", "Put a backup in the database's place.")
    restore.add_argument("file", nargs="?", help="none on PostgreSQL, after pg_restore")


def _add_operation(commands: Any) -> None:
    _command(commands, "serve", "serve:run", "Serve this folder's app in production.")

    passwords = _command(commands, "passwords", None, "Look after the passwords that nobody may choose.")
    steps = passwords.add_subparsers(title="commands", metavar="command", required=True)
    built = _command(
        steps, "build", "passwords:make", "Make a file of leaked passwords from a published list."
    )
    built.add_argument("source", help="lines of SHA-1[:count], or of passwords; - for standard input")
    built.add_argument("-o", "--file", default="leaked-passwords", help="default: leaked-passwords")
    built.add_argument("--least", type=int, default=1, metavar="N", help="leave out what was seen less often")

    db = _command(commands, "db", None, "Look at the database's version, or bring it up to date.")
    steps = db.add_subparsers(title="commands", metavar="command", required=True)
    _command(steps, "status", "db:status", "Print every migration, done or to do.")
    _command(steps, "migrate", "db:migrate", "Apply what is missing, as a starting server does.")

    keys = _command(commands, "keys", "keys:show", "Print the keys that sign tokens, or change them.")
    steps = keys.add_subparsers(title="commands", metavar="command")
    _command(steps, "rotate", "keys:rotate", "Let the next key sign from now on.")
    revoke = _command(steps, "revoke", "keys:revoke", "Make every token that a key signed invalid.")
    revoke.add_argument("key")

    secrets = _command(commands, "secrets", None, "Make the key that seals secrets, or change it.")
    steps = secrets.add_subparsers(title="commands", metavar="command", required=True)
    make = _command(steps, "new", "secrets:new", "Write a new secret key into a file.")
    make.add_argument("file", help="a file that is not there yet")
    rotate = _command(steps, "rotate", "secrets:rotate", "Seal the database's secrets with a new data key.")
    rotate.add_argument(
        "--master", metavar="FILE", help="wrap the data keys with the secret key in FILE, too"
    )

    jobs = _command(commands, "jobs", "jobs:show", "Print which jobs there are, and the dead ones.")
    steps = jobs.add_subparsers(title="commands", metavar="command")
    requeue = _command(steps, "requeue", "jobs:requeue", "Let a dead job run again.")
    requeue.add_argument("id")

    hooks = _command(commands, "webhooks", "webhooks:show", "Print where events go, and whether they arrive.")
    steps = hooks.add_subparsers(title="commands", metavar="command")
    tried = _command(steps, "test", "webhooks:test", "Send a test event, and print what came back.")
    tried.add_argument("id")
    again = _command(steps, "replay", "webhooks:replay", "Send an endpoint's dead messages again.")
    again.add_argument("id")

    _add_audit(commands)

    doctor = _command(commands, "doctor", "doctor:run", "Look for what is open in this deployment.")
    doctor.add_argument("--url", metavar="URL", help="also ask the server that runs there, from outside")
    doctor.add_argument("--backups", metavar="DIR", help="the folder that holds the backups")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    users = _command(commands, "users", None, "Look after who may do what.")
    steps = users.add_subparsers(title="commands", metavar="command", required=True)
    admin = _command(steps, "admin", "users:admin", "Make whoever proves an e-mail address an admin.")
    admin.add_argument("email")

    devices = _command(commands, "devices", "devices:run", "Print who has synchronised, when, and how far.")
    devices.add_argument("--space", default="main", help="default: main")


def _add_audit(commands: Any) -> None:
    audit = _command(commands, "audit", None, "Look at who did what, and prove that nothing was altered.")
    steps = audit.add_subparsers(title="commands", metavar="command", required=True)
    show = _command(steps, "list", "audit:show", "Print entries of the audit log, the newest first.")
    out = _command(steps, "export", "audit:export_entries", "Write entries as NDJSON, the oldest first.")
    for sub in (show, out):
        sub.add_argument("--actor", default="", metavar="WHO", help="such as user:<id>")
        sub.add_argument("--action", default="", metavar="PREFIX", help="such as key. or session.revoke")
        sub.add_argument("--target", default="", metavar="WHAT", help="such as user:<id>")
        sub.add_argument(
            "--since", default="", metavar="TIME", help="such as 2026-11-22 or 2026-11-22T12:00, UTC"
        )
        sub.add_argument("--until", default="", metavar="TIME", help="before that time; default: now")
    out.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    show.add_argument("--request", default="", metavar="ID", help="the id of one request")
    show.add_argument("--limit", type=int, default=100, metavar="N", help="default: 100")
    check = _command(steps, "verify", "audit:check", "Walk the whole log: 1 if something was altered.")
    check.add_argument(
        "--checkpoints", metavar="PLACE", help="a folder or s3://bucket/prefix; default: the setting"
    )
    check.add_argument(
        "--key",
        action="append",
        default=[],
        help="trust only this key, not those in the database; repeatable",
    )
    key = _command(steps, "key", "audit:key", "Print the public key that verifies checkpoints.")
    key.add_argument("--rotate", action="store_true", help="make a new one first")
    _command(steps, "checkpoint", "audit:checkpoint", "Print a signed checkpoint of the log as it is now.")


def _command(commands: Any, name: str, run: str | None, text: str) -> argparse.ArgumentParser:
    # A command without a text is for Lowtide itself, and not in the list.
    shown = {"help": text, "description": text} if text else {}
    sub: argparse.ArgumentParser = commands.add_parser(name, **shown)
    sub.add_argument("--debug", action="store_true", help="show tracebacks")
    if run is not None:
        sub.set_defaults(command=run)
    return sub


def _hint(error: LowtideError, module: str) -> str:
    """What to do next: what is wrong here is for the operator, what a class tells an API's client is not."""
    ours = error.status >= 500 and error.hint not in (LowtideError.hint, Unavailable.hint)
    if ours or error.hint != type(error).hint:
        return error.hint
    match error:
        case NotFound() if module in LISTS:
            return f"'lowtide {module}' lists what there is."
        case Unavailable():
            return "Try again in a moment."
        case _ if error.status >= 500:
            return "Run it again with --debug for the whole story."
        case _:
            return f"'lowtide {module} --help' says what it takes."


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port: they go from 0 to 65535")
    return int(text)


def _told(message: str, hint: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint:  {hint}", file=sys.stderr)
    return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = f"'{self.prog} --help' lists what can be said here."
        wrong = re.match(r"argument command: invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if wrong is not None:
            # The list is in the help, without what is for Lowtide itself.
            message = f"There is no command '{wrong[1]}'."
            near = get_close_matches(wrong[1], set(re.findall(r"[\w-]+", wrong[2])) - {"dev-child"}, 1)
            hint = f"Did you mean '{near[0]}'? {hint}" if near else hint
        print(f"error: {message}", file=sys.stderr)
        print(f"hint:  {hint}", file=sys.stderr)
        sys.exit(2)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        print(f"lowtide {__version__}")
        sys.exit(0)
