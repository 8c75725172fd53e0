-- Times are milliseconds since 1970 in UTC. Names have the lengths that vcl-types allows. JSON columns hold what only
-- the program looks into; what is searched for stands in a column of its own.

CREATE TABLE computers (
    name            VARCHAR(63)  NOT NULL PRIMARY KEY,
    backend         VARCHAR(63)  NOT NULL,
    spec            TEXT         NOT NULL, -- JSON: Computer
    state           VARCHAR(16)  NOT NULL,
    reason          TEXT,
    loaded          TEXT,                  -- JSON: Loaded
    loaded_image    VARCHAR(63),
    loaded_revision INTEGER
);
CREATE INDEX computers_loaded ON computers (loaded_image, loaded_revision);

CREATE TABLE jobs (
    id             INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    kind           VARCHAR(32)  NOT NULL,
    request        TEXT         NOT NULL,           -- JSON: JobRequest
    requester      VARCHAR(255) NOT NULL,
    backend        VARCHAR(63),
    host           VARCHAR(255),
    computer       VARCHAR(63),
    image          VARCHAR(63),                     -- the image it reads or writes
    revision       INTEGER,                         -- the revision it reads or deletes
    -- What nobody else may have while the job is not over: unique, and null once it is over.
    holds_computer VARCHAR(63)  UNIQUE,
    holds_image    VARCHAR(63)  UNIQUE,
    state          VARCHAR(16)  NOT NULL,
    reason         TEXT,
    result         TEXT,
    node           VARCHAR(255),
    token          INTEGER      NOT NULL DEFAULT 0, -- the fencing token: raised by each claim, never lowered
    attempt        INTEGER      NOT NULL DEFAULT 1, -- raised when a failed job is tried again from an empty journal
    resumed        INTEGER      NOT NULL DEFAULT 0, -- 1: it was under way before; such jobs are claimed first
    cancel_wanted  INTEGER      NOT NULL DEFAULT 0,
    submitted_at   BIGINT       NOT NULL,
    claimed_at     BIGINT,                          -- by the node that has it, or had it last
    started_at     BIGINT,                          -- by the first node
    ended_at       BIGINT
);
CREATE INDEX jobs_state ON jobs (state, resumed, id);
CREATE INDEX jobs_computer ON jobs (computer, id);
CREATE INDEX jobs_image ON jobs (image, state);

CREATE TABLE journal (
    job_id      INTEGER NOT NULL REFERENCES jobs (id),
    attempt     INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    token       INTEGER NOT NULL, -- whose record it is
    recorded_at BIGINT  NOT NULL,
    record      TEXT    NOT NULL, -- JSON: vcl_job::Record
    PRIMARY KEY (job_id, attempt, seq)
);

-- What a job's steps have changed in these tables, so that a step that runs again changes it once.
CREATE TABLE effects (
    job_id  INTEGER      NOT NULL REFERENCES jobs (id),
    attempt INTEGER      NOT NULL,
    step    VARCHAR(255) NOT NULL,
    effect  VARCHAR(255) NOT NULL,
    state   VARCHAR(16)  NOT NULL, -- what came of it
    PRIMARY KEY (job_id, attempt, step, effect)
);

CREATE TABLE reservations (
    id           INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    owner        VARCHAR(255) NOT NULL,
    computer     VARCHAR(63)  NOT NULL,
    image        VARCHAR(63)  NOT NULL,
    revision     INTEGER,
    state        VARCHAR(16)  NOT NULL,
    job_id       INTEGER      NOT NULL REFERENCES jobs (id), -- the job that opened it
    attempt      INTEGER      NOT NULL,
    since        BIGINT       NOT NULL,
    ended_at     BIGINT,
    ended_because TEXT
);
CREATE INDEX reservations_computer ON reservations (computer, state);

-- A deleted revision keeps its row: its number is never given out again, and a manifest that was left behind does not
-- bring it back.
CREATE TABLE revisions (
    image       VARCHAR(63) NOT NULL,
    number      INTEGER     NOT NULL,
    manifest    TEXT        NOT NULL, -- JSON: Manifest
    size        BIGINT      NOT NULL, -- bytes
    job_id      INTEGER,              -- no reference: a row that was rebuilt names a job of another database
    recorded_at BIGINT      NOT NULL,
    deleted_at  BIGINT,
    PRIMARY KEY (image, number)
);

CREATE TABLE events (
    id       INTEGER     NOT NULL PRIMARY KEY AUTOINCREMENT,
    at       BIGINT      NOT NULL,
    kind     VARCHAR(64) NOT NULL,
    job_id   INTEGER,
    computer VARCHAR(63),
    message  TEXT        NOT NULL
);
CREATE INDEX events_job ON events (job_id);
