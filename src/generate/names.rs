//! What the properties of a profile's events are called, for the flaws.

/// Where a flaw finds what it spoils. Values are JSON texts.
pub(super) struct Names {
    /// The event type, where events have one of their own.
    pub event_type: Option<&'static str>,
    /// The version of the schema, where events have one.
    pub version: Option<&'static str>,
    /// When it happened.
    pub time: &'static str,
    /// Whose it is: a text.
    pub entity: &'static str,
    /// A short text that every event has.
    pub text: &'static str,
    /// An amount of money, which no event has below zero or with a fraction of a cent.
    pub amount: &'static str,
    /// A number of an event without an amount, never below zero.
    pub count: Option<&'static str>,
    /// Properties that must be there, in every event.
    pub required: &'static [&'static str],
    /// A property, and a value of another type.
    pub wrong_type: &'static [(&'static str, &'static str)],
    /// A property, and a value that is not in its list.
    pub not_allowed: &'static [(&'static str, &'static str)],
    /// A property, and a value that has not its format.
    pub bad_format: &'static [(&'static str, &'static str)],
    /// A required property that is taken away, and two that are spoiled beside it.
    pub several: (&'static str, [(&'static str, &'static str); 2]),
    /// Lines of JSON that are no objects.
    pub no_objects: [&'static str; 4],
}
