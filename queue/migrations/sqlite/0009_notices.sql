-- What people are to be told, written with what makes it true, and what became of the telling.

CREATE TABLE notices (
    id         INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    kind       VARCHAR(32)  NOT NULL,
    recipient  VARCHAR(255),                    -- a user; null for the administrators
    people     VARCHAR(120),                    -- the group whose texts it has
    facts      TEXT         NOT NULL,         -- JSON: what it speaks of
    at         BIGINT       NOT NULL,
    next_at    BIGINT,                          -- when it is sent, or sent again; null once it is settled
    sender     VARCHAR(255),                    -- the node that is sending it
    tries      BIGINT       NOT NULL DEFAULT 0,
    mailed_at  BIGINT,
    hooked_at  BIGINT,
    given_up_at BIGINT,
    error      TEXT,
    settled_at BIGINT
);
CREATE INDEX notices_next ON notices (next_at);
CREATE INDEX notices_settled ON notices (settled_at);
ALTER TABLE users ADD COLUMN notices BIGINT NOT NULL DEFAULT 1;
