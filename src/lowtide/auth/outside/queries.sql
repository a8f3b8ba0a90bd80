-- name: keep_grant
INSERT INTO apple_grant (id, subject, client_id, sealed, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at

-- name: grants_of
SELECT id, client_id, sealed FROM apple_grant WHERE subject = $1 ORDER BY id

-- Of nobody here: kept after the account went, the way in was taken away, or the sign-in was refused.
-- name: orphaned_grants
SELECT DISTINCT subject FROM apple_grant WHERE created_at < $1
AND NOT EXISTS (SELECT 1 FROM identity WHERE provider = 'apple' AND identity.subject = apple_grant.subject)
ORDER BY subject LIMIT $2

-- name: delete_grants
DELETE FROM apple_grant WHERE subject = $1

-- name: apple_subjects
SELECT subject FROM identity WHERE provider = 'apple' AND user_id = $1
