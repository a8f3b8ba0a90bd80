-- The models whose changes others are told of, as JSON: a group reads it with the head, and pays nothing else.
ALTER TABLE head ADD COLUMN watched TEXT NOT NULL DEFAULT '[]';
