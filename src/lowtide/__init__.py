"""Lowtide: a mobile backend that keeps working when the network does not.

The words that an app is declared with. Each is loaded when it is first used, so that ``lowtide --help``
loads none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowtide.kernel.declare import App as App
    from lowtide.kernel.declare import Model as Model
    from lowtide.kernel.declare import parameter as parameter
    from lowtide.kernel.errors import Refused as Refused
    from lowtide.kernel.fields import Attachment as Attachment
    from lowtide.kernel.fields import Boolean as Boolean
    from lowtide.kernel.fields import Counter as Counter
    from lowtide.kernel.fields import Integer as Integer
    from lowtide.kernel.fields import Json as Json
    from lowtide.kernel.fields import List as List
    from lowtide.kernel.fields import Number as Number
    from lowtide.kernel.fields import Reference as Reference
    from lowtide.kernel.fields import Set as Set
    from lowtide.kernel.fields import Text as Text
    from lowtide.kernel.fields import Timestamp as Timestamp
    from lowtide.kernel.fields import removed as removed
    from lowtide.kernel.rules import Caller as Caller
    from lowtide.kernel.rules import anyone as anyone
    from lowtide.kernel.rules import both as both
    from lowtide.kernel.rules import claim as claim
    from lowtide.kernel.rules import either as either
    from lowtide.kernel.rules import everyone as everyone
    from lowtide.kernel.rules import me as me
    from lowtide.kernel.rules import member as member
    from lowtide.kernel.rules import nobody as nobody
    from lowtide.kernel.rules import owner as owner
    from lowtide.kernel.schema import Resolving as Resolving

__version__ = "0.1.0"

_HOME = {
    "declare": "App Model parameter",
    "errors": "Refused",
    "fields": "Attachment Boolean Counter Integer Json List Number Reference Set Text Timestamp removed",
    "rules": "Caller anyone both claim either everyone me member nobody owner",
    "schema": "Resolving",
}
_MODULE = {name: f"lowtide.kernel.{module}" for module, names in _HOME.items() for name in names.split()}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'lowtide' has no attribute {name!r}")
    value = getattr(import_module(_MODULE[name]), name)
    globals()[name] = value
    return value
