-- name: add_endpoint
INSERT INTO webhook_endpoint (id, url, events, secret, enabled, created_at) VALUES ($1, $2, $3, $4, 1, $5)

-- name: endpoints
SELECT id, url, events, secret, old_secret, old_until, enabled, reason, failing_since, created_at
FROM webhook_endpoint ORDER BY id

-- name: endpoint
SELECT id, url, events, secret, old_secret, old_until, enabled, reason, failing_since, created_at
FROM webhook_endpoint WHERE id = $1

-- name: enabled
SELECT id, events FROM webhook_endpoint WHERE enabled = 1 ORDER BY id

-- name: rotate
UPDATE webhook_endpoint SET old_secret = secret, old_until = $3, secret = $2 WHERE id = $1

-- name: enable
UPDATE webhook_endpoint SET enabled = $2, reason = $3, failing_since = NULL WHERE id = $1

-- name: failing
UPDATE webhook_endpoint SET failing_since = $2 WHERE id = $1 AND failing_since IS NULL

-- name: well
UPDATE webhook_endpoint SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL

-- name: delete
DELETE FROM webhook_endpoint WHERE id = $1

-- name: delete_tries
DELETE FROM webhook_try WHERE endpoint = $1

-- name: add_try
INSERT INTO webhook_try (id, endpoint, message, event, attempt, status, error, took, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: trim_tries
DELETE FROM webhook_try WHERE endpoint = $1 AND id < (
    SELECT MIN(id) FROM (SELECT id FROM webhook_try WHERE endpoint = $1 ORDER BY id DESC LIMIT $2) AS kept
)

-- name: tries
SELECT message, event, attempt, status, error, took, at FROM webhook_try
WHERE endpoint = $1 ORDER BY id DESC LIMIT $2
