-- One-time codes by time. The secret is sealed; last_step is that of the last code that was used.
CREATE TABLE totp (
    user_id TEXT NOT NULL PRIMARY KEY,
    secret TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    last_step BIGINT NOT NULL
);

-- Codes on paper, good once: what is left of them.
CREATE TABLE recovery_code (
    user_id TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (user_id, hash)
);
