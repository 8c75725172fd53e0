//! What the page says, in the reader's language.
//!
//! Every text of the page stands in one catalogue, a [Fluent](https://projectfluent.org) file a language. English is built in
//! (`texts/en.ftl`); a site adds others, or words of its own, with files of the same form. A text that a language lacks is
//! English. What the daemon says itself (reasons, events, errors) is not in the catalogue and stays as it is.

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource, FluentValue};
use std::borrow::Cow;
use unic_langid::LanguageIdentifier;

const ENGLISH: &str = include_str!("../texts/en.ftl");

/// A catalogue that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTexts {
    /// The language's name is none.
    #[error("`{0}` is no language: a file is called after one, as `de.ftl` or `pt-BR.ftl`")]
    Language(String),
    /// The file is not what Fluent reads.
    #[error("`{language}.ftl`: {count} of its texts cannot be read, the first of them: {first}")]
    Form {
        /// The language.
        language: String,
        /// How many are wrong.
        count: usize,
        /// What is wrong with the first.
        first: String,
    },
}

struct Language {
    tag: LanguageIdentifier,
    name: String,
    bundle: FluentBundle<FluentResource>,
}

/// All texts in all languages that there are.
pub struct Catalogue {
    /// English is the first.
    languages: Vec<Language>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.languages.iter().map(|language| &language.name)).finish()
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        let mut all = Self { languages: Vec::new() };
        // A test reads it, so it can be read.
        if let Err(error) = all.add("en", ENGLISH) {
            debug_assert!(false, "{error}");
        }
        all
    }
}

impl Catalogue {
    /// Takes in a language, or what a site says otherwise in one that is there.
    ///
    /// # Errors
    /// [`InvalidTexts`]; nothing of it is taken in then.
    pub fn add(&mut self, language: &str, texts: &str) -> Result<(), InvalidTexts> {
        let tag: LanguageIdentifier =
            language.parse().map_err(|_| InvalidTexts::Language(language.to_owned()))?;
        let resource =
            FluentResource::try_new(texts.to_owned()).map_err(|(_, errors)| InvalidTexts::Form {
                language: language.to_owned(),
                count: errors.len(),
                first: errors.first().map(ToString::to_string).unwrap_or_default(),
            })?;
        let known = self.languages.iter().position(|language| language.tag == tag);
        let at = known.unwrap_or_else(|| {
            let bundle = FluentBundle::new_concurrent(vec![tag.clone()]);
            self.languages.push(Language { name: tag.to_string(), tag, bundle });
            self.languages.len() - 1
        });
        self.languages[at].bundle.add_resource_overriding(resource);
        Ok(())
    }

    /// The texts for somebody who reads these languages, the likeliest first: the value of the header `Accept-Language`.
    #[must_use]
    pub fn read_by(&self, accepted: &str) -> Texts<'_> {
        let mut wanted: Vec<(LanguageIdentifier, f32)> = accepted
            .split(',')
            .take(20)
            .filter_map(|part| {
                let (tag, weight) = part.split_once(";q=").unwrap_or((part, "1"));
                Some((tag.trim().parse().ok()?, weight.trim().parse().unwrap_or(0.0)))
            })
            .collect();
        wanted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = wanted.iter().find_map(|(tag, _)| {
            let exact = self.languages.iter().position(|language| language.tag == *tag);
            exact.or_else(|| self.languages.iter().position(|l| l.tag.language == tag.language))
        });
        Texts { all: self, at: found.unwrap_or(0) }
    }

    /// The languages that there are.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.languages.iter().map(|language| language.name.as_str())
    }
}

/// A number that is counted.
pub trait Number {
    /// It.
    fn number(&self) -> i64;
}
macro_rules! numbers {
    ($($type:ty),+) => { $(impl Number for $type {
        fn number(&self) -> i64 {
            i64::try_from(*self).unwrap_or(i64::MAX)
        }
    })+ };
}
numbers!(u16, u32, u64, usize, i32, i64);
impl<T: Number> Number for &T {
    fn number(&self) -> i64 {
        (*self).number()
    }
}

/// The texts of one language.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    all: &'a Catalogue,
    at: usize,
}

impl<'a> Texts<'a> {
    /// The language's name, as it stands in HTML.
    #[must_use]
    pub fn language(&self) -> &'a str {
        self.all.languages.get(self.at).map_or("en", |language| &language.name)
    }

    /// Whether it is written from right to left.
    #[must_use]
    pub fn direction(&self) -> &'static str {
        let language = self.language().split('-').next().unwrap_or_default();
        if ["ar", "fa", "he", "ur", "yi", "ps", "dv"].contains(&language) { "rtl" } else { "ltr" }
    }

    fn find(&self, key: &str, args: Option<&FluentArgs<'_>>) -> Option<String> {
        let of = |language: &Language| {
            let message = language.bundle.get_message(key)?;
            let mut errors = Vec::new();
            let text = language.bundle.format_pattern(message.value()?, args, &mut errors);
            errors.is_empty().then(|| text.into_owned())
        };
        let own = self.all.languages.get(self.at).and_then(of);
        own.or_else(|| self.all.languages.first().and_then(of))
    }

    /// A text. One that is in no catalogue is its key, which shows that it is missing.
    #[must_use]
    pub fn say(&self, key: &str) -> Cow<'a, str> {
        Cow::Owned(self.find(key, None).unwrap_or_else(|| key.to_owned()))
    }

    /// A text with `{ $n }` in it, a number.
    #[must_use]
    pub fn count(&self, key: &str, n: impl Number) -> String {
        let mut args = FluentArgs::new();
        args.set("n", FluentValue::from(n.number()));
        self.find(key, Some(&args)).unwrap_or_else(|| key.to_owned())
    }

    /// A text with `{ $name }` in it.
    #[must_use]
    pub fn of(&self, key: &str, name: impl std::fmt::Display) -> String {
        self.with(key, &[("name", &name)])
    }

    /// A text with two of these in it.
    #[must_use]
    pub fn two(
        &self,
        key: &str,
        a: &'static str,
        value_a: impl std::fmt::Display,
        b: &'static str,
        value_b: impl std::fmt::Display,
    ) -> String {
        self.with(key, &[(a, &value_a), (b, &value_b)])
    }

    /// A text with these in it.
    #[must_use]
    pub fn with(&self, key: &str, parts: &[(&'static str, &dyn std::fmt::Display)]) -> String {
        let mut args = FluentArgs::new();
        for (name, value) in parts {
            args.set(*name, FluentValue::from(value.to_string()));
        }
        self.find(key, Some(&args)).unwrap_or_else(|| key.to_owned())
    }

    /// A word of the programs', such as a state: `state-job-running`.
    #[must_use]
    pub fn word(&self, family: &str, word: impl std::fmt::Display) -> Cow<'a, str> {
        let word = word.to_string();
        match self.find(&format!("{family}-{word}"), None) {
            Some(text) => Cow::Owned(text),
            None => Cow::Owned(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_language_that_he_reads_best_of_those_there_are() {
        let mut all = Catalogue::default();
        all.add("de", "nav-images = Abbilder\n").unwrap();
        for (accepted, language, images) in [
            ("de-DE,de;q=0.9,en;q=0.8", "de", "Abbilder"),
            ("fr;q=0.9,de;q=0.5", "de", "Abbilder"),
            ("en-GB,de;q=0.3", "en", "Images"),
            ("", "en", "Images"),
            ("\u{0};;q=x,,*", "en", "Images"),
        ] {
            let texts = all.read_by(accepted);
            assert_eq!((texts.language(), &*texts.say("nav-images")), (language, images), "{accepted}");
        }
        // What a language lacks is English; what no language has is seen to be missing.
        assert_eq!(all.read_by("de").say("nav-classes"), "Classes");
        assert_eq!(all.read_by("de").say("no-such-text"), "no-such-text");
    }
    #[test]
    fn what_cannot_be_read_is_refused_with_what_is_wrong() {
        let mut all = Catalogue::default();
        let error = all.add("de", "a = 1\nnot a text\n").unwrap_err().to_string();
        assert!(error.contains("`de.ftl`") && error.contains('1'), "{error}");
        assert!(all.add("no language!", "a = 1\n").is_err());
        assert_eq!(all.languages().collect::<Vec<_>>(), ["en"]);
        // A site's own words for one text.
        all.add("en", "nav-images = Disks\n").unwrap();
        assert_eq!(all.read_by("en").say("nav-images"), "Disks");
    }
    #[test]
    fn a_name_in_a_text_cannot_turn_the_text_around_it() {
        let all = Catalogue::default();
        let text = all.read_by("en").of("page-title", "\u{202e}abc");
        assert!(text.contains("\u{2068}\u{202e}abc\u{2069}"), "{text:?}");
    }
    /// What the templates and the views ask for, by the words with which they do.
    fn asked_for(text: &str, ways: &[&str]) -> Vec<String> {
        let mut keys = Vec::new();
        for way in ways {
            for rest in text.split(way).skip(1) {
                let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
                keys.extend(rest.split('"').next().map(str::to_owned));
            }
        }
        keys
    }

    #[test]
    fn every_text_that_is_asked_for_is_there_and_no_other_is() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut all = String::new();
        for directory in ["templates", "src", "../vcld/src/http/page"] {
            for entry in std::fs::read_dir(root.join(directory)).unwrap() {
                all.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
            }
        }
        let catalogue = Catalogue::default();
        let texts = catalogue.read_by("en");
        let there = |key: &str| catalogue.languages[0].bundle.has_message(key);
        let ways = [".say(", ".count(", ".of(", ".with(", ".two("];
        let asked = asked_for(&all, &ways);
        assert!(asked.len() > 300, "{}", asked.len());
        let made_up = ["no-such-text", "site"];
        for key in asked.iter().filter(|key| key.contains('-') && !made_up.contains(&key.as_str())) {
            assert!(there(key), "`{key}` is asked for and is not in en.ftl");
        }
        // Each can be written: with whatever it is given, and with nothing that this program lacks.
        for line in ENGLISH.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())) {
            let key = line.split(" =").next().unwrap();
            let message = catalogue.languages[0].bundle.get_message(key).unwrap();
            let mut args = FluentArgs::new();
            for name in
                ["name", "from", "to", "p50", "p95", "image", "id", "computer", "because", "position", "wait"]
            {
                args.set(name, "x");
            }
            for name in ["verb", "who", "why", "size", "free", "booked", "taken"] {
                args.set(name, "x");
            }
            args.set("n", 2);
            let mut errors = Vec::new();
            catalogue.languages[0].bundle.format_pattern(message.value().unwrap(), Some(&args), &mut errors);
            assert!(errors.is_empty(), "{key}: {errors:?}");
        }
        // Each state has its word.
        use vcl_types::state::{computer, job, node, reservation};
        let mut words: Vec<String> = Vec::new();
        words.extend(computer::State::ALL.iter().map(|state| format!("computer-{state}")));
        words.extend(job::State::ALL.iter().map(|state| format!("job-{state}")));
        words.extend(node::State::ALL.iter().map(|state| format!("node-{state}")));
        words.extend(reservation::State::ALL.iter().map(|state| format!("reservation-{state}")));
        words.extend(vcl_types::lending::Purpose::ALL.iter().map(|purpose| format!("purpose-{purpose}")));
        words.extend(vcl_types::usage::UsageBy::ALL.iter().map(|by| format!("by-{by}")));
        for word in &words {
            assert!(there(word), "`{word}` is not in en.ftl");
        }
        // What nothing asks for would be translated in vain. Keys that are put together are found by their ends.
        for line in ENGLISH.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())) {
            let key = line.split(" =").next().unwrap();
            let ends = ["-says", "-title", "-done"].iter().find_map(|end| key.strip_suffix(end));
            let family = key.split_once('-').map(|(family, _)| format!("word(\"{family}\""));
            let used = all.contains(&format!("\"{key}\""))
                || words.contains(&key.to_owned())
                || ends
                    .is_some_and(|verb| all.contains(&format!("\"{verb}\"")) || verb.starts_with("orphan-"))
                || family.is_some_and(|family| all.contains(&family));
            assert!(used, "`{key}` is in en.ftl and nothing asks for it");
        }
        assert_eq!(texts.count("wall-all", 1_u64), "One computer");
    }
}
