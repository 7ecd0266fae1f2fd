//! What changes between two versions of a contract, and whom it breaks.
//!
//! A change breaks *writers* when events that were valid no longer are (the new contract cannot read old data: not
//! backward compatible), and *readers* when columns go or change, or when events become valid that were not (the old
//! contract cannot read new data: not forward compatible).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Contract;
use super::compile::Version;
use super::explain::describe;
use super::number::Decimal;
use super::problem::{TYPES, push_token};
use super::roles::ROLES;
use super::rules::{ArrayRule, Bound, ObjectRule, Rule, RuleId, Rules, StringRule};

/// Whom a change breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Breaks {
    /// Those who read the tables, or read new events by the old contract.
    Readers,
    /// Those who write events by the old contract.
    Writers,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The event type; none for the contract as a whole.
    pub event_type: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// JSON Pointer to the property, or the name of the column or role.
    pub pointer: String,
    /// What changed, in words.
    pub change: String,
    /// Whom it breaks; empty: nobody.
    pub breaks: Vec<Breaks>,
}

/// All changes between two contracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The changes, by event type and version.
    pub changes: Vec<Change>,
    /// Whether the new contract accepts what the old one accepted.
    pub backward: bool,
    /// Whether the old contract and the readers of its columns can go on with new events.
    pub forward: bool,
    /// Both.
    pub full: bool,
}

/// What changes from one contract to another.
pub fn diff(old: &Contract, new: &Contract) -> Diff {
    let mut changes = Vec::new();
    let (before, after) = (old.compiled(), new.compiled());
    let mut push =
        |event_type: Option<&str>, version: Option<&str>, pointer: &str, change: String, breaks: &[Breaks]| {
            changes.push(Change {
                event_type: event_type.map(str::to_owned),
                version: version.map(str::to_owned),
                pointer: pointer.to_owned(),
                change,
                breaks: breaks.to_vec(),
            });
        };
    let both = [Breaks::Readers, Breaks::Writers];
    for kind in &before.types {
        let Some(now) = after.types.iter().find(|t| t.name == kind.name) else {
            let breaks: &[Breaks] = if after.wildcard.is_some() { &[Breaks::Readers] } else { &both };
            push(Some(&kind.name), None, "", "event type removed".into(), breaks);
            continue;
        };
        for version in &kind.versions {
            match now.versions.iter().find(|v| v.name == version.name) {
                None => push(Some(&kind.name), Some(&version.name), "", "version removed".into(), &both),
                Some(other) => {
                    for (pointer, change, breaks) in compare_versions(version, other) {
                        push(Some(&kind.name), Some(&version.name), &pointer, change, &breaks);
                    }
                }
            }
        }
        for version in now.versions.iter().filter(|v| !kind.versions.iter().any(|o| o.name == v.name)) {
            push(Some(&kind.name), Some(&version.name), "", "version added".into(), &[]);
        }
    }
    for kind in after.types.iter().filter(|t| !before.types.iter().any(|o| o.name == t.name)) {
        push(Some(&kind.name), None, "", "event type added".into(), &[]);
    }
    for (spec, now) in
        old.spec().types.iter().filter_map(|s| Some((s, new.spec().types.iter().find(|t| t.name == s.name)?)))
    {
        for role in ROLES {
            let words = |roles: &super::roles::Roles| roles.get(role).map_or("not set".to_owned(), describe);
            let (was, is) = (words(&spec.roles), words(&now.roles));
            if was != is {
                push(Some(&spec.name), None, role, format!("role was {was}, is {is}"), &both);
            }
        }
    }
    for column in &before.columns {
        match after.columns.iter().find(|c| c.name == column.name) {
            None => push(None, None, &column.name, "column removed".into(), &[Breaks::Readers]),
            Some(now) if now.kind != column.kind => {
                let change = format!("column was {}, is {}", column.kind.describe(), now.kind.describe());
                push(None, None, &column.name, change, &[Breaks::Readers]);
            }
            Some(_) => {}
        }
    }
    for column in after.columns.iter().filter(|c| !before.columns.iter().any(|o| o.name == c.name)) {
        push(None, None, &column.name, format!("column added: {}", column.kind.describe()), &[]);
    }
    let backward = !changes.iter().any(|c| c.breaks.contains(&Breaks::Writers));
    let forward = !changes.iter().any(|c| c.breaks.contains(&Breaks::Readers));
    Diff { changes, backward, forward, full: backward && forward }
}

type Line = (String, String, Vec<Breaks>);

fn compare_versions(old: &Version, new: &Version) -> Vec<Line> {
    let mut comparison = Comparison { old: &old.rules, new: &new.rules, seen: HashSet::new(), lines: Vec::new() };
    comparison.rule(old.rules.root, new.rules.root, "");
    let mut lines = comparison.lines;
    // What the fallback judges cannot be compared keyword by keyword: the same text is the same, another may be anything.
    let keywords = |v: &Version| {
        let value = v.file.root.to_value();
        let of = |r: &super::rules::Reason| (r.pointer.clone(), r.what.clone(), value.pointer(&r.pointer).cloned());
        v.rules.fallback.iter().map(of).collect::<Vec<_>>()
    };
    let (was, is) = (keywords(old), keywords(new));
    for (pointer, what, value) in &was {
        match is.iter().find(|(p, ..)| p == pointer) {
            Some((_, _, now)) if now == value => {}
            Some(_) => lines.push((pointer.clone(), format!("{what} changed"), vec![Breaks::Readers, Breaks::Writers])),
            None => lines.push((pointer.clone(), format!("{what} removed"), vec![Breaks::Readers])),
        }
    }
    for (pointer, what, _) in is.iter().filter(|(p, ..)| !was.iter().any(|(o, ..)| o == p)) {
        lines.push((pointer.clone(), format!("{what} added"), vec![Breaks::Writers]));
    }
    lines
}

struct Comparison<'a> {
    old: &'a Rules,
    new: &'a Rules,
    seen: HashSet<(RuleId, RuleId)>,
    lines: Vec<Line>,
}

impl Comparison<'_> {
    fn narrower(&mut self, pointer: &str, change: String) {
        self.lines.push((pointer.to_owned(), change, vec![Breaks::Writers]));
    }

    fn wider(&mut self, pointer: &str, change: String) {
        self.lines.push((pointer.to_owned(), change, vec![Breaks::Readers]));
    }

    fn other(&mut self, pointer: &str, change: String) {
        self.lines.push((pointer.to_owned(), change, vec![Breaks::Readers, Breaks::Writers]));
    }

    fn rule(&mut self, old: RuleId, new: RuleId, pointer: &str) {
        if !self.seen.insert((old, new)) {
            return;
        }
        let (a, b) = (self.old.get(old), self.new.get(new));
        match (a.never, b.never) {
            (false, true) => return self.narrower(pointer, "nothing is allowed here any more".into()),
            (true, false) => return self.wider(pointer, "is allowed now".into()),
            _ => {}
        }
        let names = |bits: u8| {
            let listed: Vec<&str> = (0..7).filter(|i| bits & (1 << i) != 0).map(|i| TYPES[i]).collect();
            listed.join(", ")
        };
        let (gone, come) = (a.types & !b.types, b.types & !a.types);
        if gone != 0 {
            self.narrower(pointer, format!("type no longer lets in {}", names(gone)));
        }
        if come != 0 {
            self.wider(pointer, format!("type lets in {} too", names(come)));
        }
        self.allowed(a, b, pointer);
        self.bounds(&a.number, &b.number, pointer);
        self.strings(a.string.as_deref(), b.string.as_deref(), pointer);
        self.arrays(a.array.as_deref(), b.array.as_deref(), pointer);
        self.objects(a.object.as_deref(), b.object.as_deref(), pointer);
        match (a.target, b.target) {
            (Some(a), Some(b)) => self.rule(a, b, pointer),
            (None, Some(_)) => self.narrower(pointer, "$ref added".into()),
            (Some(_), None) => self.wider(pointer, "$ref removed".into()),
            (None, None) => {}
        }
    }

    fn allowed(&mut self, a: &Rule, b: &Rule, pointer: &str) {
        let values = |rule: &Rule| {
            rule.allowed.iter().flat_map(|all| all.values.iter().map(ToString::to_string)).collect::<Vec<_>>()
        };
        let (was, is) = (values(a), values(b));
        match (a.allowed.is_empty(), b.allowed.is_empty()) {
            (true, true) => {}
            (true, false) => self.narrower(pointer, format!("only {} is allowed now", is.join(", "))),
            (false, true) => self.wider(pointer, "any value is allowed now".into()),
            (false, false) => {
                let missing = |from: &[String], of: &[String]| {
                    from.iter().filter(|v| !of.contains(v)).cloned().collect::<Vec<_>>()
                };
                let (gone, come) = (missing(&was, &is), missing(&is, &was));
                if !gone.is_empty() {
                    self.narrower(pointer, format!("no longer allowed: {}", gone.join(", ")));
                }
                if !come.is_empty() {
                    self.wider(pointer, format!("allowed too: {}", come.join(", ")));
                }
            }
        }
    }

    fn bounds(&mut self, a: &[Bound], b: &[Bound], pointer: &str) {
        for keyword in ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"] {
            let find = |bounds: &[Bound]| bounds.iter().find(|b| b.keyword == keyword).map(|b| b.limit.clone());
            let (was, is) = match (find(a), find(b)) {
                (None, None) => continue,
                (None, Some(is)) => {
                    self.narrower(pointer, format!("{keyword} {is} added"));
                    continue;
                }
                (Some(was), None) => {
                    self.wider(pointer, format!("{keyword} {was} removed"));
                    continue;
                }
                (Some(was), Some(is)) => (was, is),
            };
            let (x, y) = (Decimal::parse(was.as_bytes()), Decimal::parse(is.as_bytes()));
            let change = format!("{keyword} was {was}, is {is}");
            if x == y {
                continue;
            }
            if keyword == "multipleOf" {
                match (x.is_multiple_of(&y), y.is_multiple_of(&x)) {
                    (Some(true), _) => self.wider(pointer, change),
                    (_, Some(true)) => self.narrower(pointer, change),
                    _ => self.other(pointer, change),
                }
            } else if (y > x) == matches!(keyword, "minimum" | "exclusiveMinimum") {
                self.narrower(pointer, change);
            } else {
                self.wider(pointer, change);
            }
        }
    }

    fn count(&mut self, keyword: &str, was: Option<u64>, is: Option<u64>, pointer: &str) {
        let low = keyword.starts_with("min");
        let open = if low { 0 } else { u64::MAX };
        let (x, y) = (was.unwrap_or(open), is.unwrap_or(open));
        let words = |n: Option<u64>| n.map_or("not set".to_owned(), |n| n.to_string());
        let change = format!("{keyword} was {}, is {}", words(was), words(is));
        if x != y {
            if (y > x) == low { self.narrower(pointer, change) } else { self.wider(pointer, change) }
        }
    }

    fn strings(&mut self, a: Option<&StringRule>, b: Option<&StringRule>, pointer: &str) {
        let none = StringRule::default();
        let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
        self.count("minLength", a.min, b.min, pointer);
        self.count("maxLength", a.max, b.max, pointer);
        let text = |p: &StringRule| {
            [p.pattern.as_ref().map(|p| p.text.to_string()), p.format.as_ref().map(|f| f.name.to_owned())]
        };
        for (keyword, (was, is)) in ["pattern", "format"].into_iter().zip(text(a).into_iter().zip(text(b))) {
            match (was, is) {
                (None, Some(is)) => self.narrower(pointer, format!("{keyword} {is} added")),
                (Some(was), None) => self.wider(pointer, format!("{keyword} {was} removed")),
                (Some(was), Some(is)) if was != is => self.other(pointer, format!("{keyword} was {was}, is {is}")),
                _ => {}
            }
        }
    }

    fn arrays(&mut self, a: Option<&ArrayRule>, b: Option<&ArrayRule>, pointer: &str) {
        let none = ArrayRule::default();
        let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
        self.count("minItems", a.min, b.min, pointer);
        self.count("maxItems", a.max, b.max, pointer);
        match (a.unique, b.unique) {
            (false, true) => self.narrower(pointer, "uniqueItems added".into()),
            (true, false) => self.wider(pointer, "uniqueItems removed".into()),
            _ => {}
        }
        for i in 0..a.prefix.len().max(b.prefix.len()) {
            let item = |rule: &ArrayRule| rule.prefix.get(i).copied().or(rule.items);
            self.both(item(a), item(b), &format!("{pointer}/{i}"));
        }
        self.both(a.items, b.items, &format!("{pointer}/*"));
    }

    /// Two schemas, either of which may not be there.
    fn both(&mut self, a: Option<RuleId>, b: Option<RuleId>, pointer: &str) {
        match (a, b) {
            (Some(a), Some(b)) => self.rule(a, b, pointer),
            (None, Some(b)) if !self.new.get(b).is_open() => self.narrower(pointer, "has a schema now".into()),
            (Some(a), None) if !self.old.get(a).is_open() => self.wider(pointer, "has no schema any more".into()),
            _ => {}
        }
    }

    fn objects(&mut self, a: Option<&ObjectRule>, b: Option<&ObjectRule>, pointer: &str) {
        let none = ObjectRule::default();
        let (a, b) = (a.unwrap_or(&none), b.unwrap_or(&none));
        let at = |name: &str| {
            let mut at = pointer.to_owned();
            push_token(&mut at, name);
            at
        };
        self.count("minProperties", a.min, b.min, pointer);
        self.count("maxProperties", a.max, b.max, pointer);
        for name in b.required.iter().filter(|n| !a.required.contains(n)) {
            self.narrower(&at(name), "is required now".into());
        }
        for name in a.required.iter().filter(|n| !b.required.contains(n)) {
            self.wider(&at(name), "is no longer required".into());
        }
        if a.dependent != b.dependent {
            self.other(pointer, "dependentRequired changed".into());
        }
        match (a.closed, b.closed) {
            (false, true) => self.narrower(pointer, "unknown properties are refused now".into()),
            (true, false) => self.wider(pointer, "unknown properties are let in now".into()),
            _ => self.both(a.additional, b.additional, &format!("{pointer}/*")),
        }
        for (name, rule) in &a.properties {
            match b.property(name) {
                Some(other) => self.rule(*rule, other, &at(name)),
                None if b.closed => self.narrower(&at(name), "property removed".into()),
                None => self.wider(&at(name), "property no longer declared".into()),
            }
        }
        for (name, _) in b.properties.iter().filter(|(n, _)| a.property(n).is_none()) {
            if a.closed {
                self.wider(&at(name), "property added".into());
            } else {
                // Events that had it already, with another type, would be refused; that is rare enough not to count.
                self.lines.push((at(name), "property declared".into(), Vec::new()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn contract(schema: &str) -> Contract {
        let text = format!(
            r#"{{"name":"d","roles":{{"event_type":"/t","event_time":"/e","idempotency_key":"/i"}},"events":{{"A":{{"v1":{schema}}}}}}}"#
        );
        Contract::from_text(&text, Path::new("d.json")).unwrap()
    }

    fn words(old: &str, new: &str) -> (Vec<String>, bool, bool) {
        let diff = diff(&contract(old), &contract(new));
        let lines = diff.changes.iter().map(|c| format!("{} {}", c.pointer, c.change)).collect();
        (lines, diff.backward, diff.forward)
    }

    #[test]
    fn nothing_changes_between_equal_contracts() {
        let (lines, backward, forward) = words("{}", "{}");
        assert!(lines.is_empty() && backward && forward);
        let shop = crate::contract::judge_tests::shop();
        assert!(diff(&shop, &shop).full);
    }

    #[test]
    fn narrower_breaks_writers_and_wider_breaks_readers() {
        let cases = [
            (
                r#"{"properties":{"a":{"type":"string"}}}"#,
                r#"{"properties":{"a":{"type":"string"}},"required":["a"]}"#,
                true,
                false,
            ),
            (
                r#"{"properties":{"a":{"type":"string"}}}"#,
                r#"{"properties":{"a":{"type":["string","null"]}}}"#,
                false,
                true,
            ),
            (r#"{"properties":{"a":{"enum":["x"]}}}"#, r#"{"properties":{"a":{"enum":["x","y"]}}}"#, false, true),
            (r#"{"properties":{"a":{"minimum":1}}}"#, r#"{"properties":{"a":{"minimum":2}}}"#, true, false),
            (r#"{"properties":{"a":{"multipleOf":2}}}"#, r#"{"properties":{"a":{"multipleOf":1}}}"#, false, true),
            (r#"{"properties":{"a":{"maxLength":5}}}"#, r#"{"properties":{"a":{}}}"#, false, true),
            (r#"{"properties":{"a":{"pattern":"a"}}}"#, r#"{"properties":{"a":{"pattern":"b"}}}"#, true, true),
            (
                r#"{"properties":{"a":{"type":"object"}}}"#,
                r#"{"properties":{"a":{"type":"object","additionalProperties":false}}}"#,
                true,
                false,
            ),
            (r#"{"anyOf":[{}]}"#, r#"{"anyOf":[true]}"#, true, true),
            (r#"{}"#, r#"{"properties":{"n":{"type":"integer"}}}"#, false, false),
            (r#"{"properties":{"n":{"type":"integer"}}}"#, r#"{"properties":{"n":{"type":"number"}}}"#, false, true),
        ];
        for (old, new, writers, readers) in cases {
            let (lines, backward, forward) = words(old, new);
            assert!(!lines.is_empty());
            assert_eq!((!backward, !forward), (writers, readers), "{old} -> {new}: {lines:?}");
        }
    }

    #[test]
    fn types_that_go_break_both() {
        let old = contract("{}");
        let text = old.text().replace("\"A\"", "\"B\"");
        let new = Contract::from_text(&text, Path::new("d.json")).unwrap();
        let diff = diff(&old, &new);
        assert!(!diff.backward && !diff.forward);
        assert_eq!(
            diff.changes.iter().map(|c| c.change.as_str()).collect::<Vec<_>>(),
            ["event type removed", "event type added"]
        );
    }
}
