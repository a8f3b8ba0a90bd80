-- name: use
INSERT INTO used_challenge (digest, expires_at) VALUES ($1, $2)
ON CONFLICT (digest) DO NOTHING
RETURNING digest

-- name: forget_used
DELETE FROM used_challenge WHERE expires_at < $1
-- postgres
-- Sign-ins do not wait for each other: who comes later leaves to others what they delete.
DELETE FROM used_challenge WHERE digest IN (
    SELECT digest FROM used_challenge WHERE expires_at < $1 FOR UPDATE SKIP LOCKED
)
