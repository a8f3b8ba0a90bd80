-- name: lock_data_keys
-- Nodes change the keys one after the other; reading goes on.
SELECT 1
-- postgres
LOCK TABLE data_key IN SHARE ROW EXCLUSIVE MODE

-- name: read_data_keys
SELECT id, wrapped, active_at FROM data_key ORDER BY active_at, created_at, id

-- name: add_data_key
INSERT INTO data_key (id, wrapped, created_at, active_at) VALUES ($1, $2, $3, $4)

-- name: rewrap_data_key
UPDATE data_key SET wrapped = $2 WHERE id = $1

-- name: take_rate
-- $2 now, $3 what this costs, $4 how far ahead of now a limit may get: microseconds. No row: refused.
INSERT INTO rate (key, arrival) VALUES ($1, $2 + $3)
ON CONFLICT (key) DO UPDATE
SET arrival = CASE WHEN rate.arrival > $2 THEN rate.arrival ELSE $2 END + $3
WHERE CASE WHEN rate.arrival > $2 THEN rate.arrival ELSE $2 END + $3 - $2 <= $4
RETURNING arrival
-- postgres
INSERT INTO rate (key, arrival) VALUES ($1, $2::BIGINT + $3::BIGINT)
ON CONFLICT (key) DO UPDATE
SET arrival = GREATEST(rate.arrival, $2::BIGINT) + $3::BIGINT
WHERE GREATEST(rate.arrival, $2::BIGINT) + $3::BIGINT - $2::BIGINT <= $4::BIGINT
RETURNING arrival

-- name: read_rate
SELECT arrival FROM rate WHERE key = $1

-- name: purge_rates
-- A limit whose time has passed is as good as new.
DELETE FROM rate WHERE key IN (SELECT key FROM rate WHERE arrival < $1 LIMIT $2) RETURNING 1

-- name: begin_once
-- No row: there is one already, and it is not one whose work has ended without an answer.
INSERT INTO once (scope, fingerprint, until) VALUES ($1, $2, $3)
ON CONFLICT (scope) DO UPDATE SET fingerprint = excluded.fingerprint, until = excluded.until, answer = NULL
WHERE once.until < $4
RETURNING 1

-- name: read_once
SELECT fingerprint, answer, until FROM once WHERE scope = $1

-- name: finish_once
-- No row: another try of the same request was faster.
INSERT INTO once (scope, fingerprint, answer, until) VALUES ($1, $2, $3, $4)
ON CONFLICT (scope) DO UPDATE SET answer = excluded.answer, until = excluded.until
WHERE once.answer IS NULL AND once.fingerprint = excluded.fingerprint
RETURNING 1

-- name: release_once
DELETE FROM once WHERE scope = $1 AND answer IS NULL AND until = $2

-- name: purge_once
DELETE FROM once WHERE scope IN (SELECT scope FROM once WHERE until < $1 LIMIT $2) RETURNING 1
