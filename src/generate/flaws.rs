//! What is wrong with bad events: a list of names, so that each can be counted and looked for.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::names::Names;
use super::{below, one_of, unit};
use crate::time::SECOND;
use crate::verdict::Code;

macro_rules! flaws {
    ($($(#[$doc:meta])* $variant:ident => $name:literal, $code:ident;)*) => {
        /// A flaw on purpose.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Flaw { $($(#[$doc])* #[serde(rename = $name)] $variant,)* }

        impl Flaw {
            /// Every flaw.
            pub const ALL: &[Flaw] = &[$(Flaw::$variant,)*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Flaw::$variant => $name,)* }
            }

            /// The code under which the contract rejects it.
            pub fn code(self) -> Code {
                match self { $(Flaw::$variant => Code::$code,)* }
            }
        }
    };
}

flaws! {
    /// The line ends in the middle.
    Truncated => "truncated", MalformedJson;
    /// A byte that is no UTF-8.
    InvalidUtf8 => "invalid_utf8", MalformedJson;
    /// JSON, but a list, a text, a number or null.
    NotAnObject => "not_an_object", NotAnObject;
    /// A property of more than a MiB.
    TooLarge => "too_large", TooLarge;
    /// A property of a hundred lists in one another.
    TooDeep => "too_deep", TooDeep;
    /// An event type that nobody announced.
    UnknownEventType => "unknown_event_type", UnknownEventType;
    /// An event type that would like to be a path (`../../etc/passwd`), is empty or very long.
    HostileEventType => "hostile_event_type", UnknownEventType;
    /// A version that nobody announced.
    UnknownSchemaVersion => "unknown_schema_version", UnknownSchemaVersion;
    /// A required property is not there.
    MissingField => "missing_field", MissingField;
    /// A number where text belongs, text where a number belongs, null.
    WrongType => "wrong_type", WrongType;
    /// A value that is not in the list.
    NotAllowed => "not_allowed", NotAllowed;
    /// A negative amount or time, an empty name.
    OutOfRange => "out_of_range", OutOfRange;
    /// A date, an id, an address or a country code that is none.
    BadFormat => "bad_format", BadFormat;
    /// An amount with a fraction of a cent.
    FractionOfACent => "fraction_of_a_cent", NotRepresentable;
    /// A clock that runs centuries ahead: only where arrival is known can this be seen.
    FutureEventTime => "future_event_time", FutureEventTime;
    /// Three things at once; counted under the first, a missing field.
    SeveralProblems => "several_problems", MissingField;
}

impl Flaw {
    /// What is used unless told.
    pub const DEFAULT: &[Flaw] = &[
        Flaw::Truncated,
        Flaw::InvalidUtf8,
        Flaw::NotAnObject,
        Flaw::TooDeep,
        Flaw::UnknownEventType,
        Flaw::HostileEventType,
        Flaw::UnknownSchemaVersion,
        Flaw::MissingField,
        Flaw::WrongType,
        Flaw::NotAllowed,
        Flaw::OutOfRange,
        Flaw::BadFormat,
        Flaw::FractionOfACent,
        Flaw::FutureEventTime,
        Flaw::SeveralProblems,
    ];

    /// Whether events with these names can have it.
    pub(super) fn suits(self, names: &Names) -> bool {
        match self {
            Flaw::UnknownEventType | Flaw::HostileEventType => names.event_type.is_some(),
            Flaw::UnknownSchemaVersion => names.version.is_some(),
            _ => true,
        }
    }

    /// Whether this event can have it.
    pub(super) fn fits(self, draft: &Draft, names: &Names) -> bool {
        // One more digit makes a fraction of a cent only behind the cents.
        self != Flaw::FractionOfACent || draft.value(names.amount).is_some_and(|amount| amount.contains(&b'.'))
    }

    /// Spoils an event and writes it to `line`.
    pub(super) fn spoil(self, draft: &mut Draft, names: &Names, at: i64, rng: &mut ChaCha8Rng, line: &mut Vec<u8>) {
        let event_type = names.event_type.unwrap_or_default();
        let mut put = |(name, value): (&str, &str)| draft.replace(name, value.as_bytes());
        match self {
            Flaw::Truncated | Flaw::InvalidUtf8 | Flaw::NotAnObject => {}
            Flaw::TooLarge => draft.text("context", &"x".repeat((1 << 20) + 1)),
            Flaw::TooDeep => draft.json("context", &("[".repeat(100) + &"]".repeat(100))),
            Flaw::UnknownEventType => put((event_type, one_of(rng, &["\"cart_abandoned\"", "\"wishlist_added\""]))),
            Flaw::HostileEventType => {
                let long = format!("\"{}\"", "x".repeat(300));
                let types = ["\"../../etc/passwd\"", "\"\"", "\"a=b/../%2e%2e\"", long.as_str()];
                put((event_type, one_of(rng, &types)));
            }
            Flaw::UnknownSchemaVersion => {
                put((names.version.unwrap_or_default(), one_of(rng, &["\"v9\"", "\"V1\""])));
            }
            Flaw::MissingField => draft.remove(one_of(rng, names.required)),
            Flaw::WrongType => put(one_of(rng, names.wrong_type)),
            Flaw::NotAllowed => put(one_of(rng, names.not_allowed)),
            Flaw::OutOfRange => {
                if let Some(amount) = draft.value(names.amount) {
                    let negative = [b"-", amount].concat();
                    draft.replace(names.amount, &negative);
                } else if let Some(count) = names.count.filter(|name| draft.has(name)) {
                    draft.replace(count, b"-1");
                } else {
                    draft.replace(names.entity, b"\"\"");
                }
            }
            Flaw::BadFormat => put(one_of(rng, names.bad_format)),
            Flaw::FractionOfACent => {
                let amount = [draft.value(names.amount).unwrap_or_default(), b"5"].concat();
                draft.replace(names.amount, &amount);
            }
            Flaw::FutureEventTime => {
                // In 2199: ahead of every clock, and still a moment that nanoseconds in 64 bits can hold.
                let ahead = (unit(rng) * 31_000_000.0) as i64;
                draft.time(names.time, (7_226_582_400 + ahead) * SECOND + at.rem_euclid(SECOND));
            }
            Flaw::SeveralProblems => {
                let (gone, spoiled) = names.several;
                spoiled.into_iter().for_each(put);
                draft.remove(gone);
            }
        }
        draft.render(line);
        match self {
            Flaw::Truncated => line.truncate(1 + below(rng, line.len() as u32 - 1) as usize),
            Flaw::InvalidUtf8 => {
                // Inside of a text, so that nothing else is wrong.
                let text = format!("\"{}\":\"", names.text);
                if let Some(i) = memchr::memmem::find(line, text.as_bytes()) {
                    line[i + text.len()] = 0x80 | (rng.next_u32() as u8 & 0x7f);
                }
            }
            Flaw::NotAnObject => {
                line.clear();
                line.extend_from_slice(one_of(rng, &names.no_objects).as_bytes());
            }
            _ => {}
        }
    }
}
