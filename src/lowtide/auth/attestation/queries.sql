-- name: add_key
INSERT INTO attested_key (id, public_key, app, environment, counter, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO NOTHING
RETURNING id

-- name: find_key
SELECT id, public_key, app, environment, counter FROM attested_key WHERE id = $1

-- name: use_key
-- The row's counter decides: of two assertions with one count one is refused.
UPDATE attested_key SET counter = $2 WHERE id = $1 AND counter < $2 RETURNING id

-- name: attest_session
INSERT INTO attested_session (session_id, platform, until) VALUES ($1, $2, $3)
ON CONFLICT (session_id) DO UPDATE SET platform = excluded.platform, until = excluded.until

-- name: until
SELECT until FROM attested_session WHERE session_id = $1

-- name: forget_over
DELETE FROM attested_session WHERE until < $1
