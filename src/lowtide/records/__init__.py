"""The REST API over an app's models: see README.md for what it promises."""

from lowtide.records.routes import routes as records_routes
from lowtide.records.service import Records

__all__ = ["Records", "records_routes"]
