-- Who there is. A verified address belongs to one user; an unverified one may be anybody's claim.
CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'deleting', 'merged')),
    anonymous INTEGER NOT NULL,
    name TEXT,
    email TEXT,
    email_verified INTEGER NOT NULL,
    phone TEXT,
    phone_verified INTEGER NOT NULL,
    claims TEXT NOT NULL,
    roles TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    signed_in_at BIGINT
);
CREATE UNIQUE INDEX users_email ON users (email) WHERE email IS NOT NULL;
CREATE INDEX users_phone ON users (phone) WHERE phone IS NOT NULL;
CREATE INDEX users_created ON users (created_at, id);

-- The ways in.
CREATE TABLE identity (
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL,
    email TEXT,
    email_verified INTEGER NOT NULL,
    linked_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX identity_of_user ON identity (user_id);

-- Who may act in a space other than main.
CREATE TABLE space_member (
    space TEXT NOT NULL,
    user_id TEXT NOT NULL,
    roles TEXT NOT NULL,
    added_at BIGINT NOT NULL,
    PRIMARY KEY (space, user_id)
);
CREATE INDEX space_member_user ON space_member (user_id);

-- One sign-in on one device. Its refresh token is sid.counter.mac: nothing of it but the key, sealed, is kept.
CREATE TABLE session (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    space TEXT NOT NULL,
    client TEXT NOT NULL,
    scope TEXT NOT NULL,
    device TEXT NOT NULL,
    jkt TEXT,
    amr TEXT NOT NULL,
    auth_time BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    secret TEXT NOT NULL,
    counter BIGINT NOT NULL,
    rotation TEXT,
    rotated_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    ip TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT,
    wipe INTEGER NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX session_of_user ON session (user_id, created_at);
-- What every node must know of: sessions that ended or changed within the life of a token.
CREATE INDEX session_changed ON session (changed_at) WHERE changed_at > 0;
CREATE INDEX session_seen ON session (seen_at);

-- A first factor that waits for its second.
CREATE TABLE sign_in_ticket (
    hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    amr TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sign_in_ticket_expiry ON sign_in_ticket (expires_at);

-- A user who was merged into another: what was written under the old id still arrives.
CREATE TABLE user_alias (
    old_user TEXT NOT NULL PRIMARY KEY,
    new_user TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX user_alias_new ON user_alias (new_user);
