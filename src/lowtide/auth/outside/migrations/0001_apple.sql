-- Apple's refresh tokens, sealed: what an account's deletion needs to end Apple's side of it, too.
CREATE TABLE apple_grant (
    id TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL,
    client_id TEXT NOT NULL,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX apple_grant_subject ON apple_grant (subject);
