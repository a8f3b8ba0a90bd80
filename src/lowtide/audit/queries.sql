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

-- name: head
SELECT seq, hash FROM audit_head

-- name: chained
-- With what else an entry's verification needs: its details, and the erasure that took them.
SELECT e.seq, e.id, e.at, e.space, e.action, e.actor, e.via, e.target, e.request,
e.before_hash, e.after_hash, e.personal_hash, e.hash, d.salt, d.personal, d.erased_by, x.action, x.target
FROM audit_entry e
LEFT JOIN audit_detail d ON e.personal_hash IS NOT NULL AND d.entry = e.id
LEFT JOIN audit_entry x ON d.erased_by IS NOT NULL AND x.id = d.erased_by
WHERE e.seq > $1 AND e.seq <= $2 ORDER BY e.seq LIMIT $3

-- name: waiting
SELECT count(*), min(at) FROM audit_entry WHERE seq IS NULL

-- name: beyond
SELECT count(*) FROM audit_entry WHERE seq > $1

-- name: triggers
SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('audit_entry', 'audit_detail', 'audit_segment')
-- postgres
SELECT tgname::text, NULL::text FROM pg_trigger
WHERE tgrelid IN ('audit_entry'::regclass, 'audit_detail'::regclass, 'audit_segment'::regclass)
AND NOT tgisinternal AND tgenabled IN ('O', 'A')

-- name: last_segment
SELECT last, hash FROM audit_segment ORDER BY first DESC LIMIT 1

-- name: archived
SELECT max(last) FROM audit_segment

-- name: segment_behind
SELECT first, last, hash, first_at, last_at, blob FROM audit_segment
WHERE last > $1 ORDER BY last LIMIT 1

-- name: segments
SELECT first, last, hash, first_at, last_at, blob FROM audit_segment
WHERE first < $1 ORDER BY first DESC LIMIT $2

-- name: first_since
SELECT min(first) FROM audit_segment WHERE last_at >= $1

-- name: add_segment
INSERT INTO audit_segment (first, last, hash, first_at, last_at, blob, archived_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: remove_details
DELETE FROM audit_detail WHERE entry IN (SELECT id FROM audit_entry WHERE seq <= $1 ORDER BY seq LIMIT $2)

-- name: remove_entries
DELETE FROM audit_entry WHERE id IN (SELECT id FROM audit_entry WHERE seq <= $1 ORDER BY seq LIMIT $2)
RETURNING id

-- name: lock_keys
SELECT 1
-- postgres
LOCK TABLE audit_key IN SHARE ROW EXCLUSIVE MODE

-- name: read_keys
SELECT id, kind, public, sealed, created_at FROM audit_key ORDER BY created_at, id

-- name: add_key
INSERT INTO audit_key (id, kind, public, sealed, created_at) VALUES ($1, $2, $3, $4, $5)

-- What is not given does not matter. The columns are those of "chained", without the erasure's.
-- name: list
SELECT e.seq, e.id, e.at, e.space, e.action, e.actor, e.via, e.target, e.request,
e.before_hash, e.after_hash, e.personal_hash, e.hash, d.salt, d.personal, d.erased_by
FROM audit_entry e LEFT JOIN audit_detail d ON d.entry = e.id
WHERE e.id < $1 AND e.id >= $2 AND (CAST($3 AS TEXT) = '' OR substr(e.action, 1, length(CAST($3 AS TEXT))) = $3)
AND (CAST($4 AS TEXT) = '' OR e.actor = $4) AND (CAST($5 AS TEXT) = '' OR e.target = $5)
AND (CAST($6 AS TEXT) = '' OR e.request = $6) AND (CAST($7 AS TEXT) = '' OR e.space = $7)
ORDER BY e.id DESC LIMIT $8

-- name: actions
-- Each action once, from the index alone.
WITH RECURSIVE found (action) AS (
SELECT min(action) FROM audit_entry
UNION ALL
SELECT (SELECT min(e.action) FROM audit_entry e WHERE e.action > found.action) FROM found
WHERE found.action IS NOT NULL)
SELECT action FROM found WHERE substr(action, 1, length(CAST($1 AS TEXT))) = $1 LIMIT $2

-- name: last
SELECT hash, salt FROM audit_last WHERE action = $1 AND target = $2

-- name: keep_last
INSERT INTO audit_last (action, target, hash, salt)
SELECT e.action, e.target, e.after_hash, d.salt FROM audit_entry e JOIN audit_detail d ON d.entry = e.id
WHERE e.id = $1
ON CONFLICT (action, target) DO UPDATE SET hash = excluded.hash, salt = excluded.salt
