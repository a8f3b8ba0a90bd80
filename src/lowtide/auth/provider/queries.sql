-- name: clients
SELECT client FROM oauth_client ORDER BY id

-- name: client
SELECT client FROM oauth_client WHERE id = $1

-- name: put_client
INSERT INTO oauth_client (id, client, updated_at) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET client = excluded.client, updated_at = excluded.updated_at

-- name: delete_client
DELETE FROM oauth_client WHERE id = $1

-- name: put_request
INSERT INTO oauth_request (hash, client, parameters, expires_at) VALUES ($1, $2, $3, $4)

-- name: request
SELECT client, parameters FROM oauth_request WHERE hash = $1 AND expires_at > $2

-- name: take_request
DELETE FROM oauth_request WHERE hash = $1 AND expires_at > $2 RETURNING client

-- name: put_code
INSERT INTO oauth_code (hash, client, user_id, details, expires_at, used, session)
VALUES ($1, $2, $3, $4, $5, 0, NULL)

-- name: code
SELECT client, user_id, details, expires_at, used, session FROM oauth_code WHERE hash = $1
-- postgres
SELECT client, user_id, details, expires_at, used, session FROM oauth_code WHERE hash = $1 FOR UPDATE

-- name: use_code
UPDATE oauth_code SET used = 1, session = $2 WHERE hash = $1

-- name: end_codes
UPDATE oauth_code SET used = 1 WHERE user_id = $1 AND used = 0

-- name: consent
SELECT scope FROM oauth_consent WHERE user_id = $1 AND client = $2
-- postgres
SELECT scope FROM oauth_consent WHERE user_id = $1 AND client = $2 FOR UPDATE

-- name: put_consent
INSERT INTO oauth_consent (user_id, client, scope, agreed_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, client) DO UPDATE SET scope = excluded.scope, agreed_at = excluded.agreed_at

-- name: consents
SELECT client, scope, agreed_at FROM oauth_consent WHERE user_id = $1

-- name: delete_consent
DELETE FROM oauth_consent WHERE user_id = $1 AND client = $2 RETURNING scope

-- name: end_codes_of_client
UPDATE oauth_code SET used = 1 WHERE user_id = $1 AND client = $2 AND used = 0

-- name: forget_consents_to
DELETE FROM oauth_consent WHERE client = $1

-- name: forget_requests_of
DELETE FROM oauth_request WHERE client = $1

-- name: end_all_codes_of
UPDATE oauth_code SET used = 1 WHERE client = $1 AND used = 0

-- name: put_browser
INSERT INTO browser_session (hash, user_id, auth_time, proved_at, amr, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)

-- name: browser
SELECT user_id, auth_time, proved_at, amr FROM browser_session WHERE hash = $1 AND expires_at > $2

-- name: hold_browser
SELECT user_id FROM browser_session WHERE hash = $1 AND expires_at > $2
-- postgres
SELECT user_id FROM browser_session WHERE hash = $1 AND expires_at > $2 FOR UPDATE

-- name: delete_browser
DELETE FROM browser_session WHERE hash = $1 RETURNING user_id

-- name: sweep_requests
DELETE FROM oauth_request WHERE expires_at < $1

-- name: sweep_codes
DELETE FROM oauth_code WHERE expires_at < $1

-- name: sweep_browsers
DELETE FROM browser_session WHERE expires_at < $1

-- name: forget_codes
DELETE FROM oauth_code WHERE user_id = $1

-- name: forget_consents
DELETE FROM oauth_consent WHERE user_id = $1

-- name: forget_browsers
DELETE FROM browser_session WHERE user_id = $1
