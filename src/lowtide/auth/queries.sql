-- name: lock_keys
-- Nodes change the keys one after the other; reading and signing go on.
SELECT 1
-- postgres
LOCK TABLE signing_key IN SHARE ROW EXCLUSIVE MODE

-- name: read_keys
SELECT kid, state, public_pem, private_pem, created_at, retires_at FROM signing_key ORDER BY created_at, kid

-- name: add_key
INSERT INTO signing_key (kid, state, public_pem, private_pem, created_at)
VALUES ($1, $2, $3, $4, $5)

-- name: seal_key
UPDATE signing_key SET private_pem = $2 WHERE kid = $1 AND private_pem IS NOT NULL

-- name: retire_key
-- The private half is forgotten: an old key must not sign.
UPDATE signing_key SET state = 'old', private_pem = NULL, retires_at = $2
WHERE kid = $1

-- name: promote_key
UPDATE signing_key SET state = 'current' WHERE kid = $1

-- name: delete_key
DELETE FROM signing_key WHERE kid = $1

-- name: delete_retired
DELETE FROM signing_key WHERE state = 'old' AND retires_at < $1
