-- Which node's library has the files of which revision. Each node writes its own rows.
CREATE TABLE holdings (
    node   VARCHAR(255) NOT NULL,
    image  VARCHAR(63)  NOT NULL,
    number BIGINT       NOT NULL,
    since  BIGINT       NOT NULL,
    PRIMARY KEY (node, image, number)
);
CREATE INDEX holdings_revision ON holdings (image, number);
