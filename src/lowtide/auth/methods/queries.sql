-- What the sign-in methods keep.

-- name: add_sent
INSERT INTO outbox (number, channel, sent_to, subject, text, sent_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (number) DO NOTHING

-- name: read_sent
SELECT channel, sent_to, subject, text, sent_at FROM outbox ORDER BY sent_at DESC, number DESC LIMIT $1

-- name: trim_sent
DELETE FROM outbox WHERE number IN (
    SELECT number FROM outbox ORDER BY sent_at DESC, number DESC
    LIMIT 1000 OFFSET $1
)

-- name: add_flow
INSERT INTO code_flow (id, channel, address, code, link, number, tries, device, ip, asked_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10)

-- name: find_flow
SELECT confirmed_at, address FROM code_flow WHERE id = $1 AND expires_at > $2 AND ended_at IS NULL

-- name: hold_flow
SELECT channel, address, code, tries, confirmed_at FROM code_flow
WHERE id = $1 AND expires_at > $2 AND ended_at IS NULL
-- postgres
SELECT channel, address, code, tries, confirmed_at FROM code_flow
WHERE id = $1 AND expires_at > $2 AND ended_at IS NULL FOR UPDATE

-- name: count_try
UPDATE code_flow SET tries = tries + 1 WHERE id = $1

-- name: end_flow
-- Whoever was first: a code that was right in time signs in a moment later, too.
UPDATE code_flow SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL RETURNING 1

-- name: find_link
SELECT address, number, device, ip, asked_at FROM code_flow
WHERE link = $1 AND expires_at > $2 AND ended_at IS NULL AND confirmed_at IS NULL

-- name: confirm_link
UPDATE code_flow SET confirmed_at = coalesce(confirmed_at, $3)
WHERE link = $1 AND number = $2 AND expires_at > $3 AND (ended_at IS NULL OR confirmed_at IS NOT NULL)
RETURNING 1

-- name: end_link
UPDATE code_flow SET ended_at = $2 WHERE link = $1 AND ended_at IS NULL AND confirmed_at IS NULL

-- name: purge_flows
DELETE FROM code_flow WHERE id IN (SELECT id FROM code_flow WHERE expires_at < $1 LIMIT $2)
RETURNING 1

-- name: password
SELECT hash, short, set_at FROM password WHERE user_id = $1

-- name: set_password
-- set_at names the password: it is never that of the one before.
INSERT INTO password (user_id, hash, short, set_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id) DO UPDATE SET hash = excluded.hash, short = excluded.short,
    set_at = CASE WHEN excluded.set_at > password.set_at THEN excluded.set_at ELSE password.set_at + 1 END

-- name: rehash_password
UPDATE password SET hash = $3 WHERE user_id = $1 AND hash = $2

-- name: delete_password
DELETE FROM password WHERE user_id = $1

-- name: totp
SELECT secret, confirmed_at, last_step FROM totp WHERE user_id = $1

-- name: hold_totp
SELECT secret, confirmed_at, last_step FROM totp WHERE user_id = $1
-- postgres
SELECT secret, confirmed_at, last_step FROM totp WHERE user_id = $1 FOR UPDATE

-- name: start_totp
INSERT INTO totp (user_id, secret, started_at, confirmed_at, last_step) VALUES ($1, $2, $3, NULL, 0)
ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, started_at = excluded.started_at
WHERE totp.confirmed_at IS NULL
RETURNING 1

-- name: confirm_totp
UPDATE totp SET confirmed_at = $2, last_step = $3 WHERE user_id = $1 AND secret = $4 AND confirmed_at IS NULL
RETURNING 1

-- name: use_totp
UPDATE totp SET last_step = $2 WHERE user_id = $1 AND last_step < $2 AND confirmed_at IS NOT NULL
RETURNING 1

-- name: delete_totp
DELETE FROM totp WHERE user_id = $1

-- name: add_recovery
INSERT INTO recovery_code (user_id, hash) VALUES ($1, $2)

-- name: recovery
SELECT 1 FROM recovery_code WHERE user_id = $1 AND hash = $2

-- name: use_recovery
DELETE FROM recovery_code WHERE user_id = $1 AND hash = $2
RETURNING 1

-- name: count_recovery
SELECT count(*) FROM recovery_code WHERE user_id = $1

-- name: delete_recovery
DELETE FROM recovery_code WHERE user_id = $1
