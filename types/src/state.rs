//! The states of jobs, computers and reservations: one pure function each, one screen each.
//!
//! Whoever changes a state calls the `next` of its module and stores what it answers; nothing else decides what may
//! follow what. A refusal carries both sides, so that it can be told to whoever asked.

pub mod computer;
pub mod job;
pub mod node;
pub mod reservation;

/// An event that a state does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible while the {what} is {state}")]
pub struct Refused {
    /// `job`, `computer` or `reservation`.
    pub what: &'static str,
    /// The state it is in.
    pub state: &'static str,
    /// What was wanted.
    pub event: &'static str,
}

/// Declares an enum whose variants are also words: in JSON, in the database, on the screen.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident as $schema:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $type { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }
        impl $type {
            /// All of them, in the order of the diagram.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $word),+ } }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
        // By hand: what is derived inside a macro has the variants' names for the words.
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($word),+]))
                    .into()
            }
        }
        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> { std::borrow::Cow::Borrowed(stringify!($schema)) }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word { $($word => Ok(Self::$variant),)+ other => Err(format!("`{other}` is none of: {}", [$($word),+].join(", "))) }
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    /// The whole State × Event table of all three, for a reviewer to read.
    #[test]
    fn the_tables() {
        use std::fmt::Write as _;
        let mut table = String::new();
        macro_rules! table {
            ($module:ident) => {{
                use crate::state::$module::{Event, State, next};
                let _ = writeln!(table, "{}", stringify!($module));
                for state in State::ALL {
                    for event in Event::ALL {
                        if let Ok(to) = next(*state, *event) {
                            let _ = writeln!(table, "  {state:12} {event:16} → {to}");
                        }
                    }
                }
            }};
        }
        table!(job);
        table!(computer);
        table!(reservation);
        insta::assert_snapshot!(table);
    }
}
