-- The twin of sqlite/0006_reservations.sql.
ALTER TABLE reservations MODIFY computer VARCHAR(63) NULL;
ALTER TABLE reservations MODIFY job_id BIGINT NULL;
ALTER TABLE reservations MODIFY attempt BIGINT NULL;
ALTER TABLE reservations ADD COLUMN group_name VARCHAR(120);
ALTER TABLE reservations ADD COLUMN purpose VARCHAR(16) NOT NULL DEFAULT 'direct';
ALTER TABLE reservations ADD COLUMN class_id BIGINT;
ALTER TABLE reservations ADD COLUMN booked VARCHAR(63);
ALTER TABLE reservations ADD COLUMN asked MEDIUMTEXT;
ALTER TABLE reservations ADD COLUMN times MEDIUMTEXT;
ALTER TABLE reservations ADD COLUMN start_at BIGINT;
ALTER TABLE reservations ADD COLUMN end_at BIGINT;
ALTER TABLE reservations ADD COLUMN length_s BIGINT;
ALTER TABLE reservations ADD COLUMN assigned_at BIGINT;
ALTER TABLE reservations ADD COLUMN usable_at BIGINT;
ALTER TABLE reservations ADD COLUMN acknowledged_at BIGINT;
ALTER TABLE reservations ADD COLUMN connected_at BIGINT;
ALTER TABLE reservations ADD COLUMN seen_at BIGINT;
ALTER TABLE reservations ADD COLUMN nobody_at BIGINT;
ALTER TABLE reservations ADD COLUMN address VARCHAR(63);
ALTER TABLE reservations ADD COLUMN told MEDIUMTEXT;
ALTER TABLE reservations ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE reservations ADD COLUMN avoid MEDIUMTEXT;
ALTER TABLE reservations ADD COLUMN discard BIGINT NOT NULL DEFAULT 0;
ALTER TABLE reservations ADD COLUMN retry_at BIGINT;
ALTER TABLE reservations ADD COLUMN p10_s BIGINT;
ALTER TABLE reservations ADD COLUMN p90_s BIGINT;
UPDATE reservations SET start_at = since WHERE start_at IS NULL;
CREATE INDEX reservations_booked ON reservations (booked, state);
CREATE INDEX reservations_state ON reservations (state, since);
CREATE INDEX reservations_owner ON reservations (owner, state);
CREATE INDEX reservations_class ON reservations (class_id, start_at);

ALTER TABLE computers ADD COLUMN tainted BIGINT NOT NULL DEFAULT 0;

CREATE TABLE usage_rows (
    reservation_id BIGINT      NOT NULL PRIMARY KEY,
    owner          VARCHAR(255) NOT NULL,
    group_name     VARCHAR(120),
    purpose        VARCHAR(16)  NOT NULL,
    class_id       BIGINT,
    image          VARCHAR(63)  NOT NULL,
    revision       BIGINT,
    computer       VARCHAR(63),
    since          BIGINT       NOT NULL,
    start_at       BIGINT,
    assigned_at    BIGINT,
    usable_at      BIGINT,
    connected_at   BIGINT,
    ended_at       BIGINT       NOT NULL,
    length_s       BIGINT,
    p10_s          BIGINT,
    p90_s          BIGINT,
    ended_because  MEDIUMTEXT
);
CREATE INDEX usage_ended ON usage_rows (ended_at);
CREATE INDEX usage_owner ON usage_rows (owner, ended_at);
CREATE INDEX usage_computer ON usage_rows (computer, ended_at);

CREATE TABLE classes (
    id         BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    name       VARCHAR(120) NOT NULL UNIQUE,
    image      VARCHAR(63)  NOT NULL,
    revision   BIGINT,
    seats      BIGINT      NOT NULL,
    weekly     VARCHAR(400) NOT NULL,
    wish       MEDIUMTEXT         NOT NULL,
    group_name VARCHAR(120),
    owner      VARCHAR(255) NOT NULL,
    from_at    BIGINT       NOT NULL,
    until_at   BIGINT,
    ended_at   BIGINT
);

CREATE TABLE class_times (
    class_id  BIGINT NOT NULL,
    start_at  BIGINT  NOT NULL,
    end_at    BIGINT  NOT NULL,
    called_off BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (class_id, start_at)
);

CREATE TABLE maintenance_windows (
    id        BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    computers MEDIUMTEXT         NOT NULL,
    start_at  BIGINT       NOT NULL,
    end_at    BIGINT,
    reason    MEDIUMTEXT         NOT NULL,
    who       VARCHAR(255) NOT NULL,
    ended_at  BIGINT
);

CREATE TABLE drained_hosts (
    backend VARCHAR(63)  NOT NULL PRIMARY KEY,
    who     VARCHAR(255) NOT NULL,
    reason  MEDIUMTEXT,
    since   BIGINT       NOT NULL
);
