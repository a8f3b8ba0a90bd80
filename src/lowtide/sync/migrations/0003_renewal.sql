-- Schemas that stored records were being brought under: until one is deployed, some records may look as it wants.
CREATE TABLE begun_schema (
    digest TEXT PRIMARY KEY,
    snapshot TEXT NOT NULL
);
