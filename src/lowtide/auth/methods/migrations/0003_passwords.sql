-- Argon2id hashes, in the PHC string format. A short password may not stand without a second factor.
CREATE TABLE password (
    user_id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,
    short INTEGER NOT NULL,
    set_at BIGINT NOT NULL
);
