-- The REST API's statements. Lists are put together in sql.py, from the project's own names.

-- A record, and the records that grant keys to the user, which show whether it is the user's to see: those
-- have the name of an index.
-- name: record
SELECT i.space, i.name, i.value, m.id, m.data, 0 AS op, 0 AS created, 0 AS updated
FROM json_each($1) j JOIN record_index i
ON i.space = json_extract(j.value, '$[0]') AND i.name = json_extract(j.value, '$[1]')
AND i.value = json_extract(j.value, '$[2]')
JOIN record m ON m.space = i.space AND m.model = json_extract(j.value, '$[3]') AND m.id = i.id
UNION ALL
SELECT r.space, '', '', r.id, r.data, r.op, r.created, r.updated
FROM record r WHERE r.space = $2 AND r.model = $3 AND r.id = $4 AND r.deleted = 0
-- postgres
SELECT i.space, i.name, i.value, m.id, m.data, 0::bigint AS op, 0::bigint AS created, 0::bigint AS updated
FROM jsonb_array_elements($1::jsonb) j JOIN record_index i
ON i.space = j->>0 AND i.name = j->>1 AND i.value = j->>2
JOIN record m ON m.space = i.space AND m.model = j->>3 AND m.id = i.id
UNION ALL
SELECT r.space, '', '', r.id, r.data, r.op, r.created, r.updated
FROM record r WHERE r.space = $2 AND r.model = $3 AND r.id = $4 AND r.deleted = 0

-- name: records
SELECT r.space, r.model, r.id, r.data, r.op, r.created, r.updated
FROM json_each($1) j JOIN record r
ON r.space = json_extract(j.value, '$[0]') AND r.model = json_extract(j.value, '$[1]')
AND r.id = json_extract(j.value, '$[2]') WHERE r.deleted = 0
-- postgres
SELECT r.space, r.model, r.id, r.data, r.op, r.created, r.updated
FROM jsonb_array_elements($1::jsonb) j JOIN record r
ON r.space = j->>0 AND r.model = j->>1 AND r.id = j->>2 WHERE r.deleted = 0

-- name: index_width
SELECT count(*) FROM (SELECT 1 FROM record_index WHERE space = $1 AND name = $2 AND value = $3 LIMIT $4) found

-- What a bucket holds, with the time of each record's creation; null for a record that is deleted.
-- name: entries
SELECT e.op, e.model, e.id,
(SELECT r.created FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id AND r.deleted = 0)
FROM bucket_entry e WHERE e.bucket = $2 AND e.op > $3 ORDER BY e.op LIMIT $4
