-- Ways in that their user took away: they come back by that user's own hand, and not by an equal address.
CREATE TABLE unlinked_identity (
    user_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (user_id, provider, subject)
);
