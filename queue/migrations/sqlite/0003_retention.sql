-- The revision that a revision is stored over, and that must be kept as long as it is.
ALTER TABLE revisions ADD COLUMN over_image VARCHAR(63);
ALTER TABLE revisions ADD COLUMN over_number INTEGER;

-- The revision of an image that is in production: no rule for keeping and no mistake deletes it.
CREATE TABLE production (
    image  VARCHAR(63)  NOT NULL PRIMARY KEY,
    number INTEGER      NOT NULL,
    who    VARCHAR(255) NOT NULL,
    since  BIGINT       NOT NULL
);
