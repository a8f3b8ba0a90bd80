-- What a connector asks of the device's database, the same on every platform. The queue's own text is put
-- together here, so that no language's numbers, maps or nulls come between a change and the server.

-- name: setup_stamp
-- The SDK's queue does not say when a change was made; these triggers do.
CREATE TABLE IF NOT EXISTS lowtide_stamp(crud_id INTEGER PRIMARY KEY, at INTEGER NOT NULL)

-- name: setup_upload
CREATE TABLE IF NOT EXISTS lowtide_upload(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID

-- name: setup_insert
CREATE TRIGGER IF NOT EXISTS lowtide_stamp_insert AFTER INSERT ON ps_crud BEGIN
  INSERT OR REPLACE INTO lowtide_stamp VALUES (NEW.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END

-- name: setup_delete
CREATE TRIGGER IF NOT EXISTS lowtide_stamp_delete AFTER DELETE ON ps_crud BEGIN
  DELETE FROM lowtide_stamp WHERE crud_id = OLD.id;
END

-- name: identity
-- The members of a batch that say whose it is.
SELECT '"client_id":' || json_quote(powersync_client_id())
  || coalesce((SELECT ',"lineage":' || json_quote(value) FROM lowtide_upload WHERE key = 'lineage'), '')
  || ',"sent_at":' || CAST(unixepoch('subsec') * 1000 AS INTEGER) AS members

-- name: mutations
-- Of one local transaction, given its first and last number.
SELECT '{"n":' || c.id
  || ',"op":' || lower(c.data -> '$.op')
  || ',"model":' || (c.data -> '$.type')
  || ',"id":' || (c.data -> '$.id')
  || coalesce(',"data":' || (c.data -> '$.data'), '')
  || CASE WHEN c.data ->> '$.old' IS NULL THEN '' ELSE ',"base":' || (c.data -> '$.old') END
  || CASE WHEN c.data ->> '$.metadata' IS NULL THEN '' ELSE ',"metadata":' || (c.data -> '$.metadata') END
  || coalesce(',"at":' || s.at, '') || '}' AS mutation
FROM ps_crud c LEFT JOIN lowtide_stamp s ON s.crud_id = c.id
WHERE c.id BETWEEN ? AND ? ORDER BY c.id

-- name: unreadable
-- The same, each change as one text: refused for certain, and back as a rejection with its content.
SELECT '{"n":' || c.id
  || ',"op":' || lower(c.data -> '$.op')
  || ',"model":' || (c.data -> '$.type')
  || ',"id":' || replace(c.data -> '$.id', '\u0000', '\ufffd')
  || ',"data":' || json_quote(c.data) || '}' AS mutation
FROM ps_crud c WHERE c.id BETWEEN ? AND ? ORDER BY c.id

-- name: lineage
-- Of a database that was copied, or put back.
INSERT OR REPLACE INTO lowtide_upload VALUES ('lineage', lower(hex(randomblob(16))))
