-- Whose a passkey is stands in the table identity (provider passkey, subject the passkey's id), so that it
-- moves with its user when accounts are merged.

-- name: add_passkey
INSERT INTO passkey (id, credential_id, handle, public_key, counter, aaguid, transports,
    backup_eligible, backed_up, name, created_at, used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
ON CONFLICT (credential_id) DO NOTHING
RETURNING id

-- name: find_passkey
SELECT p.id, p.credential_id, p.handle, p.public_key, p.counter, p.aaguid, p.transports,
    p.backup_eligible, p.backed_up, p.name, p.created_at, p.used_at, i.user_id
FROM passkey p JOIN identity i ON i.provider = 'passkey' AND i.subject = p.id
WHERE p.credential_id = $1

-- name: passkeys_of
SELECT p.id, p.credential_id, p.handle, p.public_key, p.counter, p.aaguid, p.transports,
    p.backup_eligible, p.backed_up, p.name, p.created_at, p.used_at, i.user_id
FROM identity i JOIN passkey p ON p.id = i.subject
WHERE i.provider = 'passkey' AND i.user_id = $1
ORDER BY p.created_at, p.id

-- name: has_passkey
SELECT 1 FROM identity WHERE provider = 'passkey' AND user_id = $1 LIMIT 1

-- name: use_passkey
-- The row's counter decides, not the one that was read: of two answers with one count one is refused.
UPDATE passkey SET counter = $2, backed_up = $3, used_at = $4
WHERE id = $1 AND (counter < $2 OR (counter = 0 AND $2 = 0))
RETURNING id

-- name: rename_passkey
UPDATE passkey SET name = $3
WHERE id = (SELECT subject FROM identity WHERE provider = 'passkey' AND subject = $1 AND user_id = $2)
RETURNING id

-- name: forget_passkey
DELETE FROM passkey WHERE id = $1

-- name: forget_passkeys
DELETE FROM passkey
WHERE id IN (SELECT subject FROM identity WHERE provider = 'passkey' AND user_id = $1)
