//! What becomes of an event, and why: verdicts, problem codes and the problems themselves.

use serde::{Deserialize, Serialize};

/// What a contract, the deduplication and the watermark say of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to Silver.
    Accepted,
    /// Its key was seen before.
    Duplicate,
    /// Its time is below the watermark of the last commit.
    Late,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)*) => {
        /// Why an event is not accepted. The order is that of the ledger: an event is counted under its first code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Code] = &[$(Code::$variant,)*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
        }
    };
}

codes! {
    /// Not JSON (RFC 8259), or not UTF-8.
    MalformedJson => "malformed_json",
    /// JSON, but no object; a tombstone too.
    NotAnObject => "not_an_object",
    /// More bytes than the limit.
    TooLarge => "too_large",
    /// Nested deeper than the limit.
    TooDeep => "too_deep",
    /// The contract does not name this event type.
    UnknownEventType => "unknown_event_type",
    /// The contract does not name this version of the event type.
    UnknownSchemaVersion => "unknown_schema_version",
    /// required, dependentRequired.
    MissingField => "missing_field",
    /// type.
    WrongType => "wrong_type",
    /// enum, const, uniqueItems.
    NotAllowed => "not_allowed",
    /// Bounds, lengths, counts, multipleOf.
    OutOfRange => "out_of_range",
    /// format, pattern.
    BadFormat => "bad_format",
    /// additionalProperties, unevaluatedProperties and the like.
    UnexpectedField => "unexpected_field",
    /// Any other keyword.
    Invalid => "invalid",
    /// Valid, but no value of its column.
    NotRepresentable => "not_representable",
    /// Further ahead of arrival than `max_future_skew`.
    FutureEventTime => "future_event_time",
    /// Below the watermark of the last commit.
    Late => "late",
}

/// One thing that is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind of problem.
    pub code: Code,
    /// JSON Pointer to the value that is wrong ('' is the whole event).
    pub pointer: String,
    /// What is wrong, for people.
    pub message: String,
    /// The first 200 characters of the value, as JSON text; none where there is no value.
    pub value: Option<String>,
}
