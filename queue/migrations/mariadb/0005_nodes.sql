-- The twin of sqlite/0005_nodes.sql.

CREATE TABLE nodes (
    name      VARCHAR(255) NOT NULL PRIMARY KEY,
    life      BIGINT       NOT NULL,
    beat      BIGINT       NOT NULL,
    lease_ms  BIGINT       NOT NULL,
    state     VARCHAR(16)  NOT NULL,
    drained   BIGINT       NOT NULL DEFAULT 0,
    version   VARCHAR(63)  NOT NULL,
    protocol  BIGINT       NOT NULL,
    process   MEDIUMTEXT         NOT NULL,
    address   VARCHAR(255),
    backends  MEDIUMTEXT         NOT NULL,
    since     BIGINT       NOT NULL,
    ended_at  BIGINT
);

ALTER TABLE jobs ADD COLUMN life BIGINT;
ALTER TABLE jobs ADD COLUMN bound_to VARCHAR(255);
ALTER TABLE jobs ADD COLUMN protocol BIGINT  NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN lane VARCHAR(640) NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN held_since BIGINT;
ALTER TABLE jobs ADD COLUMN waits_for VARCHAR(16);
ALTER TABLE jobs ADD COLUMN waits_subject VARCHAR(255);
UPDATE jobs SET lane = CONCAT('1||', COALESCE(backend, ''), '|', COALESCE(host, ''));
UPDATE jobs SET held_since = COALESCE(claimed_at, submitted_at)
    WHERE holds_computer IS NOT NULL OR holds_image IS NOT NULL;
CREATE INDEX jobs_lane ON jobs (state, lane, resumed, id);
CREATE INDEX jobs_node ON jobs (node, state);
CREATE INDEX jobs_waits ON jobs (state, waits_for, waits_subject, id);

ALTER TABLE computers ADD COLUMN node VARCHAR(255);
