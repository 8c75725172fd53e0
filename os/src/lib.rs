//! What vcld does inside a guest: the Os and Remote traits, Linux, ssh
