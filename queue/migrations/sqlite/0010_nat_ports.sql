-- Public ports of NAT hosts that are given out, each from before its rule is there until it is known to be gone.

CREATE TABLE nat_ports (
    nat         VARCHAR(63)  NOT NULL,
    port        INTEGER      NOT NULL,
    protocol    VARCHAR(8)   NOT NULL,
    address     VARCHAR(45)  NOT NULL,            -- what users come to
    reservation BIGINT       NOT NULL,
    computer    VARCHAR(63)  NOT NULL,
    method      VARCHAR(64)  NOT NULL,
    to_address  VARCHAR(45)  NOT NULL,            -- the computer's
    to_port     INTEGER      NOT NULL,
    told        TEXT,                             -- from where the host was told to let in; null before it was
    since       BIGINT       NOT NULL,
    leaving_at  BIGINT,                           -- its rule is to go; given out again it is afterwards
    PRIMARY KEY (nat, port)
);
CREATE INDEX nat_ports_reservation ON nat_ports (reservation);
