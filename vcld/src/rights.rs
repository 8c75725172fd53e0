//! Who asks, and what he may: the one place where a right is decided.
//!
//! ```text
//!  door (socket, token, provider, proxy) ──► Who ──may(Verb, &Subject)──► yes, or a Forbidden that says what is missing
//!                                             │
//!                         grants of his groups, a copy of the database's that is good as long as its number is
//! ```
//!
//! [`Who`] is an extractor of every handler. `http::rules` asks it before a handler runs where the path alone says what is
//! touched; where the body does, or a list is to be filtered, the handler asks. What is touched is a [`Subject`], and each
//! thing in it has to be covered: the image by a grant on everything or on a group of images it is in, the computer by
//! one on everything or on a tag it has. An owner looks at, extends, ends and uses what is his without a grant.

mod jobs;

pub(crate) use jobs::{is_below, real_below};

use crate::node::{Refusal, RefusalKind};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use vcl_queue::{ReservationRow, RightsRows};
use vcl_types::api::{ComputerView, GrantView, JobView};
use vcl_types::people::{GroupName, ImagePattern, Scope, Verb, Via};
use vcl_types::{Computer, ComputerName, ImageName};

/// The tags of computers, by which rights are on them.
pub type Tags = HashMap<ComputerName, Vec<String>>;

/// A computer with what rights on it hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its name.
    pub name: ComputerName,
    /// Its tags.
    pub tags: Vec<String>,
}

impl From<&Computer> for Tagged {
    fn from(computer: &Computer) -> Self {
        Self { name: computer.name.clone(), tags: computer.tags.clone() }
    }
}

impl Tagged {
    /// A computer of that name; one that is not there has no tags, and so only rights on everything are on it.
    #[must_use]
    pub fn of(name: &ComputerName, tags: &Tags) -> Self {
        Self { name: name.clone(), tags: tags.get(name).cloned().unwrap_or_default() }
    }
}

/// What a request touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The site as a whole, or nothing that grants name.
    Nothing,
    /// A computer.
    Computer(Tagged),
    /// An image.
    Image(ImageName),
    /// A computer and an image; both have to be covered.
    Both(Tagged, ImageName),
    /// A reservation: its owner's, and of whoever may do it to its computer; while it has none, to everything. Whoever looks
    /// after its image sees it.
    Reservation {
        /// Whose it is.
        owner: String,
        /// The computer it has, or that is kept for it.
        computer: Option<Tagged>,
        /// The image it is of.
        image: Option<ImageName>,
    },
    /// A job: of whoever may do it to its computer; where it has none, to its image. Whoever asked for it looks at it.
    Job {
        /// Who asked for it.
        requester: String,
        /// The computer it is about.
        computer: Option<Tagged>,
        /// The image it is about.
        image: Option<ImageName>,
    },
}

/// What a grant can be on.
#[derive(Clone, Copy)]
enum Thing<'a> {
    Computer(&'a Tagged),
    Image(&'a ImageName),
}

/// A copy of everything that rights are decided by.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    version: i64,
    grants: HashMap<GroupName, Vec<GrantView>>,
    images: HashMap<GroupName, Vec<ImagePattern>>,
    /// The groups that may give rights.
    givers: BTreeSet<GroupName>,
}

impl From<RightsRows> for Rights {
    fn from(rows: RightsRows) -> Self {
        let mut grants: HashMap<GroupName, Vec<GrantView>> = HashMap::new();
        let mut givers = BTreeSet::new();
        for grant in rows.grants {
            if grant.verb.implies(Verb::People) && grant.scope == Scope::Everything {
                givers.insert(grant.group.clone());
            }
            grants.entry(grant.group.clone()).or_default().push(grant);
        }
        let images = rows.image_groups.into_iter().map(|group| (group.name, group.images)).collect();
        Self { version: rows.version, grants, images, givers }
    }
}

impl Rights {
    /// The number of the copy.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }
    /// Whether another copy says the same of these groups.
    pub(crate) fn same_for(&self, other: &Self, groups: &BTreeSet<GroupName>) -> bool {
        self.images == other.images && self.of(groups).eq(other.of(groups))
    }
    fn has_image(&self, group: &GroupName, image: &ImageName) -> bool {
        self.images.get(group).is_some_and(|patterns| patterns.iter().any(|pattern| pattern.has(image)))
    }
    /// The grants of these groups.
    pub(crate) fn of<'a>(&'a self, groups: &'a BTreeSet<GroupName>) -> impl Iterator<Item = &'a GrantView> {
        groups.iter().filter_map(|group| self.grants.get(group)).flatten()
    }
}

/// Whoever asks. A handler takes it as an argument.
#[derive(Debug, Clone)]
pub struct Who {
    /// The name: of the user, or of the account at the other end of the socket.
    pub name: String,
    /// The groups.
    pub groups: BTreeSet<GroupName>,
    /// May do everything: comes over the socket as an administrator.
    pub admin: bool,
    /// How the request came in.
    pub via: Via,
    /// All that the token may be used for; `None` is no limit.
    pub scopes: Option<BTreeSet<Verb>>,
    /// The token, where one was used.
    pub token: Option<String>,
    /// When the token ends.
    pub expires: Option<chrono::DateTime<chrono::Utc>>,
    /// From which address, where there is one.
    pub from: Option<std::net::IpAddr>,
    /// The request's number.
    pub request: String,
    /// What groups may.
    pub(crate) rights: Arc<Rights>,
}

impl Who {
    /// An administrator of the management node, who may do everything.
    #[must_use]
    pub fn administrator(name: &str) -> Self {
        Self { admin: true, via: Via::Socket, ..Self::nobody() }.named(name)
    }
    /// Somebody of whom nothing is known.
    pub(crate) fn nobody() -> Self {
        Self {
            name: String::new(),
            groups: BTreeSet::new(),
            admin: false,
            via: Via::Nobody,
            scopes: None,
            token: None,
            expires: None,
            from: None,
            request: String::new(),
            rights: Arc::default(),
        }
    }
    pub(crate) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Whether he may.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`], which says what is missing and who can give it.
    pub fn may(&self, verb: Verb, subject: &Subject) -> Result<(), Refusal> {
        if !self.in_scopes_for(verb, subject) {
            let has: Vec<_> = self.scopes.iter().flatten().map(|verb| verb.as_str()).collect();
            let message = format!(
                "this token is for {} alone, and this takes `{verb}`; make another with it: vclctl token create LABEL --scope {verb}",
                has.join(", ")
            );
            return Err(Refusal::new(RefusalKind::Forbidden, message));
        }
        if self.allowed(verb, subject) { Ok(()) } else { Err(self.missing(verb, subject)) }
    }
    /// The same as a yes or no.
    #[must_use]
    pub fn can(&self, verb: Verb, subject: &Subject) -> bool {
        self.in_scopes_for(verb, subject) && self.allowed(verb, subject)
    }

    /// A token for reserving does to its owner's reservations what they are for.
    fn in_scopes_for(&self, verb: Verb, subject: &Subject) -> bool {
        let own = matches!(subject, Subject::Reservation { owner, .. } if self.is(owner));
        self.in_scopes(verb) || (own && verb == Verb::Operate && self.in_scopes(Verb::Reserve))
    }
    fn in_scopes(&self, verb: Verb) -> bool {
        match &self.scopes {
            None => true,
            Some(scopes) => scopes.iter().any(|scope| scope.implies(verb)),
        }
    }
    fn grants(&self) -> impl Iterator<Item = &GrantView> {
        self.rights.of(&self.groups)
    }
    /// What the groups may, as it is shown.
    pub(crate) fn grant_views(&self) -> Vec<GrantView> {
        self.grants().cloned().collect()
    }
    fn everywhere(&self, verb: Verb) -> bool {
        self.admin || self.grants().any(|g| g.scope == Scope::Everything && g.verb.implies(verb))
    }
    fn on_computer(&self, verb: Verb, computer: &Tagged) -> bool {
        let on = Thing::Computer(computer);
        self.admin || self.grants().any(|grant| grant.verb.implies(verb) && self.covers(&grant.scope, on))
    }
    fn on_image(&self, verb: Verb, image: &ImageName) -> bool {
        let on = Thing::Image(image);
        self.admin || self.grants().any(|grant| grant.verb.implies(verb) && self.covers(&grant.scope, on))
    }
    /// Whether a grant on this is one on that thing.
    fn covers(&self, scope: &Scope, thing: Thing<'_>) -> bool {
        match (scope, thing) {
            (Scope::Everything, _) => true,
            (Scope::Computers(tag), Thing::Computer(computer)) => computer.tags.contains(tag),
            (Scope::Images(group), Thing::Image(image)) => self.rights.has_image(group, image),
            _ => false,
        }
    }
    fn allowed(&self, verb: Verb, subject: &Subject) -> bool {
        match subject {
            Subject::Nothing if verb == Verb::Look => self.sees_all(),
            Subject::Nothing => self.everywhere(verb),
            Subject::Computer(computer) => self.on_computer(verb, computer),
            Subject::Image(image) => self.on_image(verb, image),
            Subject::Both(computer, image) => self.on_computer(verb, computer) && self.on_image(verb, image),
            Subject::Reservation { owner, computer, image } => {
                let own = self.is(owner) && matches!(verb, Verb::Look | Verb::Reserve | Verb::Operate);
                // While it has no computer it is nobody's to change who looks after a part of the site alone.
                let whole = verb != Verb::Look && computer.is_none();
                let manages = || match whole {
                    true => self.everywhere(Verb::Operate),
                    false => self.manages(verb, computer.as_ref(), image.as_ref()),
                };
                own || manages()
            }
            Subject::Job { requester, computer, image } => {
                let own = self.is(requester) && verb == Verb::Look;
                own || self.manages(verb, computer.as_ref(), image.as_ref())
            }
        }
    }
    /// Whether he may look after what a job or a reservation is about. That one may use an image says nothing of what
    /// others do with it, so looking takes a grant to look, or to look after it; making images of one shows what others
    /// make of it, and no more.
    fn manages(&self, verb: Verb, computer: Option<&Tagged>, image: Option<&ImageName>) -> bool {
        let look = verb == Verb::Look;
        let told = |thing| self.grants().any(|g| g.verb == Verb::Look && self.covers(&g.scope, thing));
        match (computer, image) {
            (Some(computer), _) => {
                self.on_computer(Verb::Operate, computer) || (look && told(Thing::Computer(computer)))
            }
            (None, Some(image)) => {
                self.on_image(Verb::Images, image)
                    || (look && (self.on_image(Verb::Imaging, image) || told(Thing::Image(image))))
            }
            (None, None) => self.everywhere(Verb::Operate) || (look && self.sees_all()),
        }
    }
    /// Whether there can be a job or a reservation of somebody else's that he may see.
    #[must_use]
    pub fn sees_others(&self) -> bool {
        let sees = [Verb::Operate, Verb::Images, Verb::Imaging];
        let shows = |g: &GrantView| g.verb == Verb::Look || sees.iter().any(|verb| g.verb.implies(*verb));
        self.admin || self.grants().any(shows)
    }
    fn is(&self, name: &str) -> bool {
        self.via != Via::Nobody && self.name == name
    }

    /// By which tags computers are open to a verb; `None` for all of them.
    #[must_use]
    pub fn computers_for(&self, verb: Verb) -> Option<Vec<String>> {
        if self.everywhere(verb) {
            return None;
        }
        let tagged =
            self.grants().filter(|grant| grant.verb.implies(verb)).filter_map(|grant| match &grant.scope {
                Scope::Computers(tag) => Some(tag.clone()),
                _ => None,
            });
        let mut tags: Vec<String> = tagged.collect();
        tags.sort_unstable();
        tags.dedup();
        Some(tags)
    }

    /// Whether everything may be seen, so that no list need be filtered: it takes a grant on everything that says so. That
    /// somebody may reserve every computer does not show him what others do with them.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        let told = |g: &GrantView| {
            g.scope == Scope::Everything && matches!(g.verb, Verb::Look | Verb::Operate | Verb::Administer)
        };
        self.admin || self.grants().any(told)
    }
    /// Whether a computer may be seen.
    #[must_use]
    pub fn sees_computer(&self, view: &ComputerView) -> bool {
        self.on_computer(Verb::Look, &Tagged::from(&view.computer))
    }
    /// Whether an image may be seen.
    #[must_use]
    pub fn sees_image(&self, image: &ImageName) -> bool {
        self.on_image(Verb::Look, image)
    }
    /// Whether a job may be seen.
    #[must_use]
    pub fn sees_job(&self, job: &JobView, tags: &Tags) -> bool {
        self.allowed(Verb::Look, &job_subject(&job.requester, &job.request, tags))
    }
    /// Whether a reservation may be seen.
    #[must_use]
    pub fn sees_reservation(&self, row: &ReservationRow, tags: &Tags) -> bool {
        let computer = row.computer.as_ref().or(row.booked.as_ref());
        self.allowed(Verb::Look, &reservation_subject(&row.owner, computer, &row.image.name, tags))
    }

    /// Whether he may give a right: nobody gives more than he has.
    #[must_use]
    pub fn has_to_give(&self, verb: Verb, scope: &Scope) -> bool {
        let covers = |grant: &GrantView| {
            grant.verb.implies(verb) && (grant.scope == Scope::Everything || grant.scope == *scope)
        };
        self.in_scopes(verb) && (self.admin || self.grants().any(covers))
    }

    fn missing(&self, verb: Verb, subject: &Subject) -> Refusal {
        let both =
            |computer: &Tagged, image: &ImageName| format!("computer {} with image {image}", computer.name);
        let (on, scope) = match subject {
            Subject::Nothing => ("everything".to_owned(), "all"),
            Subject::Computer(computer) => (format!("computer {}", computer.name), "computers:TAG"),
            Subject::Image(image) => (format!("image {image}"), "images:GROUP"),
            Subject::Both(computer, image) if self.on_computer(verb, computer) => {
                (format!("image {image}"), "images:GROUP")
            }
            Subject::Both(computer, image) if self.on_image(verb, image) => {
                (format!("computer {}", computer.name), "computers:TAG")
            }
            Subject::Both(computer, image) => (both(computer, image), "all"),
            // Looking and doing differ: of one without a computer only looking can be given by its image.
            Subject::Reservation { computer: None, .. } => ("this reservation".to_owned(), "all"),
            Subject::Reservation { .. } => ("this reservation".to_owned(), "computers:TAG"),
            Subject::Job { .. } => ("this job".to_owned(), "computers:TAG"),
        };
        let givers: Vec<_> = self.rights.givers.iter().take(5).map(GroupName::as_str).collect();
        let givers = match givers.is_empty() {
            true => "an administrator of vcld's node".to_owned(),
            false => format!("an administrator of vcld's node, or of {},", givers.join(", ")),
        };
        let name = &self.name;
        let message = format!(
            "{name} has no right to `{verb}` on {on}; {givers} can give it to a group of {name}'s: vclctl grant add GROUP {verb} {scope}"
        );
        Refusal::new(RefusalKind::Forbidden, message)
    }
}

/// A job as rights see it.
#[must_use]
pub fn job_subject(requester: &str, request: &vcl_types::JobRequest, tags: &Tags) -> Subject {
    Subject::Job {
        requester: requester.to_owned(),
        computer: request.computer().map(|name| Tagged::of(name, tags)),
        image: request.image().cloned(),
    }
}

/// A reservation as rights see it: whose it is, the computer it has or that is kept for it, its image.
#[must_use]
pub fn reservation_subject(
    owner: &str,
    computer: Option<&ComputerName>,
    image: &ImageName,
    tags: &Tags,
) -> Subject {
    Subject::Reservation {
        owner: owner.to_owned(),
        computer: computer.map(|name| Tagged::of(name, tags)),
        image: Some(image.clone()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use chrono::Utc;
    use vcl_types::api::ImageGroupView;

    pub(crate) fn grant(group: &str, verb: Verb, scope: &str) -> GrantView {
        let (group, scope) = (group.parse().unwrap(), scope.parse().unwrap());
        GrantView { id: 1, group, verb, scope, by: "root".into(), since: Utc::now() }
    }
    /// Somebody in a group that has these.
    pub(crate) fn somebody(grants: &[(Verb, &str)]) -> Who {
        alice(grants.iter().map(|(verb, scope)| grant("course", *verb, scope)).collect())
    }
    fn alice(grants: Vec<GrantView>) -> Who {
        let images = vec!["gis-*".parse().unwrap()];
        let image_groups = vec![ImageGroupView { name: "gis".parse().unwrap(), note: None, images }];
        let rights = Arc::new(Rights::from(RightsRows { version: 1, grants, image_groups }));
        let groups = ["course".parse().unwrap()].into();
        Who { via: Via::Token, groups, rights, ..Who::nobody() }.named("alice")
    }
    fn computer(name: &str, tag: &str) -> Tagged {
        Tagged { name: name.parse().unwrap(), tags: vec![tag.into()] }
    }
    fn image(name: &str) -> Subject {
        Subject::Image(name.parse().unwrap())
    }

    #[test]
    fn a_right_is_on_what_its_scope_covers_and_on_nothing_else() {
        let a = Subject::Computer(computer("a", "b12"));
        let other = Subject::Computer(computer("b", "c3"));
        let who = alice(vec![
            grant("course", Verb::Operate, "computers:b12"),
            grant("others", Verb::Administer, "all"),
        ]);
        assert!(who.can(Verb::Operate, &a) && who.can(Verb::Look, &a));
        assert!(
            !who.can(Verb::Operate, &other) && !who.can(Verb::Look, &other) && !who.can(Verb::Reserve, &a)
        );
        assert!(
            !who.can(Verb::Look, &image("gis-1"))
                && !who.can(Verb::Look, &Subject::Nothing)
                && !who.sees_all()
        );
        let who = alice(vec![grant("course", Verb::Images, "images:gis")]);
        assert!(who.can(Verb::Images, &image("gis-1")) && !who.can(Verb::Images, &image("debian")));
        assert!(!who.can(Verb::Look, &a));
    }
    #[test]
    fn both_things_have_to_be_covered() {
        let both = Subject::Both(computer("a", "b12"), "gis-1".parse().unwrap());
        let half = alice(vec![grant("course", Verb::Reserve, "images:gis")]);
        let no = half.may(Verb::Reserve, &both).unwrap_err();
        assert_eq!(no.kind, RefusalKind::Forbidden);
        assert!(
            no.message.contains("`reserve` on computer a;") && no.message.contains("computers:TAG"),
            "{no}"
        );
        let whole = alice(vec![
            grant("course", Verb::Reserve, "images:gis"),
            grant("course", Verb::Reserve, "computers:b12"),
        ]);
        assert!(whole.can(Verb::Reserve, &both));
        assert!(!whole.can(Verb::Reserve, &Subject::Both(computer("a", "b12"), "debian".parse().unwrap())));
    }
    #[test]
    fn what_is_ones_own_needs_no_grant_and_what_is_anothers_does() {
        let of = |owner: &str| Subject::Reservation {
            owner: owner.into(),
            computer: Some(computer("a", "b12")),
            image: Some("gis-1".parse().unwrap()),
        };
        let who = alice(vec![grant("course", Verb::Reserve, "all")]);
        assert!(who.can(Verb::Reserve, &of("alice")) && who.can(Verb::Operate, &of("alice")));
        assert!(!who.can(Verb::Look, &of("bob")) && !who.can(Verb::Administer, &of("alice")));
        assert!(alice(vec![grant("course", Verb::Operate, "computers:b12")]).can(Verb::Operate, &of("bob")));
        assert!(alice(vec![grant("course", Verb::Look, "computers:b12")]).can(Verb::Look, &of("bob")));
        let nobody = Who::nobody().named("alice");
        assert!(!nobody.can(Verb::Look, &of("alice")), "a name that nobody vouches for owns nothing");
        let job = Subject::Job { requester: "alice".into(), computer: None, image: None };
        assert!(who.can(Verb::Look, &job) && !who.can(Verb::Operate, &job));
    }
    #[test]
    fn who_makes_images_sees_what_others_make_of_them_and_does_nothing_to_it() {
        let of = |computer: Option<Tagged>| Subject::Reservation {
            owner: "bob".into(),
            computer,
            image: Some("gis-1".parse().unwrap()),
        };
        let job =
            Subject::Job { requester: "bob".into(), computer: None, image: Some("gis-1".parse().unwrap()) };
        let maker = alice(vec![grant("course", Verb::Imaging, "all")]);
        assert!(maker.can(Verb::Look, &of(None)) && maker.can(Verb::Look, &job));
        assert!(!maker.can(Verb::Look, &of(Some(computer("a", "b12")))));
        for verb in [Verb::Reserve, Verb::Operate, Verb::Administer] {
            assert!(!maker.can(verb, &of(None)) && !maker.can(verb, &job), "{verb}");
        }
        // Who looks after the image calls jobs on it off, and ends nobody's reservation.
        let keeper = alice(vec![grant("course", Verb::Images, "images:gis")]);
        assert!(keeper.can(Verb::Operate, &job) && keeper.can(Verb::Look, &of(None)));
        assert!(!keeper.can(Verb::Operate, &of(None)));
        assert!(alice(vec![grant("course", Verb::Operate, "all")]).can(Verb::Operate, &of(None)));
        assert!(!alice(vec![grant("course", Verb::Operate, "computers:b12")]).can(Verb::Operate, &of(None)));
    }
    #[test]
    fn a_token_is_good_for_its_scopes_alone() {
        let mut who = Who::administrator("root");
        who.scopes = Some([Verb::Reserve].into());
        assert!(who.can(Verb::Look, &Subject::Nothing) && who.can(Verb::Reserve, &Subject::Nothing));
        let no = who.may(Verb::Operate, &Subject::Nothing).unwrap_err();
        assert!(no.message.contains("for reserve alone"), "{no}");
        assert!(!who.has_to_give(Verb::Operate, &Scope::Everything));
    }
    #[test]
    fn nobody_gives_more_than_he_has() {
        let who = alice(vec![
            grant("course", Verb::People, "all"),
            grant("course", Verb::Operate, "computers:b12"),
        ]);
        assert!(who.has_to_give(Verb::Operate, &"computers:b12".parse().unwrap()));
        assert!(!who.has_to_give(Verb::Operate, &Scope::Everything));
        assert!(!who.has_to_give(Verb::Administer, &"computers:b12".parse().unwrap()));
        assert!(who.rights.givers.contains(&"course".parse::<GroupName>().unwrap()));
    }
}
