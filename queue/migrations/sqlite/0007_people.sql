-- People, what they may, and what they did.

CREATE TABLE users (
    name       VARCHAR(120) NOT NULL PRIMARY KEY,
    source     VARCHAR(16)  NOT NULL, -- local, oidc, ldap, proxy
    full_name  VARCHAR(255),
    mail       VARCHAR(255),
    ssh_keys   TEXT         NOT NULL, -- JSON: a list of public keys
    password   VARCHAR(255),          -- argon2id, in PHC's form
    disabled   INTEGER      NOT NULL DEFAULT 0,
    created_at BIGINT       NOT NULL,
    seen_at    BIGINT
);

CREATE TABLE people (                 -- groups of users; `groups` is a word of SQL
    name       VARCHAR(120) NOT NULL PRIMARY KEY,
    note       VARCHAR(255),
    created_at BIGINT       NOT NULL
);

-- What a directory says stands beside what was said here, and goes without it.
CREATE TABLE members (
    people     VARCHAR(120) NOT NULL,
    member     VARCHAR(120) NOT NULL, -- a user
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
    pattern    VARCHAR(64)  NOT NULL, -- an image, `gis-*`, or `*`
    PRIMARY KEY (name, pattern)
);

CREATE TABLE grants (
    id         INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    people     VARCHAR(120) NOT NULL,
    verb       VARCHAR(16)  NOT NULL,
    scope      VARCHAR(190) NOT NULL, -- all, images:GROUP, computers:TAG
    given_by   VARCHAR(255) NOT NULL,
    since      BIGINT       NOT NULL,
    UNIQUE (people, verb, scope)
);

CREATE TABLE tokens (
    id         VARCHAR(32)  NOT NULL PRIMARY KEY,
    digest     VARCHAR(64)  NOT NULL, -- SHA-256 of 256 random bits, in hex
    owner      VARCHAR(120) NOT NULL,
    label      VARCHAR(120) NOT NULL,
    scopes     VARCHAR(255),          -- JSON: a list of verbs; null is no limit
    created_at BIGINT       NOT NULL,
    expires_at BIGINT,
    used_at    BIGINT,
    revoked_at BIGINT
);
CREATE INDEX tokens_owner ON tokens (owner);

CREATE TABLE audit (
    id         INTEGER      NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         BIGINT       NOT NULL,
    who        VARCHAR(255) NOT NULL,
    via        VARCHAR(16)  NOT NULL,
    address    VARCHAR(64),
    action     VARCHAR(255) NOT NULL,
    subject    VARCHAR(255) NOT NULL,
    status     INTEGER      NOT NULL,
    request    VARCHAR(64)  NOT NULL
);
CREATE INDEX audit_at ON audit (at);

-- What was answered to a request that may come again.
CREATE TABLE answers (
    who        VARCHAR(255) NOT NULL,
    request    VARCHAR(190) NOT NULL, -- the key that the caller gave it
    digest     VARCHAR(64)  NOT NULL, -- of method, path and body
    status     INTEGER,               -- null while it is being done
    body       TEXT,
    expires_at BIGINT       NOT NULL,
    PRIMARY KEY (who, request)
);
CREATE INDEX answers_expires ON answers (expires_at);

-- Raised by each change of who may do what; there is no row before the first.
CREATE TABLE people_version (
    id         INTEGER      NOT NULL PRIMARY KEY,
    version    BIGINT       NOT NULL
);
