-- due_at says when a worker may take the job: a waiting one at its time, a running one when its lease ends.
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT,
    payload TEXT NOT NULL,
    status TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    worker TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);

CREATE INDEX job_due ON job (queue, due_at, id) WHERE status IN ('waiting', 'running');

CREATE INDEX job_finished ON job (status, finished_at) WHERE finished_at IS NOT NULL;

CREATE INDEX job_key ON job (kind, key) WHERE status = 'waiting' AND key IS NOT NULL;

-- Two nodes may enqueue one key at once; a job that ran before (fence > 0) comes back without asking.
CREATE UNIQUE INDEX job_fresh_key ON job (kind, key) WHERE status = 'waiting' AND fence = 0 AND key IS NOT NULL;

-- The period for which each periodic job was last enqueued.
CREATE TABLE job_period (
    kind TEXT PRIMARY KEY,
    started BIGINT NOT NULL
);
