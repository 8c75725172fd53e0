//! A directory that vouches for people: it is asked whether a password is good by binding with it, over TLS alone.
//!
//! Nothing is kept but what came of it: the name, the mail address, the groups. Whoever is to be asked for is known to
//! be a plain name before he gets into a DN or a filter, and is escaped there all the same.

use crate::node::{Refusal, RefusalKind};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, Scope, SearchEntry, dn_escape, drive, ldap_escape};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use vcl_config::LdapPeople;
use vcl_queue::{Arrival, MOST_GROUPS};
use vcl_types::Secret;
use vcl_types::people::{GroupName, Source, UserName};

/// How long the directory may take to answer one thing.
const ANSWER: Duration = Duration::from_secs(10);
/// How long all of it may take.
const WHOLE: Duration = Duration::from_secs(30);
/// What a directory says of a wrong password, or of nobody: invalid credentials, no such object, invalid DN.
const WRONG: [u32; 3] = [49, 32, 34];

fn away(what: &str, e: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("the directory {what}: {e}"))
}

/// Roots for a TLS client: those of a file, or else the system's.
pub(super) fn client_config(ca: Option<&camino::Utf8Path>) -> Result<rustls::ClientConfig, Refusal> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(path) => {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in read.map_err(|e| away(&format!("has no authority in {path}"), e))? {
                roots.add(certificate).map_err(|e| away(&format!("has no authority in {path}"), e))?;
            }
        }
        None => {
            let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| away("cannot be spoken to with TLS", e))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Asks the directory for somebody. `None` when it does not know him, or the password is not his.
///
/// # Errors
/// [`RefusalKind::Unavailable`] when it does not answer, or not as it should.
pub(super) async fn sign_in(
    table: &vcl_config::Ldap,
    bind_password: Option<Secret>,
    name: &UserName,
    password: &Secret,
) -> Result<Option<Arrival>, Refusal> {
    // A bind without a password succeeds for anybody: it is taken as anonymous.
    if password.expose().is_empty() {
        return Ok(None);
    }
    let asking = ask(table, bind_password, name, password);
    tokio::time::timeout(WHOLE, asking).await.map_err(|e| away("is too slow", e))?
}

async fn connect(table: &vcl_config::Ldap) -> Result<Ldap, Refusal> {
    let settings = LdapConnSettings::new()
        .set_conn_timeout(ANSWER)
        .set_starttls(table.url.starts_with("ldap://"))
        .set_config(Arc::new(client_config(table.ca.as_deref())?));
    let made = LdapConnAsync::with_settings(settings, &table.url).await;
    let (connection, mut ldap) = made.map_err(|e| away(&format!("{} cannot be reached", table.url), e))?;
    drive!(connection);
    ldap.with_timeout(ANSWER);
    Ok(ldap)
}

/// Binds; false for a wrong password.
async fn bind(ldap: &mut Ldap, dn: &str, password: &Secret) -> Result<bool, Refusal> {
    let bound = ldap.with_timeout(ANSWER).simple_bind(dn, password.expose()).await;
    let result = bound.map_err(|e| away("does not answer", e))?;
    match result.rc {
        0 => Ok(true),
        rc if WRONG.contains(&rc) => Ok(false),
        rc => Err(away("refuses to say who somebody is", format!("{rc} {}", result.text))),
    }
}

async fn search(
    ldap: &mut Ldap,
    (base, scope, filter): (&str, Scope, &str),
    attributes: Vec<&str>,
) -> Result<Vec<SearchEntry>, Refusal> {
    let found = ldap.with_timeout(ANSWER).search(base, scope, filter, attributes).await;
    let (entries, _) =
        found.and_then(ldap3::SearchResult::success).map_err(|e| away("cannot be searched", e))?;
    // Referrals are somebody else's word.
    let real = entries.into_iter().filter(|entry| !entry.is_ref()).take(MOST_GROUPS + 1);
    Ok(real.map(SearchEntry::construct).collect())
}

async fn ask(
    table: &vcl_config::Ldap,
    bind_password: Option<Secret>,
    name: &UserName,
    password: &Secret,
) -> Result<Option<Arrival>, Refusal> {
    let mut ldap = connect(table).await?;
    let mut searcher = None;
    let dn = match &table.people {
        LdapPeople::Template(template) => template.replace("{}", &dn_escape(name.as_str())),
        LdapPeople::Search { bind: as_whom, base, filter } => {
            if let (Some((dn, _)), Some(password)) = (as_whom, bind_password) {
                if !bind(&mut ldap, dn, &password).await? {
                    return Err(away("does not let vcld in", format!("the password of {dn} is wrong")));
                }
                searcher = Some((dn.clone(), password));
            }
            let filter = filter.replace("{}", &ldap_escape(name.as_str()));
            let found = search(&mut ldap, (base, Scope::Subtree, &filter), vec!["1.1"]).await?;
            match <[SearchEntry; 1]>::try_from(found) {
                Ok([one]) => one.dn,
                Err(several) if several.is_empty() => return Ok(None),
                Err(_) => return Err(away("has several people of one name", format!("{filter} finds them"))),
            }
        }
    };
    if dn.is_empty() || !bind(&mut ldap, &dn, password).await? {
        let _ = ldap.unbind().await;
        return Ok(None);
    }
    // What people may read of themselves differs; whoever looks for them has to be able to.
    if let Some((searcher, password)) = &searcher
        && !bind(&mut ldap, searcher, password).await?
    {
        return Err(away("lets vcld in no more", format!("the password of {searcher} is wrong now")));
    }
    let mut attributes = vec![table.full_name.as_str(), table.mail.as_str()];
    attributes.extend(table.group_attribute.as_deref());
    attributes.extend(table.uid.as_deref());
    let found = search(&mut ldap, (&dn, Scope::Base, "(objectClass=*)"), attributes).await?;
    let entry = found.into_iter().next();
    let values = |attribute: &str| -> Vec<String> {
        let known = entry.iter().flat_map(|entry| &entry.attrs);
        let same = known.filter(|(name, _)| name.eq_ignore_ascii_case(attribute));
        same.flat_map(|(_, values)| values.clone()).collect()
    };
    let mut groups: BTreeSet<GroupName> = BTreeSet::new();
    if let Some(attribute) = &table.group_attribute {
        groups.extend(values(attribute).iter().filter_map(|value| group_of(value)));
    }
    if let Some((base, filter)) = &table.group_search {
        let filter = filter.replace("{dn}", &ldap_escape(&*dn)).replace("{}", &ldap_escape(name.as_str()));
        let found = search(&mut ldap, (base, Scope::Subtree, &filter), vec![&table.group_name]).await?;
        let names = found.into_iter().flat_map(|entry| entry.attrs).flat_map(|(_, values)| values);
        groups.extend(names.filter_map(|name| name.parse().ok()));
    }
    let _ = ldap.unbind().await;
    let told = table.group_attribute.is_some() || table.group_search.is_some();
    let first = |attribute: &str| values(attribute).into_iter().next().filter(|text| text.len() <= 255);
    Ok(Some(Arrival {
        name: name.clone(),
        source: Source::Ldap,
        full_name: first(&table.full_name),
        mail: first(&table.mail),
        groups: told.then_some(groups),
        uid: table.uid.as_deref().and_then(first).and_then(|uid| uid.parse().ok()),
    }))
}

/// The group's name in a value that names it: itself, or the first part of a DN.
fn group_of(value: &str) -> Option<GroupName> {
    let first = match value.split_once('=') {
        Some((_, rest)) if value.contains(',') => rest.split(',').next().unwrap_or_default(),
        _ => value,
    };
    first.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_name_is_the_first_part_of_its_dn() {
        let named = |text: &str| group_of(text).map(|group| group.to_string());
        assert_eq!(named("cn=GIS course,ou=groups,dc=x").as_deref(), Some("GIS course"));
        assert_eq!(named("staff").as_deref(), Some("staff"));
        assert_eq!(named("cn=,dc=x"), None);
    }
}
