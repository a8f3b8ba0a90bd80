"""Lowtide: a mobile backend that keeps working when the network does not.

The words that an app is declared with. Each is loaded when it is first used, so that ``lowtide --help``
loads none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowtide.declare.app import App as App
    from lowtide.declare.app import parameter as parameter
    from lowtide.declare.declared import Model as Model
    from lowtide.declare.fields import Attachment as Attachment
    from lowtide.declare.fields import Boolean as Boolean
    from lowtide.declare.fields import Counter as Counter
    from lowtide.declare.fields import Integer as Integer
    from lowtide.declare.fields import Json as Json
    from lowtide.declare.fields import List as List
    from lowtide.declare.fields import Number as Number
    from lowtide.declare.fields import Reference as Reference
    from lowtide.declare.fields import Set as Set
    from lowtide.declare.fields import Text as Text
    from lowtide.declare.fields import Timestamp as Timestamp
    from lowtide.declare.fields import removed as removed
    from lowtide.declare.rules import Caller as Caller
    from lowtide.declare.rules import anyone as anyone
    from lowtide.declare.rules import both as both
    from lowtide.declare.rules import claim as claim
    from lowtide.declare.rules import either as either
    from lowtide.declare.rules import everyone as everyone
    from lowtide.declare.rules import me as me
    from lowtide.declare.rules import member as member
    from lowtide.declare.rules import nobody as nobody
    from lowtide.declare.rules import owner as owner
    from lowtide.kernel.errors import Refused as Refused
    from lowtide.kernel.schema import Resolving as Resolving

__version__ = "0.1.0"

_HOME = {
    "declare.app": "App parameter",
    "declare.declared": "Model",
    "kernel.errors": "Refused",
    "declare.fields": "Attachment Boolean Counter Integer Json List Number Reference Set Text Timestamp "
    "removed",
    "declare.rules": "Caller anyone both claim either everyone me member nobody owner",
    "kernel.schema": "Resolving",
}
_MODULE = {name: f"lowtide.{module}" for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'lowtide' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value
