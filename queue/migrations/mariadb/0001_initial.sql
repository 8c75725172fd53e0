-- The twin of sqlite/0001_initial.sql: the same tables and columns. Numbers are BIGINT, texts that have no limit of
-- their own MEDIUMTEXT. Character set, collation and engine are the session's. DDL is not transactional here: each statement
-- stands alone, and one whose work is done already is passed over (see migrate.rs).

CREATE TABLE computers (
    name            VARCHAR(63)  NOT NULL PRIMARY KEY,
    backend         VARCHAR(63)  NOT NULL,
    spec            MEDIUMTEXT   NOT NULL,
    state           VARCHAR(16)  NOT NULL,
    reason          MEDIUMTEXT,
    loaded          MEDIUMTEXT,
    loaded_image    VARCHAR(63),
    loaded_revision BIGINT,
    INDEX computers_loaded (loaded_image, loaded_revision)
);

CREATE TABLE jobs (
    id             BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    kind           VARCHAR(32)  NOT NULL,
    request        MEDIUMTEXT   NOT NULL,
    requester      VARCHAR(255) NOT NULL,
    backend        VARCHAR(63),
    host           VARCHAR(255),
    computer       VARCHAR(63),
    image          VARCHAR(63),
    revision       BIGINT,
    holds_computer VARCHAR(63)  UNIQUE,
    holds_image    VARCHAR(63)  UNIQUE,
    state          VARCHAR(16)  NOT NULL,
    reason         MEDIUMTEXT,
    result         MEDIUMTEXT,
    node           VARCHAR(255),
    token          BIGINT       NOT NULL DEFAULT 0,
    attempt        BIGINT       NOT NULL DEFAULT 1,
    resumed        BIGINT       NOT NULL DEFAULT 0,
    cancel_wanted  BIGINT       NOT NULL DEFAULT 0,
    submitted_at   BIGINT       NOT NULL,
    claimed_at     BIGINT,
    started_at     BIGINT,
    ended_at       BIGINT,
    INDEX jobs_state (state, resumed, id),
    INDEX jobs_computer (computer, id),
    INDEX jobs_image (image, state)
);

CREATE TABLE journal (
    job_id      BIGINT     NOT NULL,
    attempt     BIGINT     NOT NULL,
    seq         BIGINT     NOT NULL,
    token       BIGINT     NOT NULL,
    recorded_at BIGINT     NOT NULL,
    record      MEDIUMTEXT NOT NULL,
    PRIMARY KEY (job_id, attempt, seq),
    FOREIGN KEY (job_id) REFERENCES jobs (id)
);

CREATE TABLE effects (
    job_id  BIGINT       NOT NULL,
    attempt BIGINT       NOT NULL,
    step    VARCHAR(255) NOT NULL,
    effect  VARCHAR(255) NOT NULL,
    state   VARCHAR(16)  NOT NULL,
    PRIMARY KEY (job_id, attempt, step, effect),
    FOREIGN KEY (job_id) REFERENCES jobs (id)
);

CREATE TABLE reservations (
    id            BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    owner         VARCHAR(255) NOT NULL,
    computer      VARCHAR(63)  NOT NULL,
    image         VARCHAR(63)  NOT NULL,
    revision      BIGINT,
    state         VARCHAR(16)  NOT NULL,
    job_id        BIGINT       NOT NULL,
    attempt       BIGINT       NOT NULL,
    since         BIGINT       NOT NULL,
    ended_at      BIGINT,
    ended_because MEDIUMTEXT,
    INDEX reservations_computer (computer, state),
    FOREIGN KEY (job_id) REFERENCES jobs (id)
);

CREATE TABLE revisions (
    image       VARCHAR(63) NOT NULL,
    number      BIGINT      NOT NULL,
    manifest    MEDIUMTEXT  NOT NULL,
    size        BIGINT      NOT NULL,
    job_id      BIGINT,
    recorded_at BIGINT      NOT NULL,
    deleted_at  BIGINT,
    PRIMARY KEY (image, number)
);

CREATE TABLE events (
    id       BIGINT      NOT NULL PRIMARY KEY AUTO_INCREMENT,
    at       BIGINT      NOT NULL,
    kind     VARCHAR(64) NOT NULL,
    job_id   BIGINT,
    computer VARCHAR(63),
    message  MEDIUMTEXT  NOT NULL,
    INDEX events_job (job_id)
);

-- The engine's own, which SQLite has no use for. `writers`: a row for each process that writes, with the number of its
-- newest batch, set in the batch's transaction. It tells whether a COMMIT that was not answered took place, and whether
-- another process has written anything.
CREATE TABLE writers (
    id    BIGINT NOT NULL PRIMARY KEY,
    batch BIGINT NOT NULL,
    at    BIGINT NOT NULL
);

-- One row, locked by whoever decides over several rows of the other tables.
CREATE TABLE exclusive (
    id BIGINT NOT NULL PRIMARY KEY
);
INSERT IGNORE INTO exclusive (id) VALUES (1);
