use super::world::{World, new};
use vcl_queue::{Before, DeedFilter, Kind, NewReservation, TokenToKeep};
use vcl_types::api::{NewGroup, NewUser, UserChange};
use vcl_types::lending::{Purpose, ReservationRequest};
use vcl_types::people::Source;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

async fn with_users(names: &[&str]) -> World {
    let world = World::new().await;
    for name in names {
        let name = name.parse().unwrap();
        let new = NewUser { name, source: Source::Local, full_name: None, mail: None };
        world.queue.add_user(new).await.unwrap();
    }
    world
}

fn token(id: &str, owner: &str, expires: Option<chrono::DateTime<chrono::Utc>>) -> TokenToKeep {
    let (id, owner) = (id.to_owned(), owner.parse().unwrap());
    TokenToKeep { digest: format!("digest of {id}"), id, owner, label: "x".into(), scopes: None, expires }
}

#[tokio::test]
async fn a_new_password_takes_back_what_came_by_the_old_one() {
    let world = with_users(&["alice", "bob"]).await;
    let queue = &world.queue;
    for (id, owner) in [("a1", "alice"), ("a2", "alice"), ("b1", "bob")] {
        queue.keep_token(token(id, owner, None)).await.unwrap();
    }
    let version = queue.people_version().await.unwrap();
    queue.set_password("alice", Some("digest".into()), Some("a2")).await.unwrap();
    let revoked = async |id: &str| queue.token(id).await.unwrap().unwrap().view.revoked.is_some();
    assert_eq!((revoked("a1").await, revoked("a2").await, revoked("b1").await), (true, false, false));
    assert!(queue.people_version().await.unwrap() > version, "copies of the tokens are not good any more");
    queue.set_password("alice", None, None).await.unwrap();
    assert!(revoked("a2").await);
}

#[tokio::test]
async fn a_token_that_was_over_long_ago_is_forgotten() {
    let world = with_users(&["alice"]).await;
    let queue = &world.queue;
    let now = chrono::Utc::now();
    let day = chrono::TimeDelta::days(1);
    for (id, expires) in [("over", Some(now - day * 9)), ("lately", Some(now - day)), ("good", None)] {
        queue.keep_token(token(id, "alice", expires)).await.unwrap();
    }
    queue.keep_token(token("taken back", "alice", Some(now + day))).await.unwrap();
    queue.revoke_token("taken back").await.unwrap();
    queue.purge_deeds(now - day * 5).await.unwrap();
    let left = async || {
        let all = queue.tokens(Some("alice"), None, 100).await.unwrap();
        all.into_iter().map(|token| token.id).collect::<Vec<_>>()
    };
    assert_eq!(left().await, ["good", "lately", "taken back"]);
    queue.purge_deeds(chrono::Utc::now() + day).await.unwrap();
    assert_eq!(left().await, ["good"]);
    assert_eq!(queue.deeds(&DeedFilter { limit: 1, ..DeedFilter::default() }).await.unwrap(), []);
}

#[tokio::test]
async fn a_key_is_kept_as_a_guest_gets_it() {
    let world = with_users(&["alice"]).await;
    let queue = &world.queue;
    queue.add_ssh_key("alice", &format!("  {KEY}   alice  at  home ")).await.unwrap();
    queue.add_ssh_key("alice", &format!("{KEY} alice at home")).await.unwrap();
    let keys = async || queue.user("alice").await.unwrap().ssh_keys;
    assert_eq!(keys().await, [format!("{KEY} alice at home")]);
    for wrong in ["", "ssh-ed25519", &*format!("command=\"id\" {KEY}"), &*format!("{KEY}\nssh-rsa AAAA")] {
        let error = queue.add_ssh_key("alice", wrong).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused, "{wrong}");
    }
    let change = UserChange { ssh_keys: Some(vec![KEY.into()]), ..UserChange::default() };
    queue.change_user("alice", change).await.unwrap();
    assert_eq!(keys().await, [KEY]);
}

#[tokio::test]
async fn a_list_of_users_has_each_ones_groups() {
    let world = with_users(&["alice", "bob", "carol", "dave"]).await;
    let queue = &world.queue;
    for (group, members) in [("geo", &["alice", "carol"][..]), ("staff", &["alice", "dave"][..])] {
        let group: vcl_types::people::GroupName = group.parse().unwrap();
        queue.add_group(NewGroup { name: group.clone(), note: None }).await.unwrap();
        for member in members {
            queue.set_member(&group, &member.parse().unwrap(), true).await.unwrap();
        }
    }
    let list = async |after: Option<&str>, limit| {
        let users = queue.users_of_vcld(after, limit).await.unwrap();
        let groups = |user: &vcl_types::api::UserView| user.groups.iter().map(|m| m.name.clone()).collect();
        users.iter().map(|user| (user.name.to_string(), groups(user))).collect::<Vec<(String, Vec<_>)>>()
    };
    let named =
        |name: &str, groups: &[&str]| (name.to_owned(), groups.iter().map(ToString::to_string).collect());
    assert_eq!(list(None, 2).await, [named("alice", &["geo", "staff"]), named("bob", &[])]);
    assert_eq!(list(Some("bob"), 9).await, [named("carol", &["geo"]), named("dave", &["staff"])]);
    assert!(list(Some("dave"), 9).await.is_empty());
}

#[tokio::test]
async fn one_without_an_end_takes_a_whole_week_of_the_hours() {
    let world = World::new().await;
    let now = chrono::Utc::now();
    let reserve = async |owner: &str, length_s: Option<u64>, hours: u32| {
        let plain = new(now);
        let asked = ReservationRequest { purpose: Purpose::Server, ..plain.asked };
        let purpose = Purpose::Server;
        let new =
            NewReservation { owner: owner.into(), purpose, asked, length_s, hours: Some(hours), ..plain };
        world.queue.reserve(new).await.map_err(|e| e.kind)
    };
    assert_eq!(reserve("alice", None, 167).await, Err(Kind::Refused));
    assert!(reserve("alice", None, 168).await.is_ok());
    assert_eq!(reserve("alice", Some(3600), 168).await, Err(Kind::Refused));
    assert!(reserve("alice", Some(3600), 169).await.is_ok());
    assert!(reserve("bob", Some(3600), 1).await.is_ok());
}

#[tokio::test]
async fn of_a_callers_keys_no_more_are_kept_than_he_may_have() {
    let world = World::new().await;
    let begin = async |who: &str, key: &str, most: Option<u32>| {
        world.queue.begin_answer(who, key, "digest", most).await.map_err(|e| e.kind)
    };
    for key in ["a", "b"] {
        assert_eq!(begin("alice", key, Some(2)).await, Ok(Before::Never));
    }
    assert_eq!(begin("alice", "c", Some(2)).await, Err(Kind::Refused));
    assert_eq!(begin("alice", "b", Some(2)).await, Ok(Before::Begun), "it is known, however many there are");
    assert_eq!(begin("bob", "c", Some(2)).await, Ok(Before::Never));
    assert_eq!(begin("alice", "c", None).await, Ok(Before::Never), "an administrator has no limit");
}
