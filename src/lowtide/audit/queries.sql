-- name: add_entry
INSERT INTO audit_entry
(id, at, space, action, actor, via, target, request, before_hash, after_hash, personal_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)

-- name: add_detail
INSERT INTO audit_detail (entry, salt, personal) VALUES ($1, $2, $3)

-- name: erase
UPDATE audit_detail SET salt = NULL, personal = NULL, erased_by = $2
WHERE erased_by IS NULL AND entry IN (
SELECT id FROM audit_entry WHERE actor = $1 UNION ALL SELECT id FROM audit_entry WHERE target = $1)
RETURNING entry

-- name: lock_head
SELECT seq, hash FROM audit_head
-- postgres
SELECT seq, hash FROM audit_head FOR UPDATE

-- name: unchained
SELECT id, at, space, action, actor, via, target, request, before_hash, after_hash, personal_hash
FROM audit_entry WHERE seq IS NULL ORDER BY id LIMIT $1

-- name: chain
UPDATE audit_entry SET seq = $2, hash = $3 WHERE id = $1

-- name: move_head
UPDATE audit_head SET seq = $1, hash = $2
