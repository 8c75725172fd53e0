-- The twin of sqlite/0002_insight.sql: see 0001_initial.sql for what differs.

-- What was kept of a job's failure before anything was cleaned up. A row's bytes are at most 1 MiB.
CREATE TABLE evidence (
    job_id     BIGINT      NOT NULL,
    attempt    BIGINT      NOT NULL,
    name       VARCHAR(63) NOT NULL,
    media_type VARCHAR(63) NOT NULL,
    taken_at   BIGINT      NOT NULL,
    size       BIGINT      NOT NULL,
    bytes      MEDIUMBLOB  NOT NULL,
    PRIMARY KEY (job_id, attempt, name),
    FOREIGN KEY (job_id) REFERENCES jobs (id)
);
CREATE INDEX evidence_taken ON evidence (taken_at);

-- How long the steps of a job that ended well took: one row a job, so that a job's end costs one write.
CREATE TABLE timings (
    job_id   BIGINT      NOT NULL PRIMARY KEY,
    kind     VARCHAR(32) NOT NULL,
    backend  VARCHAR(63) NOT NULL,
    ended_at BIGINT      NOT NULL,
    whole    BIGINT,
    steps    MEDIUMTEXT  NOT NULL,
    FOREIGN KEY (job_id) REFERENCES jobs (id)
);
CREATE INDEX timings_kind ON timings (kind, backend, job_id);

-- What was seen to be there and to belong to nobody, or the other way round.
CREATE TABLE orphans (
    place          VARCHAR(120) NOT NULL,
    kind           VARCHAR(32)  NOT NULL,
    name           VARCHAR(200) NOT NULL,
    first_seen     BIGINT       NOT NULL,
    ignored_by     VARCHAR(255),
    ignored_reason MEDIUMTEXT,
    ignored_at     BIGINT,
    PRIMARY KEY (place, kind, name)
);
