"""What the app has to say of a write: its hook, its write rule, and which fields may be empty or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowtide.kernel.errors import Refused as HookRefused
from lowtide.kernel.schema import Data, Model, Principal
from lowtide.kernel.values import Fields, check_complete, coerce_fields
from lowtide.sync.model import Mutation, Refusal
from lowtide.sync.state import State
from lowtide.sync.streams import Streams, device_key


class Refuse(Exception):
    """A mutation cannot be applied, and its transaction with it."""

    def __init__(self, refusal: Refusal):
        self.refusal = refusal


class Author:
    """``me`` of a rule or hook: who writes, and what the user holds right now."""

    __slots__ = ("_principal", "_state", "_streams", "device")

    def __init__(self, streams: Streams, state: State, principal: Principal, client_id: str):
        self._streams = streams
        self._state = state
        self._principal = principal
        self.device = device_key(principal.user, client_id)

    @property
    def user(self) -> str:
        return self._principal.user

    @property
    def id(self) -> str:
        return self._principal.user

    @property
    def space(self) -> str:
        return self._principal.space

    @property
    def claims(self) -> Mapping[str, Any]:
        return self._principal.claims

    @property
    def server(self) -> bool:
        return self._principal.server

    def holds(self, stream: str, key: Any) -> bool:
        """Does the user hold ``key`` of ``stream``, as of the mutations before this one?"""
        return self._streams.holds(self._principal, stream, key, self._state.held_by(self._principal))


class Rules:
    """Asks the app about one author's writes. Each question raises ``Refuse`` where the answer is no."""

    def __init__(self, me: Author):
        self._me = me
        self.faults: list[str] = []
        """Rules and hooks that raised; the developer should know."""

    def guard_server_fields(self, model: Model, mutation: Mutation, standing: Data) -> None:
        """Only the server writes another value than ``standing`` has into a field of its own."""
        if self._me.server:
            return
        for name, value in mutation.data.items():
            if model.fields[name].merge == "server" and value != standing.get(name):
                raise Refuse(
                    Refusal(
                        "server_only", f"only the server writes {name}", "Leave the field out of the write."
                    )
                )

    def hooked(self, model: Model, id: str, before: Data | None, after: Data) -> Data:
        """``after`` with what ``before_write`` sets."""
        changed = self._hook(model, id, before, after)
        if changed is None:
            return after
        try:
            return {**after, **coerce_fields(model, changed)}
        except Exception as error:
            raise Refuse(self._fault(model, "before_write", error)) from None

    def may_delete(self, model: Model, id: str, before: Data) -> None:
        """Ask ``before_write`` about a deletion."""
        self._hook(model, id, before, None)

    def check_complete(self, model: Model, data: Data) -> None:
        """Every field that must not be empty has a value."""
        try:
            check_complete(model, data)
        except ValueError as error:
            raise Refuse(Refusal("invalid", str(error), "Fill the field.")) from None

    def allow(self, model: Model, id: str, before: Data | None, after: Data | None) -> None:
        """The write rule says yes. The app's own code is not asked."""
        if self._me.server:
            return
        if model.write is None:
            raise Refuse(
                Refusal("closed", f"devices do not write {model.name}", "Give the model a write rule.")
            )
        try:
            allowed = bool(model.write(self._me, *_seen(model, id, before, after)))
        except Exception as error:
            raise Refuse(self._fault(model, "the write rule", error)) from None
        if not allowed:
            raise Refuse(
                Refusal(
                    "forbidden",
                    f"the write rule of {model.name} says no",
                    "Ask for access, or undo the change.",
                )
            )

    def _hook(self, model: Model, id: str, before: Data | None, after: Data | None) -> Any:
        if model.before_write is None:
            return None
        try:
            return model.before_write(self._me, *_seen(model, id, before, after))
        except HookRefused as refused:
            raise Refuse(Refusal(refused.code, refused.message, refused.hint)) from None
        except Exception as error:
            raise Refuse(self._fault(model, "before_write", error)) from None

    def _fault(self, model: Model, what: str, error: Exception) -> Refusal:
        self.faults.append(f"{model.name}: {what} raised {type(error).__name__}: {error}")
        return Refusal(
            "rule_failed",
            f"{what} of {model.name} failed",
            "This is a mistake in the app's server code; its log has the reason.",
        )


def _seen(
    model: Model, id: str, before: Data | None, after: Data | None
) -> tuple[Fields | None, Fields | None]:
    """A write as rules and hooks see it."""
    return (
        None if before is None else Fields(model, id, before),
        None if after is None else Fields(model, id, after),
    )
