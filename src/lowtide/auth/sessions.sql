-- name: session
SELECT id, user_id, space, client, scope, device, jkt, amr, auth_time, epoch, counter, created_at, seen_at,
ip, user_agent, ended_at, ended_by, wipe, secret, rotation, rotated_at FROM session WHERE id = $1

-- name: lock_session
SELECT id, user_id, space, client, scope, device, jkt, amr, auth_time, epoch, counter, created_at, seen_at,
ip, user_agent, ended_at, ended_by, wipe, secret, rotation, rotated_at FROM session WHERE id = $1
-- postgres
SELECT id, user_id, space, client, scope, device, jkt, amr, auth_time, epoch, counter, created_at, seen_at,
ip, user_agent, ended_at, ended_by, wipe, secret, rotation, rotated_at FROM session WHERE id = $1 FOR UPDATE

-- name: sessions_of
SELECT id, user_id, space, client, scope, device, jkt, amr, auth_time, epoch, counter, created_at, seen_at,
ip, user_agent, ended_at, ended_by, wipe, secret, rotation, rotated_at FROM session
WHERE user_id = $1 AND ended_at IS NULL AND seen_at > $2 ORDER BY created_at DESC, id DESC LIMIT $3

-- name: known_devices
-- Through the app itself; over, if at all, by the device's own doing.
SELECT device, ip FROM session WHERE user_id = $1 AND client = ''
AND (ended_by IS NULL OR ended_by IN ('sign_out', 'idle', 'replaced')) ORDER BY created_at DESC LIMIT $2

-- name: insert_session
INSERT INTO session (id, user_id, space, client, scope, device, jkt, amr, auth_time, epoch, secret, counter,
rotation, rotated_at, created_at, seen_at, ip, user_agent, ended_at, ended_by, wipe, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, 0, NULL, $11, $11, $11, $12, $13, NULL, NULL, 0, 0)

-- name: rotate_session
UPDATE session SET counter = $2, rotation = $3, rotated_at = $4, seen_at = $4, ip = $5 WHERE id = $1

-- name: end_session
UPDATE session SET ended_at = $2, ended_by = $3, wipe = $4, changed_at = $2
WHERE id = $1 AND ended_at IS NULL

-- name: end_sessions
UPDATE session SET ended_at = $2, ended_by = $3, wipe = $4, changed_at = $2
WHERE user_id = $1 AND ended_at IS NULL AND id <> $5 RETURNING id

-- name: end_sessions_of_client
UPDATE session SET ended_at = $2, ended_by = $3, wipe = 0, changed_at = $2
WHERE client = $1 AND client <> '' AND ended_at IS NULL RETURNING id

-- name: change_sessions
UPDATE session SET epoch = epoch + 1, changed_at = $2 WHERE user_id = $1 AND ended_at IS NULL RETURNING id

-- name: move_sessions
UPDATE session SET user_id = $2, epoch = epoch + 1, changed_at = $3
WHERE user_id = $1 AND ended_at IS NULL RETURNING id

-- name: prove_session
UPDATE session SET amr = $2, auth_time = $3, epoch = epoch + 1, changed_at = $4 WHERE id = $1

-- name: changed_sessions
SELECT id, epoch, ended_by, wipe, changed_at FROM session WHERE changed_at > $1

-- name: standing_session
SELECT id, epoch, ended_by, wipe FROM session WHERE id = $1

-- name: standing_sessions
SELECT id, epoch, ended_by, wipe FROM session WHERE id IN (SELECT value FROM json_each($1))
-- postgres
SELECT id, epoch, ended_by, wipe FROM session WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)))

-- name: scrub_sessions
UPDATE session SET device = '{}', ip = '', user_agent = '' WHERE user_id = $1

-- name: trim_sessions
DELETE FROM session WHERE id IN (SELECT id FROM session WHERE seen_at < $1 ORDER BY seen_at LIMIT $2) RETURNING id
