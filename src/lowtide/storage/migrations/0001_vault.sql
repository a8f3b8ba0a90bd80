-- The keys that seal secrets, each wrapped by the operator's secret key, which is never in the database.
CREATE TABLE data_key (
    id TEXT NOT NULL PRIMARY KEY,
    wrapped TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- From when it seals: by then every node has read it.
    active_at BIGINT NOT NULL
);
