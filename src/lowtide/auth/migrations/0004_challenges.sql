-- Challenges that were used, until they would have expired: each is good once.
CREATE TABLE used_challenge (
    digest TEXT NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
CREATE INDEX used_challenge_expiry ON used_challenge (expires_at);
