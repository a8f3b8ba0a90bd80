"""Client code that is generated from an app: the schema, typed models, calls of functions, the connector."""

from lowtide.clients.described import describe
from lowtide.clients.platforms import PLATFORMS, generate

__all__ = ["PLATFORMS", "describe", "generate"]
