-- The twin of sqlite/0010_nat_ports.sql.

CREATE TABLE nat_ports (
    nat         VARCHAR(63)  NOT NULL,
    port        BIGINT       NOT NULL,
    protocol    VARCHAR(8)   NOT NULL,
    address     VARCHAR(45)  NOT NULL,
    reservation BIGINT       NOT NULL,
    computer    VARCHAR(63)  NOT NULL,
    method      VARCHAR(64)  NOT NULL,
    to_address  VARCHAR(45)  NOT NULL,
    to_port     BIGINT       NOT NULL,
    told        MEDIUMTEXT,
    since       BIGINT       NOT NULL,
    leaving_at  BIGINT,
    PRIMARY KEY (nat, port)
);
CREATE INDEX nat_ports_reservation ON nat_ports (reservation);
