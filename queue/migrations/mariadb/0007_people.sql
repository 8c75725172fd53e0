-- The twin of sqlite/0007_people.sql.

CREATE TABLE users (
    name       VARCHAR(120) NOT NULL PRIMARY KEY,
    source     VARCHAR(16)  NOT NULL,
    full_name  VARCHAR(255),
    mail       VARCHAR(255),
    ssh_keys   MEDIUMTEXT       NOT NULL,
    password   VARCHAR(255),
    disabled   BIGINT       NOT NULL DEFAULT 0,
    created_at BIGINT       NOT NULL,
    seen_at    BIGINT
);

CREATE TABLE people (
    name       VARCHAR(120) NOT NULL PRIMARY KEY,
    note       VARCHAR(255),
    created_at BIGINT       NOT NULL
);

CREATE TABLE members (
    people     VARCHAR(120) NOT NULL,
    member     VARCHAR(120) NOT NULL,
    source     VARCHAR(16)  NOT NULL,
    since      BIGINT       NOT NULL,
    PRIMARY KEY (people, member, source)
);
CREATE INDEX members_member ON members (member);

CREATE TABLE image_groups (
    name       VARCHAR(120) NOT NULL PRIMARY KEY,
    note       VARCHAR(255),
    created_at BIGINT       NOT NULL
);
CREATE TABLE image_group_images (
    name       VARCHAR(120) NOT NULL,
    pattern    VARCHAR(64)  NOT NULL,
    PRIMARY KEY (name, pattern)
);

CREATE TABLE grants (
    id         BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    people     VARCHAR(120) NOT NULL,
    verb       VARCHAR(16)  NOT NULL,
    scope      VARCHAR(190) NOT NULL,
    given_by   VARCHAR(255) NOT NULL,
    since      BIGINT       NOT NULL,
    UNIQUE (people, verb, scope)
);

CREATE TABLE tokens (
    id         VARCHAR(32)  NOT NULL PRIMARY KEY,
    digest     VARCHAR(64)  NOT NULL,
    owner      VARCHAR(120) NOT NULL,
    label      VARCHAR(120) NOT NULL,
    scopes     VARCHAR(255),
    created_at BIGINT       NOT NULL,
    expires_at BIGINT,
    used_at    BIGINT,
    revoked_at BIGINT
);
CREATE INDEX tokens_owner ON tokens (owner);

CREATE TABLE audit (
    id         BIGINT       NOT NULL PRIMARY KEY AUTO_INCREMENT,
    at         BIGINT       NOT NULL,
    who        VARCHAR(255) NOT NULL,
    via        VARCHAR(16)  NOT NULL,
    address    VARCHAR(64),
    action     VARCHAR(255) NOT NULL,
    subject    VARCHAR(255) NOT NULL,
    status     BIGINT       NOT NULL,
    request    VARCHAR(64)  NOT NULL
);
CREATE INDEX audit_at ON audit (at);

CREATE TABLE answers (
    who        VARCHAR(255) NOT NULL,
    request    VARCHAR(190) NOT NULL,
    digest     VARCHAR(64)  NOT NULL,
    status     BIGINT ,
    body       MEDIUMTEXT,
    expires_at BIGINT       NOT NULL,
    PRIMARY KEY (who, request)
);
CREATE INDEX answers_expires ON answers (expires_at);

CREATE TABLE people_version (
    id         BIGINT       NOT NULL PRIMARY KEY,
    version    BIGINT       NOT NULL
);
