-- Jobs that work for another job, and what tests of revisions found out.

ALTER TABLE jobs ADD COLUMN parent BIGINT;          -- the job that it works for
ALTER TABLE jobs ADD COLUMN parent_attempt INTEGER; -- and which attempt of it
CREATE INDEX jobs_parent ON jobs (parent, id);

CREATE TABLE image_tests (
    job_id     BIGINT       NOT NULL,
    attempt    INTEGER      NOT NULL,
    image      VARCHAR(64)  NOT NULL,
    number     INTEGER      NOT NULL,
    at         BIGINT       NOT NULL,
    passed     INTEGER      NOT NULL,
    result     TEXT         NOT NULL, -- JSON: an ImageTest
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX image_tests_image ON image_tests (image, number, at);
