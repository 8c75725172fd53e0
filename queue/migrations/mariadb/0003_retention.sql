-- The twin of sqlite/0003_retention.sql.
ALTER TABLE revisions ADD COLUMN over_image VARCHAR(63);
ALTER TABLE revisions ADD COLUMN over_number BIGINT;

CREATE TABLE production (
    image  VARCHAR(63)  NOT NULL PRIMARY KEY,
    number BIGINT       NOT NULL,
    who    VARCHAR(255) NOT NULL,
    since  BIGINT       NOT NULL
);
