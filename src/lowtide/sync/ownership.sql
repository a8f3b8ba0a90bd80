-- name: rows_of_bucket
SELECT e.model, e.id FROM bucket b JOIN bucket_entry e ON e.bucket = b.id
WHERE b.name = $1 AND e.removed = 0 AND (e.model, e.id) > ($2, $3) ORDER BY e.model, e.id LIMIT $4

-- name: rows_by_index
SELECT id FROM record_index WHERE space = $1 AND name = $2 AND value = $3 AND id > $4 ORDER BY id LIMIT $5

-- Where neither a bucket nor an index knows whose a record is: every record of the model is looked at.
-- name: rows_by_look
SELECT id FROM record WHERE space = $1 AND model = $2 AND deleted = 0
AND json_extract(data, '$."' || $3 || '"') = $4 AND id > $5 ORDER BY id LIMIT $6
-- postgres
SELECT id FROM record WHERE space = $1 AND model = $2 AND deleted = 0
AND data::jsonb ->> $3::text = $4::text AND id > $5 ORDER BY id LIMIT $6

-- name: devices_of
SELECT space, client_id, last_n, answers, answered_group, request, request_group, generation, gaps,
uploaded_at, seen_at, seen_group FROM device WHERE user_id = $1 ORDER BY space, client_id

-- name: put_device
INSERT INTO device (space, user_id, client_id, last_n, answers, answered_group, request,
request_group, generation, gaps, uploaded_at, seen_at, seen_group)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (space, user_id, client_id) DO UPDATE SET last_n = excluded.last_n, answers = excluded.answers,
answered_group = excluded.answered_group, generation = excluded.generation

-- name: delete_devices
DELETE FROM device WHERE user_id = $1
