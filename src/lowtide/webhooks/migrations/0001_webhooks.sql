-- Where events are sent. Secrets are sealed; the old one signs, too, until old_until.
CREATE TABLE webhook_endpoint (
    id TEXT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    secret TEXT NOT NULL,
    old_secret TEXT,
    old_until BIGINT NOT NULL DEFAULT 0,
    enabled BIGINT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    failing_since BIGINT,
    created_at BIGINT NOT NULL
);

-- The last tries of each endpoint.
CREATE TABLE webhook_try (
    id TEXT NOT NULL PRIMARY KEY,
    endpoint TEXT NOT NULL,
    message TEXT NOT NULL,
    event TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    status BIGINT NOT NULL,
    error TEXT NOT NULL,
    took BIGINT NOT NULL,
    at BIGINT NOT NULL
);

CREATE INDEX webhook_try_endpoint ON webhook_try (endpoint, id);
