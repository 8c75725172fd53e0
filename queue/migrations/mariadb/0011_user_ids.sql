-- The twin of sqlite/0011_user_ids.sql.

ALTER TABLE users ADD COLUMN uid BIGINT;
