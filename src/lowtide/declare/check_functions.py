"""What can be wrong with server functions."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from lowtide.declare import place as places
from lowtide.declare.build import parameter_type
from lowtide.declare.declared import Declared, FunctionDeclaration, HookDeclaration
from lowtide.declare.findings import Findings, check_name
from lowtide.declare.place import Place


def check_functions(found: Findings, app: Declared) -> None:
    """Report everything that is wrong with the functions of ``app``."""
    names: dict[str, FunctionDeclaration] = {}
    for function in app.functions:
        if check_name(found, function.place, "function", function.name):
            first = names.setdefault(function.name, function)
            if first is not function:
                found.error(
                    function.place,
                    "function-twice",
                    f"there is a function {function.name!r} already, in line {first.place.line}",
                    "Rename one of them, or give name='...'.",
                )
        if not inspect.iscoroutinefunction(function.call):
            found.error(
                function.place, "function-async", f"{function.name} is not async", "Write 'async def'."
            )
        else:
            _check_parameters(found, function)


def check_hooks(found: Findings, app: Declared) -> None:
    """Report everything that is wrong with the hooks of signing in."""
    moments: dict[str, HookDeclaration] = {}
    for hook in app.hooks:
        first = moments.setdefault(hook.moment, hook)
        if first is not hook:
            found.error(
                hook.place,
                "hook-twice",
                f"there is a hook {hook.moment} already, in line {first.place.line}",
                "Do both in one function.",
            )
        if not inspect.iscoroutinefunction(hook.call):
            found.error(hook.place, "hook-async", f"{hook.moment} is not async", "Write 'async def'.")
        elif len(inspect.signature(hook.call).parameters) != 1:
            found.error(
                hook.place,
                "hook-signature",
                f"{hook.moment} does not take one argument",
                "Write 'async def f(event)'.",
            )


def _check_parameters(found: Findings, function: FunctionDeclaration) -> None:
    defined = places.defined(function.call) or function.place
    lines = places.parameters(defined)
    parameters = list(inspect.signature(function.call).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        found.error(
            function.place, "function-signature", f"{function.name} takes no ctx", "Write (ctx, ...) first."
        )
        return
    for parameter in parameters[1:]:
        at = Place(defined.file, lines.get(parameter.name, defined.line))
        if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            found.error(
                at,
                "function-signature",
                f"{parameter.name!r} cannot be given by name",
                "Name each argument: devices send a JSON object.",
            )
        elif parameter.annotation is parameter.empty:
            found.error(
                at,
                "parameter-type",
                f"{parameter.name!r} has no type",
                f"Write {parameter.name}: str, or its type.",
            )
        else:
            reason = _undecodable(function, parameter)
            if reason:
                found.error(
                    at,
                    "parameter-type",
                    f"{parameter.name!r} cannot be decoded from JSON: {reason}",
                    "Use scalars, datetime, list, dict, dataclasses or msgspec structs.",
                )


def _undecodable(function: FunctionDeclaration, parameter: inspect.Parameter) -> str | None:
    """Why JSON cannot be decoded to the parameter's type; ``None`` when it can."""
    try:
        wanted = parameter_type(function.call, parameter)
        msgspec.json.Decoder(wanted)
        info = msgspec.inspect.type_info(wanted)
    except Exception as error:  # a quoted type is evaluated, and may raise anything
        return str(error)
    return _custom(info, set())


def _custom(info: Any, seen: set[int]) -> str | None:
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return f"{info.cls.__name__} is a plain class"
    if isinstance(info, msgspec.inspect.ExtType | msgspec.inspect.RawType):
        return "it is not a JSON type"
    if isinstance(info, msgspec.Struct):
        parts = [getattr(info, name) for name in info.__struct_fields__]
    elif isinstance(info, tuple):
        parts = list(info)
    else:
        return None
    return next(filter(None, (_custom(part, seen) for part in parts)), None)
