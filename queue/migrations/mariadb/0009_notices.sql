-- The twin of sqlite/0009_notices.sql.

CREATE TABLE notices (
    id         BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    kind       VARCHAR(32)  NOT NULL,
    recipient  VARCHAR(255),                    -- a user; null for the administrators
    people     VARCHAR(120),                    -- the group whose texts it has
    facts      MEDIUMTEXT         NOT NULL,         -- JSON: what it speaks of
    at         BIGINT       NOT NULL,
    next_at    BIGINT,                          -- when it is sent, or sent again; null once it is settled
    sender     VARCHAR(255),                    -- the node that is sending it
    tries      BIGINT       NOT NULL DEFAULT 0,
    mailed_at  BIGINT,
    hooked_at  BIGINT,
    given_up_at BIGINT,
    error      MEDIUMTEXT,
    settled_at BIGINT,
    INDEX notices_next (next_at),
    INDEX notices_settled (settled_at)
);

ALTER TABLE users ADD COLUMN notices BIGINT NOT NULL DEFAULT 1;
