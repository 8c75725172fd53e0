-- Reservations that somebody has who has no computer yet, with their times. SQLite cannot let a column be null that was
-- not: the table is made anew.
ALTER TABLE reservations RENAME TO reservations_5;
DROP INDEX reservations_computer;
CREATE TABLE reservations (
    id              INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    owner           VARCHAR(255) NOT NULL,
    group_name      VARCHAR(120),             -- whose times and limits it has
    purpose         VARCHAR(16)  NOT NULL DEFAULT 'direct',
    class_id        INTEGER,                  -- of a seat
    computer        VARCHAR(63),              -- null until it has one
    booked          VARCHAR(63),              -- kept for it from its start to its end
    image           VARCHAR(63)  NOT NULL,
    revision        INTEGER,                  -- null: the one in production when it is loaded
    asked           TEXT,                     -- JSON: what was asked; null for a load
    times           TEXT,                     -- JSON: Times, settled when it was asked for
    state           VARCHAR(16)  NOT NULL,
    job_id          INTEGER,                  -- the job that opened it or works for it
    attempt         INTEGER,
    since           BIGINT       NOT NULL,    -- when it was asked for
    start_at        BIGINT,
    end_at          BIGINT,                   -- null: open
    length_s        BIGINT,                   -- null: open
    assigned_at     BIGINT,                   -- when it got its computer
    usable_at       BIGINT,
    acknowledged_at BIGINT,
    connected_at    BIGINT,
    seen_at         BIGINT,
    nobody_at       BIGINT,                   -- when its guest last said that nobody is connected
    address         VARCHAR(63),              -- where its user comes from
    told            TEXT,                     -- JSON: the notices that were given
    tries           INTEGER      NOT NULL DEFAULT 0, -- loads that failed for it; while it is ending, captures
    avoid           TEXT,                     -- JSON: computers whose loads failed for it
    discard         INTEGER      NOT NULL DEFAULT 0, -- 1: an imaging one that is not captured at its end
    retry_at        BIGINT,                   -- when capturing it is tried again; null: nothing has failed since
    p10_s           BIGINT,                   -- the waiting time that was shown when it was asked for
    p90_s           BIGINT,
    ended_at        BIGINT,
    ended_because   TEXT
);
INSERT INTO reservations (id, owner, computer, image, revision, state, job_id, attempt, since, start_at, ended_at, ended_because)
    SELECT id, owner, computer, image, revision, state, job_id, attempt, since, since, ended_at, ended_because FROM reservations_5;
DROP TABLE reservations_5;
CREATE INDEX reservations_computer ON reservations (computer, state);
CREATE INDEX reservations_booked ON reservations (booked, state);
CREATE INDEX reservations_state ON reservations (state, since);
CREATE INDEX reservations_owner ON reservations (owner, state);
CREATE INDEX reservations_class ON reservations (class_id, start_at);

-- 1: somebody has used what it holds, and nobody else gets it before it is loaded anew.
ALTER TABLE computers ADD COLUMN tainted INTEGER NOT NULL DEFAULT 0;

-- A row for each reservation that has ended, written in the transaction that ends it.
CREATE TABLE usage_rows (
    reservation_id INTEGER      NOT NULL PRIMARY KEY,
    owner          VARCHAR(255) NOT NULL,
    group_name     VARCHAR(120),
    purpose        VARCHAR(16)  NOT NULL,
    class_id       INTEGER,
    image          VARCHAR(63)  NOT NULL,
    revision       INTEGER,
    computer       VARCHAR(63),
    since          BIGINT       NOT NULL,
    start_at       BIGINT,
    assigned_at    BIGINT,                   -- when it got its computer
    usable_at      BIGINT,
    connected_at   BIGINT,
    ended_at       BIGINT       NOT NULL,
    length_s       BIGINT,
    p10_s          BIGINT,
    p90_s          BIGINT,
    ended_because  TEXT
);
CREATE INDEX usage_ended ON usage_rows (ended_at);
CREATE INDEX usage_owner ON usage_rows (owner, ended_at);
CREATE INDEX usage_computer ON usage_rows (computer, ended_at);

-- Classes: so many seats of an image at times of the week (VCL's block allocations).
CREATE TABLE classes (
    id         INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    name       VARCHAR(120) NOT NULL UNIQUE,
    image      VARCHAR(63)  NOT NULL,
    revision   INTEGER,
    seats      INTEGER      NOT NULL,
    weekly     VARCHAR(400) NOT NULL,
    wish       TEXT         NOT NULL, -- JSON: Wish
    group_name VARCHAR(120),          -- whose members take the seats; null: anybody
    owner      VARCHAR(255) NOT NULL,
    from_at    BIGINT       NOT NULL,
    until_at   BIGINT,
    ended_at   BIGINT
);
-- Times of classes, which were called off.
CREATE TABLE class_times (
    class_id  INTEGER NOT NULL,
    start_at  BIGINT  NOT NULL,
    end_at    BIGINT  NOT NULL,
    called_off INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (class_id, start_at)
);

-- Times in which computers are taken out of use; users finish first.
CREATE TABLE maintenance_windows (
    id        INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    computers TEXT         NOT NULL, -- JSON: names
    start_at  BIGINT       NOT NULL,
    end_at    BIGINT,                -- null: until somebody ends it
    reason    TEXT         NOT NULL,
    who       VARCHAR(255) NOT NULL,
    ended_at  BIGINT
);

-- Backends whose host takes nothing new.
CREATE TABLE drained_hosts (
    backend VARCHAR(63)  NOT NULL PRIMARY KEY,
    who     VARCHAR(255) NOT NULL,
    reason  TEXT,
    since   BIGINT       NOT NULL
);
