"""The statements of the REST API that do not depend on what is asked for."""

from __future__ import annotations

from lowtide.storage.db import load_queries

QUERIES = load_queries("lowtide.records")
