-- The bridges' statements.

-- name: views
SELECT no, epoch, since, topics FROM bridge_view WHERE space = $1 AND user_id = $2 ORDER BY since DESC, no DESC

-- name: insert_view
INSERT INTO bridge_view (space, user_id, no, epoch, since, topics) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING

-- name: delete_view
DELETE FROM bridge_view WHERE space = $1 AND user_id = $2 AND no = $3

-- name: group_at
SELECT at FROM head_log WHERE group_no <= $1 ORDER BY group_no DESC LIMIT 1

-- name: first_group
SELECT min(group_no) FROM head_log

-- What a bucket holds, with the time of each record's creation; null for a record that is deleted.
-- name: entries
SELECT e.op, e.model, e.id,
(SELECT r.created FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id AND r.deleted = 0)
FROM bucket_entry e WHERE e.bucket = $2 AND e.op > $3 AND (e.removed = 0 OR e.op > $4) ORDER BY e.op LIMIT $5

-- As the engine's own, of some models only.
-- name: page
SELECT e.op, e.model, e.id, e.removed, CASE e.removed WHEN 0 THEN
(SELECT r.data FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id) END
FROM bucket_entry e WHERE e.bucket = $2 AND e.op > $3
AND e.model IN (SELECT value FROM json_each($4)) ORDER BY e.op LIMIT $5
-- postgres
SELECT e.op, e.model, e.id, e.removed, CASE e.removed WHEN 0 THEN
(SELECT r.data FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id) END
FROM bucket_entry e WHERE e.bucket = $2 AND e.op > $3
AND e.model = ANY (ARRAY(SELECT jsonb_array_elements_text($4::jsonb))) ORDER BY e.op LIMIT $5

-- name: rows
SELECT r.space, r.model, r.id, r.data, r.op
FROM json_each($1) j JOIN record r
ON r.space = json_extract(j.value, '$[0]') AND r.model = json_extract(j.value, '$[1]')
AND r.id = json_extract(j.value, '$[2]') WHERE r.deleted = 0
-- postgres
SELECT r.space, r.model, r.id, r.data, r.op
FROM jsonb_array_elements($1::jsonb) j JOIN record r
ON r.space = j->>0 AND r.model = j->>1 AND r.id = j->>2 WHERE r.deleted = 0

-- name: pushed
SELECT p.model, p.id, p.fields, p.op, p.group_no
FROM json_each($4) j JOIN bridge_push p
ON p.space = $1 AND p.user_id = $2 AND p.client_id = $3
AND p.model = json_extract(j.value, '$[0]') AND p.id = json_extract(j.value, '$[1]')
-- postgres
SELECT p.model, p.id, p.fields, p.op, p.group_no
FROM jsonb_array_elements($4::jsonb) j JOIN bridge_push p
ON p.space = $1 AND p.user_id = $2 AND p.client_id = $3 AND p.model = j->>0 AND p.id = j->>1

-- name: pushed_since
SELECT model, id, group_no FROM bridge_push
WHERE space = $1 AND user_id = $2 AND client_id = $3 AND (group_no, model, id) > ($4, $5, $6)
ORDER BY group_no, model, id LIMIT $7

-- name: upsert_push
INSERT INTO bridge_push (space, user_id, client_id, model, id, fields, op, group_no)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (space, user_id, client_id, model, id) DO UPDATE SET
fields = excluded.fields, op = excluded.op, group_no = excluded.group_no

-- name: trim_pushes
DELETE FROM bridge_push WHERE (space, user_id, client_id, model, id) IN (
SELECT space, user_id, client_id, model, id FROM bridge_push WHERE group_no < $1 ORDER BY group_no LIMIT $2)
RETURNING group_no

-- name: forget_views
DELETE FROM bridge_view WHERE user_id = $1

-- name: forget_pushes
DELETE FROM bridge_push WHERE user_id = $1

-- name: move_pushes
INSERT INTO bridge_push (space, user_id, client_id, model, id, fields, op, group_no)
SELECT p.space, $2, p.client_id, p.model, p.id, p.fields, p.op, p.group_no
FROM bridge_push p WHERE p.user_id = $1 ON CONFLICT DO NOTHING
