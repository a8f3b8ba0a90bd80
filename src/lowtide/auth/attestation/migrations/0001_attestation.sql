-- Keys in the secure chips of Apple's devices, as App Attest vouched for them.
CREATE TABLE attested_key (
    id TEXT NOT NULL PRIMARY KEY,
    public_key TEXT NOT NULL,
    app TEXT NOT NULL,
    environment TEXT NOT NULL,
    counter BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Sessions on devices that were vouched for, and until when that counts.
CREATE TABLE attested_session (
    session_id TEXT NOT NULL PRIMARY KEY,
    platform TEXT NOT NULL,
    until BIGINT NOT NULL
);
CREATE INDEX attested_session_until ON attested_session (until);
