-- What was kept of a job's failure before anything was cleaned up. A row's bytes are at most 1 MiB.
CREATE TABLE evidence (
    job_id     INTEGER     NOT NULL REFERENCES jobs (id),
    attempt    INTEGER     NOT NULL,
    name       VARCHAR(63) NOT NULL,
    media_type VARCHAR(63) NOT NULL,
    taken_at   BIGINT      NOT NULL,
    size       BIGINT      NOT NULL, -- bytes
    bytes      BLOB        NOT NULL,
    PRIMARY KEY (job_id, attempt, name)
);
CREATE INDEX evidence_taken ON evidence (taken_at);

-- How long the steps of a job that ended well took: one row a job, so that a job's end costs one write.
CREATE TABLE timings (
    job_id   INTEGER     NOT NULL PRIMARY KEY REFERENCES jobs (id),
    kind     VARCHAR(32) NOT NULL,
    backend  VARCHAR(63) NOT NULL, -- empty where the job has none
    ended_at BIGINT      NOT NULL,
    whole    BIGINT,               -- milliseconds; null for a job that was interrupted
    steps    TEXT        NOT NULL  -- JSON: [[step, milliseconds], …] in the order in which they ended
);
CREATE INDEX timings_kind ON timings (kind, backend, job_id);

-- What was seen to be there and to belong to nobody, or the other way round.
CREATE TABLE orphans (
    place          VARCHAR(120) NOT NULL,
    kind           VARCHAR(32)  NOT NULL,
    name           VARCHAR(200) NOT NULL,
    first_seen     BIGINT       NOT NULL,
    ignored_by     VARCHAR(255),
    ignored_reason TEXT,
    ignored_at     BIGINT,
    PRIMARY KEY (place, kind, name)
);
