-- The job queue's statements.

-- name: absorb
-- An UPDATE even when nothing changes: on PostgreSQL it locks the job, so that no worker starts it
-- before the transaction that was absorbed has committed what the job should see.
UPDATE job SET due_at = CASE WHEN fence = 0 AND $3 < due_at THEN $3 ELSE due_at END
WHERE id = (
SELECT id FROM job WHERE kind = $1 AND key = $2 AND status = 'waiting' AND key IS NOT NULL
ORDER BY due_at LIMIT 1
) AND status = 'waiting'
RETURNING id

-- name: insert
INSERT INTO job (id, queue, kind, key, payload, status, due_at, attempt, max_attempts, fence, created_at)
VALUES ($1, $2, $3, $4, $5, 'waiting', $6, 0, $7, 0, $8)
ON CONFLICT (kind, key) WHERE status = 'waiting' AND fence = 0 AND key IS NOT NULL
DO UPDATE SET due_at = CASE WHEN excluded.due_at < job.due_at THEN excluded.due_at ELSE job.due_at END
RETURNING id

-- name: next_due
SELECT due_at FROM job
WHERE queue = $1 AND status IN ('waiting', 'running') AND kind IN (SELECT value FROM json_each($2))
ORDER BY due_at LIMIT 1
-- postgres
SELECT due_at FROM job
WHERE queue = $1 AND status IN ('waiting', 'running') AND kind IN (SELECT json_array_elements_text($2::json))
ORDER BY due_at LIMIT 1

-- name: pick
SELECT id, queue, kind, key, payload, status, due_at, attempt, max_attempts, fence, worker, error,
created_at, finished_at
FROM job
WHERE queue = $1 AND status IN ('waiting', 'running') AND due_at <= $2
AND kind IN (SELECT value FROM json_each($3))
ORDER BY due_at, id LIMIT $4
-- postgres
SELECT id, queue, kind, key, payload, status, due_at, attempt, max_attempts, fence, worker, error,
created_at, finished_at
FROM job
WHERE queue = $1 AND status IN ('waiting', 'running') AND due_at <= $2
AND kind IN (SELECT json_array_elements_text($3::json))
ORDER BY due_at, id LIMIT $4
FOR UPDATE OF job SKIP LOCKED

-- name: lease
UPDATE job SET status = 'running', attempt = $2, fence = $3, due_at = $4, worker = $5 WHERE id = $1

-- name: extend
UPDATE job SET due_at = $3 WHERE id = $1 AND fence = $2 AND status = 'running' RETURNING id

-- name: complete
-- Again by the same holder is no change: a commit whose answer was lost is asked for again.
UPDATE job SET status = 'done', error = NULL,
finished_at = CASE WHEN status = 'done' THEN finished_at ELSE $3 END
WHERE id = $1 AND fence = $2 AND status IN ('running', 'done') RETURNING id

-- name: retry
UPDATE job SET status = 'waiting', due_at = $3, error = $4
WHERE id = $1 AND fence = $2 AND status = 'running' RETURNING id

-- name: bury
UPDATE job SET status = 'dead', finished_at = $3, error = $4
WHERE id = $1 AND fence = $2 AND status = 'running' RETURNING id

-- name: release
UPDATE job SET status = 'waiting', due_at = $3, attempt = attempt - 1
WHERE id = $1 AND fence = $2 AND status = 'running' RETURNING id

-- name: requeue
UPDATE job SET status = 'waiting', due_at = $2, attempt = 0, finished_at = NULL
WHERE id = $1 AND status = 'dead' RETURNING id

-- name: find
SELECT id, queue, kind, key, payload, status, due_at, attempt, max_attempts, fence, worker, error,
created_at, finished_at
FROM job WHERE id = $1

-- name: dead
SELECT id, queue, kind, key, payload, status, due_at, attempt, max_attempts, fence, worker, error,
created_at, finished_at
FROM job WHERE status = 'dead' AND finished_at IS NOT NULL ORDER BY finished_at DESC, id DESC LIMIT $1

-- name: counts
SELECT queue, kind, status, count(*), min(due_at) FROM job
GROUP BY queue, kind, status ORDER BY queue, kind, status

-- name: purge
-- The status is asked twice: a dead job that is requeued meanwhile stays.
DELETE FROM job WHERE id IN (
SELECT id FROM job WHERE status = $1 AND finished_at < $2 ORDER BY finished_at LIMIT $3
) AND status = $1
RETURNING id

-- name: begin_period
INSERT INTO job_period (kind, started) VALUES ($1, $2)
ON CONFLICT (kind) DO UPDATE SET started = excluded.started
WHERE job_period.started < excluded.started OR job_period.started > $3
RETURNING kind
