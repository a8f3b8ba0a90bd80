-- What the playground shows of the server.

-- name: devices
SELECT client_id, user_id FROM device WHERE space = $1 ORDER BY seen_at DESC, client_id LIMIT $2
