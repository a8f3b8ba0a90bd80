-- name: create_migration
CREATE TABLE IF NOT EXISTS lowtide_migration (
    component TEXT NOT NULL,
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    applied_at BIGINT NOT NULL,
    PRIMARY KEY (component, number)
)

-- name: lock_migrations
-- Only called on PostgreSQL; the number is arbitrary and Lowtide's own.
SELECT 1
-- postgres
SELECT pg_advisory_xact_lock(7811887322640)

-- name: has_migrations
SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'lowtide_migration'
-- postgres
SELECT 1 WHERE to_regclass('lowtide_migration') IS NOT NULL

-- name: applied_migrations
SELECT component, number, digest, applied_at FROM lowtide_migration

-- name: add_migration
INSERT INTO lowtide_migration (component, number, name, digest, applied_at) VALUES ($1, $2, $3, $4, $5)
