-- Management nodes and their leases. A life is one membership of one process: whoever joins under a name begins the next
-- one. Nothing compares clocks: `beat` only has to change.
CREATE TABLE nodes (
    name      VARCHAR(255) NOT NULL PRIMARY KEY,
    life      BIGINT       NOT NULL, -- raised by each join, never lowered
    beat      BIGINT       NOT NULL, -- raised by each renewal of the lease
    lease_ms  BIGINT       NOT NULL, -- how long the lease is good after a renewal
    state     VARCHAR(16)  NOT NULL, -- alive, left, dead
    drained   INTEGER      NOT NULL DEFAULT 0, -- 1: it claims nothing new
    version   VARCHAR(63)  NOT NULL, -- of the program
    protocol  INTEGER      NOT NULL, -- what the program understands of jobs
    process   TEXT         NOT NULL, -- JSON: Process, by which one on the same machine is known to have ended
    address   VARCHAR(255),          -- where other nodes reach it
    backends  TEXT         NOT NULL, -- JSON: the backend instances that it has
    since     BIGINT       NOT NULL, -- of this life, by the node's clock, for people
    ended_at  BIGINT                 -- when it left or was given up, for people
);

ALTER TABLE jobs ADD COLUMN life BIGINT;                        -- of the node that has it, or had it last
ALTER TABLE jobs ADD COLUMN bound_to VARCHAR(255);              -- the only node that can do it
ALTER TABLE jobs ADD COLUMN protocol INTEGER NOT NULL DEFAULT 1; -- what a program has to understand to go on with it
ALTER TABLE jobs ADD COLUMN lane VARCHAR(640) NOT NULL DEFAULT ''; -- jobs of one lane can be claimed by the same nodes
ALTER TABLE jobs ADD COLUMN held_since BIGINT;                  -- since when it holds what it holds
ALTER TABLE jobs ADD COLUMN waits_for VARCHAR(16);              -- in the state waiting: for what kind of thing
ALTER TABLE jobs ADD COLUMN waits_subject VARCHAR(255);         -- and for which
UPDATE jobs SET lane = CONCAT('1||', COALESCE(backend, ''), '|', COALESCE(host, ''));
UPDATE jobs SET held_since = COALESCE(claimed_at, submitted_at)
    WHERE holds_computer IS NOT NULL OR holds_image IS NOT NULL;
CREATE INDEX jobs_lane ON jobs (state, lane, resumed, id);
CREATE INDEX jobs_node ON jobs (node, state);
CREATE INDEX jobs_waits ON jobs (state, waits_for, waits_subject, id);

ALTER TABLE computers ADD COLUMN node VARCHAR(255);             -- the node that alone has its backend
