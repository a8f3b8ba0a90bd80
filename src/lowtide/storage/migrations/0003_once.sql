-- Requests that carry an Idempotency-Key: one row for a key, its answer once there is one.
CREATE TABLE once (
    -- A digest of who asked, of which address, with which key.
    scope TEXT NOT NULL PRIMARY KEY,
    -- A digest of what was sent.
    fingerprint TEXT NOT NULL,
    -- Sealed; NULL while the request is worked on.
    answer TEXT,
    -- While it is worked on: when somebody else may begin. Then: when it is forgotten.
    until BIGINT NOT NULL
);

CREATE INDEX once_until ON once (until);
