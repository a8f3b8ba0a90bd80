-- name: user
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users WHERE id = $1

-- name: lock_user
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users WHERE id = $1
-- postgres
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users WHERE id = $1 FOR UPDATE

-- name: user_by_email
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users WHERE email = $1

-- name: user_by_identity
SELECT u.id, u.status, u.anonymous, u.name, u.email, u.email_verified, u.phone, u.phone_verified, u.claims,
u.roles, u.created_at, u.updated_at, u.signed_in_at
FROM identity i JOIN users u ON u.id = i.user_id WHERE i.provider = $1 AND i.subject = $2

-- Newest first; ids rise with time.
-- name: users
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users WHERE id < $1 ORDER BY id DESC LIMIT $2

-- name: users_named
SELECT id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at FROM users
WHERE id < $1 AND (id = $3 OR email LIKE $4 ESCAPE '\' OR phone LIKE $4 ESCAPE '\' OR lower(name) LIKE $4 ESCAPE '\')
ORDER BY id DESC LIMIT $2

-- name: insert_user
INSERT INTO users (id, status, anonymous, name, email, email_verified, phone, phone_verified, claims, roles,
created_at, updated_at, signed_in_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: update_user
UPDATE users SET status = $2, anonymous = $3, name = $4, email = $5, email_verified = $6, phone = $7,
phone_verified = $8, claims = $9, roles = $10, updated_at = $11, signed_in_at = $12 WHERE id = $1

-- name: delete_user
DELETE FROM users WHERE id = $1

-- name: identities
SELECT provider, subject, user_id, email, email_verified, linked_at, used_at FROM identity
WHERE user_id = $1 ORDER BY linked_at, provider, subject

-- name: insert_identity
INSERT INTO identity (provider, subject, user_id, email, email_verified, linked_at, used_at)
VALUES ($1, $2, $3, $4, $5, $6, $6)

-- name: use_identity
UPDATE identity SET used_at = $3, email = coalesce($4, email), email_verified = $5
WHERE provider = $1 AND subject = $2

-- name: delete_identity
DELETE FROM identity WHERE user_id = $1 AND provider = $2 AND subject = $3

-- name: delete_identities
DELETE FROM identity WHERE user_id = $1

-- name: note_unlinked
INSERT INTO unlinked_identity (user_id, provider, subject, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, provider, subject) DO UPDATE SET at = excluded.at

-- name: unlinked
SELECT 1 FROM unlinked_identity WHERE user_id = $1 AND provider = $2 AND subject = $3

-- name: forget_unlinked
DELETE FROM unlinked_identity WHERE user_id = $1 AND provider = $2 AND subject = $3

-- name: delete_unlinked
DELETE FROM unlinked_identity WHERE user_id = $1

-- name: member
SELECT roles FROM space_member WHERE space = $1 AND user_id = $2

-- name: memberships
SELECT space, roles FROM space_member WHERE user_id = $1 ORDER BY space

-- name: set_member
INSERT INTO space_member (space, user_id, roles, added_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (space, user_id) DO UPDATE SET roles = excluded.roles

-- name: delete_member
DELETE FROM space_member WHERE space = $1 AND user_id = $2

-- name: delete_memberships
DELETE FROM space_member WHERE user_id = $1

-- name: insert_alias
INSERT INTO user_alias (old_user, new_user, at) VALUES ($1, $2, $3)

-- name: move_aliases
UPDATE user_alias SET new_user = $2 WHERE new_user = $1

-- name: aliases
SELECT old_user FROM user_alias WHERE new_user = $1 AND at > $2 ORDER BY at DESC, old_user LIMIT $3

-- name: formers
SELECT old_user FROM user_alias WHERE new_user = $1 ORDER BY old_user

-- name: delete_aliases
DELETE FROM user_alias WHERE new_user = $1 OR old_user = $1

-- name: insert_ticket
INSERT INTO sign_in_ticket (hash, user_id, proof, expires_at) VALUES ($1, $2, $3, $4)

-- name: ticket
SELECT user_id, proof, expires_at FROM sign_in_ticket WHERE hash = $1

-- name: delete_ticket
DELETE FROM sign_in_ticket WHERE hash = $1

-- name: delete_tickets
DELETE FROM sign_in_ticket WHERE user_id = $1

-- name: trim_tickets
DELETE FROM sign_in_ticket WHERE expires_at < $1
