-- name: use
INSERT INTO used_challenge (digest, expires_at) VALUES ($1, $2)
ON CONFLICT (digest) DO NOTHING
RETURNING digest

-- name: forget_used
DELETE FROM used_challenge WHERE expires_at < $1
