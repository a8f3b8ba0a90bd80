"""The digest of what a device holds: the SQL that a connector runs about once a day, and its request.

A digest that differs from the server's makes the device's stream bring everything anew. Run it while
the stream is connected and nothing is downloading; buckets that are on their way are left out by the
server, which compares only what has not changed since the device's last checkpoint.
"""

from __future__ import annotations

from typing import Any

import apsw

AUDIT = """
SELECT b.name, CAST(b.last_op AS TEXT) AS after, count(o.op_id) AS count,
  coalesce(sum(o.op_id % 1000000007), 0) AS ops,
  coalesce(sum(length(o.data)), 0) AS length,
  coalesce(sum(unicode(substr(o.data, 1 + o.op_id % length(o.data), 1))
    + 31 * unicode(substr(o.data, 1 + o.op_id / 7 % length(o.data), 1))), 0) AS sample
FROM ps_buckets b LEFT JOIN ps_oplog o ON o.bucket = b.id
WHERE b.name != '$local' GROUP BY b.id LIMIT 1000
"""


def audit_request(database: apsw.Connection, client_id: str) -> dict[str, Any]:
    """The body to post to ``/v1/sync/audit``."""
    names = ("name", "after", "count", "ops", "length", "sample")
    rows = database.execute(AUDIT).fetchall()
    return {"client_id": client_id, "buckets": [dict(zip(names, row, strict=True)) for row in rows]}
