//! What is one's own: what takes no grant, what tokens that are limited do with it, and names that are not to be had.

use super::*;
use vcl_types::api::ReservationView;

const PASSWORD: &str = "correct horse battery";

fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ones_own_takes_no_grant_and_a_token_that_is_for_it() {
    let (site, [alice, bob]) = Site::lived_in().await;
    let spare = site.token("alice", None).await;
    let (spare, theirs) = (format!("/v1/tokens/{}", id_of(&spare)), format!("/v1/tokens/{}", id_of(&bob)));
    let key =
        r#"{"key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ x"}"#;
    let off = r#"{"start":"2026-11-23T10:00:00Z"}"#;
    let (get, post, patch) = (Method::GET, Method::POST, Method::PATCH);
    // What is asked, and with tokens for what it is let through; a token without a limit always is.
    let mine: Vec<(&Method, String, &str, &[Verb])> = vec![
        (&get, "/v1/reservations/3".into(), "", &Verb::ALL),
        (&get, "/v1/reservations/4/why".into(), "", &Verb::ALL),
        (&get, "/v1/classes/class%20of%20alice".into(), "", &Verb::ALL),
        (&get, "/v1/users/alice".into(), "", &Verb::ALL),
        (&post, "/v1/classes/class%20of%20alice/call-off".into(), off, &[Verb::Reserve, Verb::Administer]),
        (&patch, "/v1/users/alice".into(), r#"{"mail":"a@b"}"#, &[Verb::Reserve, Verb::Administer]),
        (&post, "/v1/users/alice/keys".into(), key, &[Verb::Reserve, Verb::Administer]),
        (&post, "/v1/tokens".into(), r#"{"label":"x"}"#, &[]),
        (&Method::DELETE, spare, "", &[]),
        (&Method::PUT, "/v1/users/alice/password".into(), r#"{"password":null}"#, &[]),
    ];
    let uses = ["extend", "release", "connect", "access", "reboot"]
        .into_iter()
        .flat_map(|what| [3, 4].map(|id| (&post, format!("/v1/reservations/{id}/{what}"), "", USE)));
    let mine: Vec<_> = mine.into_iter().chain(uses).collect();
    let mut scopes: Vec<Option<Verb>> = Verb::ALL.into_iter().map(Some).collect();
    scopes.push(None); // the last, because setting a password ends the other tokens
    for scope in scopes {
        let token = match scope {
            Some(verb) => site.token("alice", Some([verb].into())).await,
            None => alice.clone(),
        };
        for (method, path, body, with) in &mine {
            let wanted = scope.is_none_or(|verb| with.contains(&verb));
            let said = site.with(&token, (*method).clone(), path, body).await;
            assert_eq!(said.0 != StatusCode::FORBIDDEN, wanted, "{scope:?}: {method} {path}: {said:?}");
            assert!(!said.0.is_server_error(), "{scope:?}: {method} {path}: {said:?}");
        }
        // And nothing of it is another's to have.
        for (method, path, body, _) in &mine {
            let path = path.replace("of%20alice", "of%20bob").replace("/alice", "/bob");
            let path =
                path.replace("reservations/3", "reservations/1").replace("reservations/4", "reservations/2");
            let path = if path.starts_with("/v1/tokens/") { theirs.clone() } else { path };
            if path != "/v1/tokens" {
                let said = site.with(&token, (*method).clone(), &path, body).await;
                assert_eq!(said.0, StatusCode::FORBIDDEN, "{scope:?}: {method} {path}: {said:?}");
            }
        }
        // A token ends itself, whatever it is for.
        if scope.is_some() {
            let own = format!("/v1/tokens/{}", id_of(&token));
            assert_eq!(site.with(&token, Method::DELETE, &own, "").await.0, StatusCode::NO_CONTENT);
        }
    }
    let seen = site.with(&bob, Method::GET, "/v1/reservations", "").await.1;
    let seen: Vec<ReservationView> = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen.iter().map(|view| view.id.0).collect::<Vec<_>>(), [2, 1]);
    let others = site.with(&bob, Method::GET, "/v1/reservations?owner=alice", "").await;
    assert_eq!(others, (StatusCode::OK, "[]".to_owned()));
}

const USE: &[Verb] = &[Verb::Reserve, Verb::Operate, Verb::Administer];

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_by_whoever_knows_the_one_before_and_ends_what_came_by_it() {
    let site = Site::furnished().await;
    let token = site.user("alice", &[]).await;
    let set = async |token: &str, new: &str, old: Option<&str>| {
        let body = serde_json::json!({ "password": new, "old": old }).to_string();
        site.with(token, Method::PUT, "/v1/users/alice/password", &body).await.0.as_u16()
    };
    let good = async |token: &str| site.with(token, Method::GET, "/v1/whoami", "").await.0.as_u16();
    // Who has none yet has nothing to say.
    assert_eq!(set(&token, PASSWORD, None).await, 204);
    let (other, limited) =
        (site.token("alice", None).await, site.token("alice", Some([Verb::Reserve].into())).await);
    assert_eq!(set(&limited, "another horse battery", Some(PASSWORD)).await, 403);
    assert_eq!(set(&token, "another horse battery", None).await, 403);
    assert_eq!(set(&token, "another horse battery", Some("correct horse batterx")).await, 403);
    assert_eq!((good(&other).await, good(&limited).await), (200, 200));
    assert_eq!(set(&token, "another horse battery", Some(PASSWORD)).await, 204);
    assert_eq!((good(&token).await, good(&other).await, good(&limited).await), (200, 401, 401));
    // Whoever looks after people sets a password anew, which nobody remembers.
    let clerk = site.user("clerk", &[(Verb::People, "all")]).await;
    assert_eq!(set(&clerk, PASSWORD, None).await, 204);
    assert_eq!((good(&clerk).await, good(&token).await), (200, 401));
    // A stolen token guesses no better than anybody else.
    let token = site.token("alice", None).await;
    let mut said = Vec::new();
    for _ in 0..8 {
        said.push(set(&token, "another horse battery", Some("wrong")).await);
    }
    assert_eq!(said, [403, 403, 403, 403, 403, 403, 409, 409]);
    // Where it cannot be looked up, nobody has guessed.
    site.user("carol", &[]).await;
    site.node.queue.set_password("carol", Some("no digest".into()), None).await.unwrap();
    let carol = site.token("carol", None).await;
    let body = serde_json::json!({ "password": PASSWORD, "old": "wrong" }).to_string();
    for _ in 0..8 {
        let said = site.with(&carol, Method::PUT, "/v1/users/carol/password", &body).await;
        assert_eq!(said.0, StatusCode::INTERNAL_SERVER_ERROR, "{}", said.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_the_machines_administrators_are_theirs() {
    let site = Site::furnished().await;
    let clerk = site.user("clerk", &[(Verb::People, "all")]).await;
    let new = r#"{"name":"root"}"#;
    let said = site.with(&clerk, Method::POST, "/v1/users", new).await;
    assert_eq!(said.0, StatusCode::FORBIDDEN, "{}", said.1);
    assert!(said.1.contains("account of an administrator"), "{}", said.1);
    assert_eq!(site.as_root(Method::POST, "/v1/users", new).await.0, StatusCode::CREATED);
    let set = serde_json::json!({ "password": PASSWORD }).to_string();
    for (method, path, body) in [
        (Method::PUT, "/v1/users/root/password", set.as_str()),
        (Method::PATCH, "/v1/users/root", r#"{"source":"oidc"}"#),
    ] {
        let said = site.with(&clerk, method.clone(), path, body).await;
        assert_eq!(said.0, StatusCode::FORBIDDEN, "{method} {path}: {}", said.1);
    }
    assert_eq!(site.as_root(Method::PUT, "/v1/users/root/password", &set).await.0, StatusCode::NO_CONTENT);
    // Others' names are nobody's.
    assert_eq!(
        site.with(&clerk, Method::POST, "/v1/users", r#"{"name":"carol"}"#).await.0,
        StatusCode::CREATED
    );
    let no = site.node.by_proxy("root", "").await.unwrap_err();
    assert!(no.message.contains("nobody else's name"), "{no}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_as_the_proxy_says_now() {
    let site = Site::new().await;
    let groups = async |told: &str| {
        let name = site.node.by_proxy("carol", told).await.unwrap();
        let standing = site.node.queue.standing_of(&name).await.unwrap().unwrap();
        standing.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(groups("staff; geo").await, "geo staff");
    assert_eq!(groups("geo").await, "geo");
    assert_eq!(groups("").await, "");
    assert_eq!(groups("staff; geo").await, "geo staff", "what was said before is not remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_nobody_fills_the_record_with_tries_to_sign_in_alone() {
    let site = Site::new().await;
    let from = Peer::Remote("192.0.2.9".parse().unwrap());
    let ask = async |method: Method, path: &str, body: &str| {
        site.ask(Some(from.clone()), request(method, path, None, body)).await.0.as_u16()
    };
    assert_eq!(ask(Method::POST, "/v1/nodes/test/drain", "").await, 401);
    assert_eq!(ask(Method::POST, "/v1/sign-in/device", "").await, 409);
    assert_eq!(ask(Method::POST, "/v1/sign-in", r#"{"name":"../x","password":"x"}"#).await, 401);
    let mut told = Vec::new();
    for _ in 0..8 {
        told.push(ask(Method::POST, "/v1/sign-in", r#"{"name":"alice","password":"x"}"#).await);
    }
    assert_eq!(told, [401, 401, 401, 401, 401, 401, 429, 429]);
    let said = site.as_root(Method::GET, "/v1/audit", "").await;
    let deeds: Vec<vcl_types::api::AuditView> = serde_json::from_str(&said.1).unwrap();
    let told: Vec<_> = deeds.iter().map(|deed| (deed.subject.as_str(), deed.status)).collect();
    assert_eq!(told, [("alice", 401); 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_for_another_has_the_others_groups() {
    let (site, _) = Site::lived_in().await;
    let boss = site.user("boss", &[(Verb::Administer, "all")]).await;
    let reserve = async |owner: &str, group: &str| {
        let body = serde_json::json!({ "image": "gis-1", "owner": owner, "group": group, "dry_run": true });
        site.with(&boss, Method::POST, "/v1/reservations", &body.to_string()).await
    };
    let no = reserve("alice", "of boss").await;
    assert_eq!(no.0, StatusCode::FORBIDDEN, "{}", no.1);
    assert!(no.1.contains("alice is no member of it"), "{}", no.1);
    assert_ne!(reserve("alice", "of alice").await.0, StatusCode::FORBIDDEN);
    assert_ne!(reserve("boss", "of boss").await.0, StatusCode::FORBIDDEN);
    assert_eq!(reserve("nobody-there", "of boss").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_is_of_computers_that_its_maker_has_a_right_on() {
    let (site, _) = Site::lived_in().await;
    let grants = [(Verb::Classes, "images:gis"), (Verb::Classes, "computers:b12")];
    let teacher = site.user("teacher", &grants).await;
    let add = async |wish: serde_json::Value| {
        let class = serde_json::json!({
            "name": "gis", "image": "gis-1", "seats": 1, "weekly": "Mon 10-12", "wish": wish
        });
        site.with(&teacher, Method::POST, "/v1/classes", &class.to_string()).await
    };
    assert_eq!(add(serde_json::json!({ "any_of": ["c3"] })).await.0, StatusCode::FORBIDDEN);
    let said = add(serde_json::json!({})).await;
    assert_eq!(said.0, StatusCode::OK, "{}", said.1);
    let class: vcl_types::lending::ClassView = serde_json::from_str(&said.1).unwrap();
    assert_eq!(class.wish.any_of, ["b12"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_reservations_and_jobs_say_where_they_go_on() {
    let (site, [_, bob]) = Site::lived_in().await;
    let link = async |token: &str, path: &str| {
        let mut asked = request(Method::GET, path, Some(token), "");
        asked.extensions_mut().insert(Peer::Remote("192.0.2.7".parse().unwrap()));
        let answer = site.router.clone().oneshot(asked).await.unwrap();
        answer.headers().get(header::LINK).map(|link| link.to_str().unwrap().to_owned())
    };
    let next = link(&bob, "/v1/reservations?limit=1").await;
    assert_eq!(next.as_deref(), Some("</v1/reservations?limit=1&before=2>; rel=\"next\""));
    assert_eq!(link(&bob, "/v1/reservations?limit=5").await, None);
    let all = site.user("all", &[(Verb::Look, "all")]).await;
    assert_eq!(
        link(&all, "/v1/jobs?limit=2").await.as_deref(),
        Some("</v1/jobs?limit=2&before=2>; rel=\"next\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_for_whom_the_site_lets_have_one_and_for_who_operates_the_computer() {
    let more = "[reservations]\nservers = false\n[group.\"of staff\"]\nservers = true\n";
    let site = Site::configured(more).await;
    let student = site.user("student", &[(Verb::Reserve, "all")]).await;
    let staff = site.user("staff", &[(Verb::Reserve, "all")]).await;
    let keeper = site.user("keeper", &[(Verb::Reserve, "all"), (Verb::Operate, "computers:b12")]).await;
    let reserve = async |token: &str, purpose: &str, any_of: &[&str]| {
        let wish = serde_json::json!({ "any_of": any_of });
        let body = serde_json::json!({ "image": "gis-1", "purpose": purpose, "wish": wish });
        site.with(token, Method::POST, "/v1/reservations", &body.to_string()).await
    };
    // There is no such image, which is told to whoever may have it.
    let no = reserve(&student, "server", &[]).await;
    assert_eq!(no.0, StatusCode::FORBIDDEN, "{}", no.1);
    assert!(no.1.contains("a server is not for"), "{}", no.1);
    assert_eq!(reserve(&student, "use", &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(reserve(&staff, "server", &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(reserve(&keeper, "server", &[]).await.0, StatusCode::NOT_FOUND);
    assert_eq!(reserve(&keeper, "server", &["c3"]).await.0, StatusCode::FORBIDDEN);
}
