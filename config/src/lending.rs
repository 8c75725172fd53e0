//! `[reservations]`, `[group.NAME]` and `[image.NAME]`: what rules reservations, for the site, for a group's, for an
//! image's. A group's word goes before an image's, and that before the site's.

use crate::keys::lending::{GROUP, IMAGE};
use crate::problem::shown;
use crate::section::{self, Section};
use crate::values;
use ipnet::IpNet;
use std::collections::BTreeMap;
use vcl_types::lending::{Times, Weekly};
use vcl_types::{ConnectMethod, ImageName, OsName};

/// Times that go before others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Over {
    seconds: BTreeMap<&'static str, u64>,
    notices: Option<Vec<u64>>,
}

const SPANS: [&str; 8] =
    ["acknowledge", "connect", "inactivity", "unwatched_from", "check", "ahead", "length", "longest"];

impl Over {
    fn read(table: &Section<'_>) -> Option<Self> {
        let mut over = Self::default();
        let mut good = true;
        for name in SPANS {
            if let Some(key) = table.has_value(name).then_some(name) {
                match table.duration(key) {
                    Some(span) => drop(over.seconds.insert(name, span.as_secs())),
                    None => good = false,
                }
            }
        }
        if table.has_value("notices") {
            match table.text("notices").map(|text| (notices(&text), text)) {
                Some((Some(all), _)) => over.notices = Some(all),
                Some((None, text)) => {
                    let message = format!("`{}` is not a list of durations", shown(&text));
                    table.report(
                        "notices",
                        message,
                        "write durations with blanks between them, as in \"1d 10m 5m\"",
                    );
                    good = false;
                }
                None => good = false,
            }
        }
        good.then_some(over)
    }
    fn lay_over(&self, times: &mut Times) {
        for (name, value) in &self.seconds {
            let field = match *name {
                "acknowledge" => &mut times.acknowledge_s,
                "connect" => &mut times.connect_s,
                "inactivity" => &mut times.inactivity_s,
                "unwatched_from" => &mut times.unwatched_from_s,
                "check" => &mut times.check_s,
                "ahead" => &mut times.ahead_s,
                "length" => &mut times.length_s,
                _ => &mut times.longest_s,
            };
            *field = *value;
        }
        if let Some(notices) = &self.notices {
            times.notices_s.clone_from(notices);
        }
    }
}

fn notices(text: &str) -> Option<Vec<u64>> {
    let all: Option<Vec<u64>> =
        text.split_whitespace().map(|word| values::duration(word).map(|span| span.as_secs())).collect();
    let mut all = all?;
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.dedup();
    Some(all)
}

/// Whom a lent computer lets in before its user's address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenTo {
    /// Nobody.
    Address,
    /// Everybody.
    Everybody,
}

/// What a computer is loaded with when it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterUse {
    /// Nothing (VCL's predictive Level_2).
    Nothing,
    /// The image that it had (Level_0).
    Same,
    /// The one most used of late (Level_1).
    MostUsed,
    /// The one it is booked for next, or else the most used.
    BookedNext,
}

/// What holds for the reservations of a group, or of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    over: Over,
    at_once: Option<u32>,
    hours_per_week: Option<u32>,
    group_at_once: Option<u32>,
    servers: Option<bool>,
    concurrent: Option<u32>,
    methods: Option<Vec<ConnectMethod>>,
}

/// How many computers are kept loaded with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warm {
    /// So many at least.
    pub count: u32,
    /// So many at most, by demand; never fewer than `count`.
    pub most: u32,
    /// Only then.
    pub hours: Option<Weekly>,
    /// Of computers with these tags.
    pub tags: Vec<String>,
}

/// Everything about reservations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lending {
    site: Times,
    groups: BTreeMap<String, Rules>,
    images: BTreeMap<ImageName, Rules>,
    at_once: Option<u32>,
    hours_per_week: Option<u32>,
    methods: Vec<ConnectMethod>,
    servers: bool,
    /// Networks that no lent computer ever shuts out.
    pub management_networks: Vec<IpNet>,
    /// Whom a lent computer lets in before its user's address is known.
    pub open_to: OpenTo,
    /// What a computer is loaded with when it is given back.
    pub after_use: AfterUse,
    /// The site's time zone.
    pub timezone: chrono_tz::Tz,
    /// Whether a revision has to have passed `image test` to become production.
    pub promote_needs_test: bool,
    /// The site's own test scripts.
    pub tests: Option<camino::Utf8PathBuf>,
    /// The warm pools.
    pub warm: BTreeMap<ImageName, Warm>,
}

impl Lending {
    /// The times where neither the image nor the group has some of its own.
    #[must_use]
    pub fn of_all(&self) -> &Times {
        &self.site
    }
    /// The times of a reservation of this image, of this group.
    #[must_use]
    pub fn times(&self, image: &ImageName, group: Option<&str>) -> Times {
        let mut times = self.site.clone();
        let rules = [self.images.get(image), group.and_then(|name| self.groups.get(name))];
        rules.into_iter().flatten().for_each(|rules| rules.over.lay_over(&mut times));
        // Who says nothing gets what may be had.
        times.length_s = times.length_s.min(times.longest_s);
        times
    }
    /// How many computers one user of this group may have at once, and all of the group, and all with this image.
    #[must_use]
    pub fn places(&self, image: &ImageName, group: Option<&str>) -> (Option<u32>, Option<u32>, Option<u32>) {
        let group = group.and_then(|name| self.groups.get(name));
        (
            group.and_then(|rules| rules.at_once).or(self.at_once),
            group.and_then(|rules| rules.group_at_once),
            self.images.get(image).and_then(|rules| rules.concurrent),
        )
    }
    /// How users come to a guest of this image.
    #[must_use]
    pub fn methods(&self, image: &ImageName, os: OsName) -> Vec<ConnectMethod> {
        match (self.images.get(image).and_then(|rules| rules.methods.clone()), os) {
            (Some(own), _) => own,
            (None, OsName::Linux) => self.methods.clone(),
            (None, OsName::Windows) => {
                vec![ConnectMethod { name: "rdp".into(), port: 3389, service: None, script: None }]
            }
        }
    }
    /// How many ways the guests of any image have at most.
    #[must_use]
    pub fn most_methods(&self) -> usize {
        let own = self.images.values().filter_map(|rules| rules.methods.as_ref().map(Vec::len));
        own.chain([self.methods.len(), 1]).max().unwrap_or(1)
    }
    /// Whether a group has rules of its own.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }
    /// Whether those of this group may have computers as servers without a right to operate them.
    #[must_use]
    pub fn servers(&self, group: Option<&str>) -> bool {
        let group = group.and_then(|name| self.groups.get(name));
        group.and_then(|rules| rules.servers).unwrap_or(self.servers)
    }
    /// How many hours one user of this group may have in seven days.
    #[must_use]
    pub fn hours_per_week(&self, group: Option<&str>) -> Option<u32> {
        let group = group.and_then(|name| self.groups.get(name));
        group.and_then(|rules| rules.hours_per_week).or(self.hours_per_week)
    }
}

/// Words such as `rdp:3389:xrdp`.
fn methods(table: &Section<'_>) -> Option<Vec<ConnectMethod>> {
    let text = table.text("methods")?;
    let mut all = Vec::new();
    for word in text.split_whitespace() {
        let mut parts = word.split(':');
        let (name, port) = (parts.next().unwrap_or_default(), parts.next());
        let usual = match name {
            "ssh" => Some(22),
            "rdp" => Some(3389),
            "vnc" => Some(5900),
            _ => None,
        };
        let port = port.map_or(usual, |port| port.parse().ok());
        let some = |part: Option<&str>| part.filter(|part| !part.is_empty()).map(str::to_owned);
        let (service, script, rest) = (some(parts.next()), some(parts.next()), parts.next());
        let method = port.map(|port| ConnectMethod { name: name.to_owned(), port, service, script });
        let (what, way_out) = match method.filter(|method| rest.is_none() && method.check().is_ok()) {
            // Public ports are known by their methods' names.
            Some(method) if all.iter().any(|other: &ConnectMethod| other.name == method.name) => {
                ("is there twice", "give each way to connect a name of its own")
            }
            Some(method) => {
                all.push(method);
                continue;
            }
            None => {
                ("is not a way to connect", "write NAME:PORT:SERVICE:SCRIPT, as in \"ssh:22 rdp:3389:xrdp\"")
            }
        };
        table.report("methods", format!("`{}` {what}", shown(word)), way_out);
        return None;
    }
    Some(all)
}

fn networks(table: &Section<'_>) -> Option<Vec<IpNet>> {
    let key = "management_networks";
    let text = table.optional(key, |table| table.text(key))?.unwrap_or_default();
    let read = |word: &str| {
        let alone = || word.parse::<std::net::IpAddr>().ok().map(IpNet::from);
        word.parse::<IpNet>().ok().or_else(alone).ok_or_else(|| word.to_owned())
    };
    match text.split_whitespace().map(read).collect::<Result<Vec<_>, _>>() {
        Ok(all) => Some(all),
        Err(bad) => {
            let message = format!("`{}` is not a network", shown(&bad));
            table.report(key, message, "write networks, as in \"10.0.0.0/24 192.0.2.7/32\"");
            None
        }
    }
}

fn optional(table: &Section<'_>, key: &str) -> Option<Option<u32>> {
    table.optional(key, |table| table.integer(key))
}

pub(crate) fn read(root: &Section<'_>) -> Option<Lending> {
    let (groups, images, warm) = (read_groups(root), read_images(root), BTreeMap::new());
    let table = root.section("reservations")?;
    let over = Over::read(&table);
    let (at_once, hours) = (optional(&table, "at_once"), optional(&table, "hours_per_week"));
    let (methods, networks) = (methods(&table), networks(&table));
    let (open_to, after_use) = (table.choice("open_to"), table.choice("after_use"));
    let timezone = table.text("timezone").and_then(|text| {
        text.parse::<chrono_tz::Tz>()
            .map_err(|_| {
                let message = format!("`{}` is not a time zone", shown(&text));
                table.report("timezone", message, "write it as in \"Europe/Berlin\" or \"UTC\"");
            })
            .ok()
    });
    let promote_needs_test = table.boolean("promote_needs_test");
    let servers = table.boolean("servers");
    let tests = table.optional("tests", |table| table.path("tests"));
    let mut site = Times::default();
    over?.lay_over(&mut site);
    let mut lending = Lending {
        site,
        groups: groups?,
        images: BTreeMap::new(),
        at_once: at_once?,
        hours_per_week: hours?,
        methods: methods?,
        servers: servers?,
        management_networks: networks?,
        open_to: open_to?,
        after_use: after_use?,
        timezone: timezone?,
        promote_needs_test: promote_needs_test?,
        tests: tests?,
        warm,
    };
    for (name, (rules, warm)) in images? {
        lending.warm.extend(warm.map(|warm| (name.clone(), warm)));
        lending.images.insert(name, rules);
    }
    Some(lending)
}

fn read_groups(root: &Section<'_>) -> Option<BTreeMap<String, Rules>> {
    let (mut groups, mut good) = (BTreeMap::new(), true);
    for (path, entry) in root.named_entries("group") {
        let findings = root.findings();
        let rules = section::table(findings, &path, entry).and_then(|entries| {
            let table = Section::open(findings, (path.clone(), entry.at), entries, [GROUP, &[]]);
            let over = Over::read(&table);
            let (at_once, hours) = (optional(&table, "at_once"), optional(&table, "hours_per_week"));
            let group_at_once = optional(&table, "group_at_once");
            let servers = if table.has("servers") { table.boolean("servers").map(Some) } else { Some(None) };
            Some(Rules {
                over: over?,
                at_once: at_once?,
                hours_per_week: hours?,
                group_at_once: group_at_once?,
                servers: servers?,
                concurrent: None,
                methods: None,
            })
        });
        match rules {
            Some(rules) => drop(groups.insert(entry.key.clone(), rules)),
            None => good = false,
        }
    }
    good.then_some(groups)
}

type OfImage = (Rules, Option<Warm>);

fn read_images(root: &Section<'_>) -> Option<BTreeMap<ImageName, OfImage>> {
    let (mut images, mut good) = (BTreeMap::new(), true);
    for (path, entry) in root.named_entries("image") {
        let findings = root.findings();
        let name = entry.key.parse::<ImageName>();
        let name = name.map_err(|bad| {
            findings.report(
                entry.at,
                &path,
                format!("`{}` is not a {}", shown(&bad.value), bad.what),
                bad.rule,
            );
        });
        let read = section::table(findings, &path, entry).and_then(|entries| {
            read_image(&Section::open(findings, (path.clone(), entry.at), entries, [IMAGE, &[]]))
        });
        match (name, read) {
            (Ok(name), Some(read)) => drop(images.insert(name, read)),
            _ => good = false,
        }
    }
    good.then_some(images)
}

fn read_image(table: &Section<'_>) -> Option<OfImage> {
    let over = Over::read(table);
    let (concurrent, count) = (optional(table, "concurrent"), optional(table, "warm"));
    let most = optional(table, "warm_most");
    let hours = match table.has("warm_hours") {
        false => Some(None),
        true => table.text("warm_hours").and_then(|text| match text.parse::<Weekly>() {
            Ok(hours) => Some(Some(hours)),
            Err(bad) => {
                table.report("warm_hours", bad.to_string(), "write it as in \"Mon-Fri 8-18\"");
                None
            }
        }),
    };
    let tags = if table.has("warm_on") {
        table.field("warm_on").and_then(|field| field.tags())
    } else {
        Some(Vec::new())
    };
    let methods = if table.has("methods") { methods(table).map(Some) } else { Some(None) };
    let rules = Rules { over: over?, concurrent: concurrent?, methods: methods?, ..Rules::default() };
    let (hours, tags, count, most) = (hours?, tags?, count?, most?);
    if let (Some(count), Some(most)) = (count, most)
        && most < count
    {
        table.report("warm_most", format!("{most} is less than `warm`, {count}"), "write a larger number");
        return None;
    }
    let of = |count: Option<u32>| count.unwrap_or_default();
    let warm = (count.is_some() || most.is_some()).then(|| Warm {
        count: of(count),
        most: of(most.or(count)),
        hours,
        tags,
    });
    Some((rules, warm))
}
