-- Apps that were registered through the admin API; those of the settings are not here.
CREATE TABLE oauth_client (
    id TEXT NOT NULL PRIMARY KEY,
    client TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Requests that a client pushed before its browser came (RFC 9126).
CREATE TABLE oauth_request (
    hash TEXT NOT NULL PRIMARY KEY,
    client TEXT NOT NULL,
    parameters TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX oauth_request_expiry ON oauth_request (expires_at);

-- Codes: kept for a while after their use, so that a second use is noticed.
CREATE TABLE oauth_code (
    hash TEXT NOT NULL PRIMARY KEY,
    client TEXT NOT NULL,
    user_id TEXT NOT NULL,
    details TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    used INTEGER NOT NULL,
    session TEXT
);
CREATE INDEX oauth_code_expiry ON oauth_code (expires_at);
CREATE INDEX oauth_code_user ON oauth_code (user_id);

-- What a user has agreed to.
CREATE TABLE oauth_consent (
    user_id TEXT NOT NULL,
    client TEXT NOT NULL,
    scope TEXT NOT NULL,
    agreed_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, client)
);

-- Browsers in which a user is signed in.
CREATE TABLE browser_session (
    hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    auth_time BIGINT NOT NULL,
    amr TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX browser_session_expiry ON browser_session (expires_at);
CREATE INDEX browser_session_user ON browser_session (user_id);
