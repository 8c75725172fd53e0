-- The number that a user's files belong to on a file server.

ALTER TABLE users ADD COLUMN uid BIGINT;
