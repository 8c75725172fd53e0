-- The twin of sqlite/0008_image_tests.sql.

ALTER TABLE jobs ADD COLUMN parent BIGINT;
ALTER TABLE jobs ADD COLUMN parent_attempt BIGINT;
CREATE INDEX jobs_parent ON jobs (parent, id);

CREATE TABLE image_tests (
    job_id     BIGINT       NOT NULL,
    attempt    BIGINT       NOT NULL,
    image      VARCHAR(64)  NOT NULL,
    number     BIGINT       NOT NULL,
    at         BIGINT       NOT NULL,
    passed     BIGINT       NOT NULL,
    result     MEDIUMTEXT   NOT NULL,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX image_tests_image ON image_tests (image, number, at);
