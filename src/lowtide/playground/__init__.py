"""Three phones in a browser, for ``lowtide dev``: see its README.md."""

from lowtide.playground.routes import PAGE, playground_routes

__all__ = ["PAGE", "playground_routes"]
