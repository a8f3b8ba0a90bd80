-- Of two schemas that are begun at the same time the later one goes on.
ALTER TABLE begun_schema ADD COLUMN no BIGINT NOT NULL DEFAULT 0;
