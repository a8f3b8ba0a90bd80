-- name: add_endpoint
INSERT INTO webhook_endpoint (id, url, events, secret, enabled, created_at, models, spaces, with_data)
VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8)

-- name: endpoints
SELECT id, url, events, secret, old_secret, old_until, enabled, reason, failing_since, created_at,
models, spaces, with_data FROM webhook_endpoint ORDER BY id

-- name: endpoint
SELECT id, url, events, secret, old_secret, old_until, enabled, reason, failing_since, created_at,
models, spaces, with_data FROM webhook_endpoint WHERE id = $1

-- name: enabled
SELECT id, events FROM webhook_endpoint WHERE enabled = 1 ORDER BY id

-- name: rotate
UPDATE webhook_endpoint SET old_secret = secret, old_until = $3, secret = $2 WHERE id = $1

-- name: enable
UPDATE webhook_endpoint SET enabled = $2, reason = $3, failing_since = NULL, failures = 0, retry_at = 0
WHERE id = $1

-- name: switch_off
UPDATE webhook_endpoint SET enabled = 0, reason = $2 WHERE id = $1 AND enabled = 1 RETURNING id

-- name: failing
UPDATE webhook_endpoint SET failing_since = $2 WHERE id = $1 AND failing_since IS NULL

-- name: well
UPDATE webhook_endpoint SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL

-- name: delete
DELETE FROM webhook_endpoint WHERE id = $1

-- name: delete_tries
DELETE FROM webhook_try WHERE endpoint = $1

-- name: sweep_tries
DELETE FROM webhook_try WHERE endpoint NOT IN (SELECT id FROM webhook_endpoint)

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

-- name: wishes
SELECT id, events, models, spaces, with_data FROM webhook_endpoint
WHERE enabled = 1 AND models <> '[]' ORDER BY id

-- name: add_records
INSERT INTO webhook_record (endpoint, op, id, record, event, body)
SELECT json_extract(j.value, '$[0]'), json_extract(j.value, '$[1]'), json_extract(j.value, '$[2]'),
json_extract(j.value, '$[3]'), json_extract(j.value, '$[4]'), json_extract(j.value, '$[5]')
FROM json_each($1) j WHERE true
-- postgres
INSERT INTO webhook_record (endpoint, op, id, record, event, body)
SELECT j ->> 0, (j ->> 1)::bigint, j ->> 2, j ->> 3, j ->> 4, j ->> 5 FROM json_array_elements($1::json) j

-- name: hold
-- The row is written whoever holds it: on PostgreSQL who asks waits for a holder that is letting go just now.
UPDATE webhook_endpoint SET
held_by = CASE WHEN held_by IN ('', $2) OR held_until < $3 THEN $2 ELSE held_by END,
held_until = CASE WHEN held_by IN ('', $2) OR held_until < $3 THEN $4 ELSE held_until END
WHERE id = $1 AND enabled = 1 RETURNING held_by, held_until, retry_at

-- name: let_go
UPDATE webhook_endpoint SET held_by = '', held_until = 0 WHERE id = $1 AND held_by = $2

-- name: fresh
-- Nothing of the same record that failed comes before them. Not as EXISTS: PostgreSQL would make a join of it
-- that it does badly; and the plus keeps both from looking through all that failed.
SELECT op, id, record, event, body, attempt FROM webhook_record AS one
WHERE endpoint = $1 AND dead_at IS NULL AND (
SELECT failed.op FROM webhook_record AS failed WHERE failed.endpoint = one.endpoint
AND failed.record = one.record AND failed.dead_at IS NULL AND failed.op <= one.op AND +failed.due_at > 0
LIMIT 1) IS NULL ORDER BY op LIMIT $2

-- name: again
-- They failed, and nothing of the same record comes before them: unless it was dead meanwhile.
SELECT op, id, record, event, body, attempt FROM webhook_record AS one
WHERE endpoint = $1 AND dead_at IS NULL AND due_at > 0 AND due_at <= $2 AND (
SELECT before.op FROM webhook_record AS before WHERE before.endpoint = one.endpoint
AND before.record = one.record AND before.dead_at IS NULL AND before.op < one.op LIMIT 1) IS NULL
ORDER BY due_at LIMIT $3

-- name: next_due
SELECT MIN(due_at) FROM webhook_record WHERE endpoint = $1 AND dead_at IS NULL AND due_at > 0 AND due_at > $2

-- name: arrived
DELETE FROM webhook_record WHERE endpoint = $1 AND op IN (SELECT value FROM json_each($2))
-- postgres
DELETE FROM webhook_record
WHERE endpoint = $1 AND op IN (SELECT json_array_elements_text($2::json)::bigint)

-- name: failed
UPDATE webhook_record SET attempt = attempt + 1, due_at = $3, error = $4, dead_at = $5
WHERE endpoint = $1 AND op = $2 AND dead_at IS NULL

-- name: failing_again
UPDATE webhook_endpoint SET failures = failures + $2 WHERE id = $1 RETURNING failures

-- name: pause
UPDATE webhook_endpoint SET retry_at = $2 WHERE id = $1

-- name: hurry
UPDATE webhook_endpoint SET failures = 0, retry_at = 0 WHERE id = $1

-- name: bury_records
UPDATE webhook_record SET dead_at = $2, error = $3 WHERE endpoint = $1 AND dead_at IS NULL

-- name: count_stuck
SELECT COUNT(*) FROM webhook_record WHERE endpoint = $1 AND dead_at IS NULL AND record IN (
SELECT record FROM webhook_record AS failed
WHERE failed.endpoint = $1 AND failed.dead_at IS NULL AND failed.due_at > 0)

-- name: bury_stuck
UPDATE webhook_record SET dead_at = $2, error = $3 WHERE endpoint = $1 AND dead_at IS NULL AND record IN (
SELECT record FROM webhook_record AS failed
WHERE failed.endpoint = $1 AND failed.dead_at IS NULL AND failed.due_at > 0)

-- name: revive_records
UPDATE webhook_record SET dead_at = NULL, attempt = 0, due_at = 0
WHERE endpoint = $1 AND dead_at IS NOT NULL RETURNING op

-- name: owed
SELECT id, retry_at FROM webhook_endpoint WHERE enabled = 1 AND EXISTS (
SELECT 1 FROM webhook_record AS one WHERE one.endpoint = webhook_endpoint.id AND one.dead_at IS NULL) ORDER BY id

-- name: count_waiting
SELECT COUNT(*) FROM (
SELECT op FROM webhook_record WHERE endpoint = $1 AND dead_at IS NULL LIMIT $2) AS waiting

-- name: counts
-- By the two indexes alone: what is kept of a message comes behind its body.
SELECT endpoint, 0, COUNT(*) FROM webhook_record WHERE dead_at IS NULL GROUP BY endpoint
UNION ALL SELECT endpoint, 1, COUNT(*) FROM webhook_record WHERE dead_at IS NOT NULL GROUP BY endpoint

-- name: troubles
SELECT record, event, attempt, error, dead FROM (SELECT record, event, attempt, error, 0 AS dead
FROM webhook_record WHERE endpoint = $1 AND dead_at IS NULL AND due_at > 0
ORDER BY due_at DESC LIMIT $2) AS failing
UNION ALL SELECT record, event, attempt, error, dead FROM (SELECT record, event, attempt, error, 1 AS dead
FROM webhook_record WHERE endpoint = $1 AND dead_at IS NOT NULL ORDER BY dead_at DESC LIMIT $2) AS buried

-- name: delete_records
DELETE FROM webhook_record WHERE endpoint = $1

-- name: sweep_dead
DELETE FROM webhook_record
WHERE endpoint IN (SELECT id FROM webhook_endpoint) AND dead_at IS NOT NULL AND dead_at < $1

-- name: sweep_records
DELETE FROM webhook_record WHERE endpoint IN (
SELECT endpoint FROM webhook_record EXCEPT SELECT id FROM webhook_endpoint)
