//! People, as text.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone};
use vcl_types::api::*;

fn list_of<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
fn members(all: &[MembershipView]) -> String {
    list_of(all.iter().map(|m| format!("{} ({})", m.name, m.source)))
}
fn rights(all: &[GrantView]) -> String {
    list_of(all.iter().map(|grant| format!("{} {}", grant.verb, grant.scope)))
}

/// Who one is.
#[must_use]
pub fn whoami(who: &WhoAmI, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("name", &who.name).add("came by", who.via);
    facts.maybe("until", who.expires.map(|at| clock.full(at)));
    facts.add("groups", if who.groups.is_empty() { "none".into() } else { list_of(&who.groups) });
    if who.administrator {
        facts.add("may", "everything");
    } else if who.grants.is_empty() {
        facts.add("may", "nothing yet: it takes a group with grants");
    }
    for grant in &who.grants {
        facts.add("may", format!("{} on {} (by {})", grant.verb, grant.scope, grant.group));
    }
    facts.maybe("this token for", who.scopes.as_ref().map(list_of));
    facts.text()
}

/// All users, a line each.
#[must_use]
pub fn users(users: &[UserView], clock: &Clock) -> String {
    let mut table =
        Table::new(&["USER", "NAME", "SOURCE", "STATE", "GROUPS", "SEEN"], "there are no users yet");
    for user in users {
        let state =
            if user.disabled { ("disabled".into(), Tone::Bad) } else { ("enabled".into(), Tone::Good) };
        let groups: std::collections::BTreeSet<_> = user.groups.iter().map(|m| &m.name).collect();
        table.row([
            quiet(&user.name),
            maybe(user.full_name.as_ref()),
            quiet(user.source),
            state,
            quiet(list_of(groups)),
            maybe(user.seen.map(|at| clock.ago(at))),
        ]);
    }
    table.text()
}

/// One user.
#[must_use]
pub fn user(user: &UserView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("user", &user.name).maybe("name", user.full_name.as_ref()).maybe("mail", user.mail.as_ref());
    facts.add("source", user.source).add("state", if user.disabled { "disabled" } else { "enabled" });
    facts.add("password", if user.has_password { "set" } else { "none here" });
    facts.maybe("user id", user.uid);
    facts.add("groups", if user.groups.is_empty() { "none".into() } else { members(&user.groups) });
    for key in &user.ssh_keys {
        facts.add("ssh key", key);
    }
    facts.add("since", clock.full(user.created)).maybe("seen", user.seen.map(|at| clock.ago(at)));
    facts.text()
}

/// All groups, a line each.
#[must_use]
pub fn groups(groups: &[GroupView], _: &Clock) -> String {
    let mut table = Table::new(&["GROUP", "MEMBERS", "MAY", "NOTE"], "there are no groups yet");
    for group in groups {
        let cells =
            [quiet(&group.name), quiet(group.size), quiet(rights(&group.grants)), maybe(group.note.as_ref())];
        table.row(cells);
    }
    table.text()
}

/// One group.
#[must_use]
pub fn group(group: &GroupView, _: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("group", &group.name).maybe("note", group.note.as_ref());
    for grant in &group.grants {
        facts.add("may", format!("{} on {} (grant {}, by {})", grant.verb, grant.scope, grant.id, grant.by));
    }
    facts.add("members", if group.members.is_empty() { "none".into() } else { members(&group.members) });
    facts.text()
}

/// Groups of images, a line each.
#[must_use]
pub fn image_groups(groups: &[ImageGroupView], _: &Clock) -> String {
    let mut table = Table::new(&["GROUP", "IMAGES", "NOTE"], "there are no groups of images yet");
    for group in groups {
        table.row([quiet(&group.name), quiet(list_of(&group.images)), maybe(group.note.as_ref())]);
    }
    table.text()
}

/// Grants, a line each.
#[must_use]
pub fn grants(grants: &[GrantView], clock: &Clock) -> String {
    let mut table =
        Table::new(&["ID", "GROUP", "MAY", "ON", "GIVEN BY", "SINCE"], "no group may do anything yet");
    for grant in grants {
        table.row([
            quiet(grant.id),
            quiet(&grant.group),
            quiet(grant.verb),
            quiet(&grant.scope),
            quiet(&grant.by),
            quiet(clock.short(grant.since)),
        ]);
    }
    table.text()
}

/// Tokens, a line each.
#[must_use]
pub fn tokens(tokens: &[TokenView], clock: &Clock) -> String {
    let mut table =
        Table::new(&["ID", "OWNER", "FOR", "ONLY", "STATE", "UNTIL", "USED"], "there are no tokens");
    for token in tokens {
        let state = match (token.revoked, token.expires) {
            (Some(_), _) => ("revoked".to_owned(), Tone::Quiet),
            (None, Some(end)) if end <= clock.read() => ("over".to_owned(), Tone::Quiet),
            _ => ("good".to_owned(), Tone::Good),
        };
        table.row([
            quiet(&token.id),
            quiet(&token.owner),
            quiet(&token.label),
            maybe(token.scopes.as_ref().map(list_of)),
            state,
            maybe(token.expires.map(|at| clock.short(at))),
            maybe(token.used.map(|at| clock.ago(at))),
        ]);
    }
    table.text()
}

/// Deeds, a line each, newest first.
#[must_use]
pub fn audit(deeds: &[AuditView], clock: &Clock) -> String {
    let mut table =
        Table::new(&["WHEN", "WHO", "BY", "FROM", "WHAT", "TO", "CAME TO"], "nothing was recorded");
    for deed in deeds {
        let tone = match deed.status {
            200..400 => Tone::Good,
            400..500 => Tone::Busy,
            _ => Tone::Bad,
        };
        table.row([
            quiet(clock.short(deed.at)),
            quiet(&deed.who),
            quiet(deed.via),
            maybe(deed.from.as_ref()),
            quiet(&deed.action),
            quiet(&deed.subject),
            (deed.status.to_string(), tone),
        ]);
    }
    table.text()
}
