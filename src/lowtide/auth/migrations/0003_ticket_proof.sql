-- What the first factor proved is written down once the second one is right, too.
ALTER TABLE sign_in_ticket RENAME COLUMN amr TO proof;
