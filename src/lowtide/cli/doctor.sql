-- name: server
SELECT 0, 1, NULL
-- postgres
SELECT CASE WHEN rolsuper THEN 1 ELSE 0 END,
CASE WHEN coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) THEN 1 ELSE 0 END,
(extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM pg_roles WHERE rolname = current_user

-- name: state
SELECT
(SELECT count(*) FROM job WHERE status = 'dead'),
(SELECT min(at) FROM audit_entry WHERE seq IS NULL),
(SELECT max(created_at) FROM signing_key),
(SELECT count(*) FROM outbox)
