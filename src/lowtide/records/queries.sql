-- The REST API's statements. Lists are put together in sql.py, from the project's own names.

-- name: record
SELECT data, op, created, updated FROM record WHERE space = $1 AND model = $2 AND id = $3 AND deleted = 0
