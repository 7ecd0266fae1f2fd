//! What is wrong with bad events: a list of names, so that each can be counted and looked for.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
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

    /// Whether this event can have it.
    pub(super) fn fits(self, draft: &Draft) -> bool {
        self != Flaw::FractionOfACent || draft.has("amount")
    }

    /// Spoils an event and writes it to `line`.
    pub(super) fn spoil(self, draft: &mut Draft, at: i64, rng: &mut ChaCha8Rng, line: &mut Vec<u8>) {
        match self {
            Flaw::Truncated | Flaw::InvalidUtf8 | Flaw::NotAnObject => {}
            Flaw::TooLarge => draft.text("context", &"x".repeat((1 << 20) + 1)),
            Flaw::TooDeep => draft.json("context", &("[".repeat(100) + &"]".repeat(100))),
            Flaw::UnknownEventType => {
                draft.replace("event_type", one_of(rng, &[b"\"cart_abandoned\"", b"\"wishlist_added\""]))
            }
            Flaw::HostileEventType => {
                let long = format!("\"{}\"", "x".repeat(300));
                let types: [&[u8]; 4] = [b"\"../../etc/passwd\"", b"\"\"", b"\"a=b/../%2e%2e\"", long.as_bytes()];
                draft.replace("event_type", one_of(rng, &types));
            }
            Flaw::UnknownSchemaVersion => draft.replace("schema_version", one_of(rng, &[b"\"v9\"", b"\"V1\""])),
            Flaw::MissingField => {
                draft.remove(one_of(rng, &["user_id", "idempotency_key", "event_timestamp", "country", "device_type"]));
            }
            Flaw::WrongType => match below(rng, 3) {
                0 => draft.replace("user_id", b"12345"),
                1 => draft.replace("country", b"null"),
                _ => draft.replace("ip_address", b"[203,0,113,7]"),
            },
            Flaw::NotAllowed => {
                draft.replace(one_of(rng, &["device_type", "os", "browser"]), b"\"fridge\"");
            }
            Flaw::OutOfRange => {
                if let Some(amount) = draft.value("amount") {
                    let negative = [b"-", amount].concat();
                    draft.replace("amount", &negative);
                } else if draft.has("load_time_ms") {
                    draft.replace("load_time_ms", b"-1");
                } else {
                    draft.replace("user_id", b"\"\"");
                }
            }
            Flaw::BadFormat => match below(rng, 4) {
                0 => draft.replace("event_timestamp", b"\"17/12/2024 10:11:12\""),
                1 => draft.replace("idempotency_key", b"\"not-a-uuid\""),
                2 => draft.replace("ip_address", b"\"999.0.113.7\""),
                _ => draft.replace("country", b"\"Germany\""),
            },
            Flaw::FractionOfACent => {
                let amount = [draft.value("amount").unwrap_or_default(), b"5"].concat();
                draft.replace("amount", &amount);
            }
            Flaw::FutureEventTime => {
                // In 2199: ahead of every clock, and still a moment that nanoseconds in 64 bits can hold.
                let ahead = (unit(rng) * 31_000_000.0) as i64;
                draft.time("event_timestamp", (7_226_582_400 + ahead) * SECOND + at.rem_euclid(SECOND));
            }
            Flaw::SeveralProblems => {
                draft.remove("country");
                draft.replace("user_id", b"12345");
                draft.replace("device_type", b"\"fridge\"");
            }
        }
        draft.render(line);
        match self {
            Flaw::Truncated => line.truncate(1 + below(rng, line.len() as u32 - 1) as usize),
            Flaw::InvalidUtf8 => {
                // Inside of a text, so that nothing else is wrong.
                if let Some(i) = memchr::memmem::find(line, b"\"country\":\"") {
                    line[i + 11] = 0x80 | (rng.next_u32() as u8 & 0x7f);
                }
            }
            Flaw::NotAnObject => {
                let values: [&[u8]; 4] = [b"[\"page_view\",\"v1\"]", b"\"page_view\"", b"42", b"null"];
                line.clear();
                line.extend_from_slice(one_of(rng, &values));
            }
            _ => {}
        }
    }
}
