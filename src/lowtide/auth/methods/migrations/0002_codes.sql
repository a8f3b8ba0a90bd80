-- One-time codes that were sent: for ten minutes, and without anything that signs anybody in.
CREATE TABLE code_flow (
    id TEXT NOT NULL PRIMARY KEY,
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    code TEXT NOT NULL,
    link TEXT NOT NULL,
    number INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    device TEXT NOT NULL,
    ip TEXT NOT NULL,
    asked_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    ended_at BIGINT
);

CREATE UNIQUE INDEX code_flow_link ON code_flow (link);
CREATE INDEX code_flow_expiry ON code_flow (expires_at);
