-- What the playground shows of the server.

-- name: records
SELECT id, data, updated FROM record
WHERE space = $1 AND model = $2 AND deleted = 0 AND json_extract(data, '$.team_id') = $3 ORDER BY id LIMIT $4
-- postgres
SELECT id, data, updated FROM record
WHERE space = $1 AND model = $2 AND deleted = 0 AND data::jsonb->>'team_id' = $3 ORDER BY id LIMIT $4

-- name: own
SELECT id, data, updated FROM record
WHERE space = $1 AND model = $2 AND deleted = 0 AND substr(id, 1, 11) = $3 ORDER BY id LIMIT $4

-- name: people
SELECT id, email FROM users ORDER BY updated_at DESC, id LIMIT $1

-- name: devices
SELECT client_id, user_id FROM device WHERE space = $1 ORDER BY seen_at DESC, client_id LIMIT $2
