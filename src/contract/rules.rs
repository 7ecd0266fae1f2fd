//! A JSON Schema compiled into flat rules, for the keywords that the fast path and the exact one know. Whatever else a
//! schema says is listed as a reason to fall back.

use std::collections::HashMap;

use serde_json::Value;

use super::formats::{Format, KNOWN};
use super::keywords::{ANNOTATIONS, DIALECT, FALLBACK, KEYWORDS, hint, way};
use super::number::{Decimal, small_decimal};
use super::pattern::Pattern;
use super::problem::{TYPES, push_token};
use super::source::{Data, Node};

/// The place of a rule in its list.
pub type RuleId = u32;

/// Every type.
pub const ANY: u8 = 127;

/// A schema.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// The rule of the whole document.
    pub root: RuleId,
    /// Why the `jsonschema` crate has to judge instead; empty: it has not to.
    pub fallback: Vec<Reason>,
    /// Keywords and formats that say nothing, mostly mistyped ones.
    pub ignored: Vec<Reason>,
}

/// A keyword that the fast path does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// JSON Pointer into the schema.
    pub pointer: String,
    /// The line of the file.
    pub line: usize,
    /// What it is.
    pub what: String,
}

/// What a schema says of one value.
#[derive(Debug)]
pub struct Rule {
    /// The bits of the types that are let in.
    pub types: u8,
    /// The bits of the types as the schema names them, for messages.
    pub named: u8,
    /// A schema that is just `false`.
    pub never: bool,
    /// `enum` and `const`.
    pub allowed: Vec<Allowed>,
    /// What it says of numbers.
    pub number: Vec<Bound>,
    /// What it says of strings.
    pub string: Option<Box<StringRule>>,
    /// What it says of arrays.
    pub array: Option<Box<ArrayRule>>,
    /// What it says of objects.
    pub object: Option<Box<ObjectRule>>,
    /// `$ref` with other keywords beside it.
    pub target: Option<RuleId>,
}

/// The values of an `enum`, or that of a `const`.
#[derive(Debug)]
pub struct Allowed {
    /// The values.
    pub values: Vec<Value>,
    /// Whether it is a `const`.
    pub constant: bool,
}

/// A bound of a number.
#[derive(Debug)]
pub struct Bound {
    /// The keyword.
    pub keyword: &'static str,
    /// What it asks.
    pub test: Test,
    /// The limit, as JSON text.
    pub limit: String,
    /// The limit as digits and how many of them stand after the point, where it is small.
    pub small: Option<(i64, u32)>,
}

/// What a bound asks of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// `minimum`.
    AtLeast,
    /// `maximum`.
    AtMost,
    /// `exclusiveMinimum`.
    Above,
    /// `exclusiveMaximum`.
    Below,
    /// `multipleOf`.
    MultipleOf,
}

/// What a schema says of strings.
#[derive(Debug, Default)]
pub struct StringRule {
    /// `minLength`.
    pub min: Option<u64>,
    /// `maxLength`.
    pub max: Option<u64>,
    /// `pattern`.
    pub pattern: Option<Pattern>,
    /// `format`.
    pub format: Option<Format>,
}

/// What a schema says of arrays.
#[derive(Debug, Default)]
pub struct ArrayRule {
    /// `prefixItems`.
    pub prefix: Vec<RuleId>,
    /// `items`.
    pub items: Option<RuleId>,
    /// `minItems`.
    pub min: Option<u64>,
    /// `maxItems`.
    pub max: Option<u64>,
    /// `uniqueItems`.
    pub unique: bool,
}

/// What a schema says of objects.
#[derive(Debug, Default)]
pub struct ObjectRule {
    /// `properties`.
    pub properties: Vec<(String, RuleId)>,
    /// `required`.
    pub required: Vec<String>,
    /// `additionalProperties`: a schema; none when nothing is said.
    pub additional: Option<RuleId>,
    /// `additionalProperties: false`.
    pub closed: bool,
    /// `minProperties`.
    pub min: Option<u64>,
    /// `maxProperties`.
    pub max: Option<u64>,
    /// `dependentRequired`.
    pub dependent: Vec<(String, Vec<String>)>,
}

impl ObjectRule {
    /// The rule of a declared property.
    pub fn property(&self, name: &str) -> Option<RuleId> {
        self.properties.iter().find(|(n, _)| n == name).map(|(_, rule)| *rule)
    }
}

impl Rule {
    fn any() -> Self {
        Self {
            types: ANY,
            named: ANY,
            never: false,
            allowed: Vec::new(),
            number: Vec::new(),
            string: None,
            array: None,
            object: None,
            target: None,
        }
    }

    /// Whether everything is let in.
    pub fn is_open(&self) -> bool {
        self.types == ANY
            && !self.never
            && self.allowed.is_empty()
            && self.number.is_empty()
            && self.string.is_none()
            && self.array.is_none()
            && self.object.is_none()
            && self.target.is_none()
    }
}

impl Rules {
    /// A rule.
    #[inline(always)]
    pub fn get(&self, id: RuleId) -> &Rule {
        &self.rules[id as usize]
    }

    /// Compiles a schema that the metaschema has found correct; with `formats`, `format` is asserted.
    ///
    /// # Errors
    /// The line and the reason of what no path can take.
    pub fn compile(root: &Node, formats: bool) -> Result<Self, (usize, String)> {
        let mut compiler = Compiler {
            root,
            formats,
            rules: Vec::new(),
            known: HashMap::new(),
            fallback: Vec::new(),
            ignored: Vec::new(),
        };
        let id = compiler.schema(root, &mut String::new())?;
        // A `$ref` beside other keywords that leads back to itself without going down never ends.
        for rule in &compiler.rules {
            let (mut at, mut hops) = (rule.target, 0);
            while let Some(target) = at {
                hops += 1;
                if hops > compiler.rules.len() {
                    return Err((root.line, "a $ref of this schema leads round in a circle".into()));
                }
                at = compiler.rules[target as usize].target;
            }
        }
        let mut rules =
            Self { rules: compiler.rules, root: id, fallback: compiler.fallback, ignored: compiler.ignored };
        rules.fallback.sort_by(|a, b| (a.line, &a.pointer).cmp(&(b.line, &b.pointer)));
        rules.fallback.dedup();
        Ok(rules)
    }
}

struct Compiler<'a> {
    root: &'a Node,
    formats: bool,
    rules: Vec<Rule>,
    known: HashMap<*const Node, RuleId>,
    fallback: Vec<Reason>,
    ignored: Vec<Reason>,
}

type Compiled<T> = Result<T, (usize, String)>;

impl<'a> Compiler<'a> {
    fn schema(&mut self, node: &'a Node, pointer: &mut String) -> Compiled<RuleId> {
        // A schema that is nothing but a `$ref` is what it leads to.
        let mut at = node;
        let mut hops = 0;
        while let Some(target) = self.plain_reference(at)? {
            hops += 1;
            if hops > 100 {
                return Err((node.line, "this $ref leads round in a circle".into()));
            }
            at = target;
        }
        if let Some(id) = self.known.get(&std::ptr::from_ref(at)) {
            return Ok(*id);
        }
        let id = self.rules.len() as RuleId;
        self.known.insert(std::ptr::from_ref(at), id);
        self.rules.push(Rule::any());
        let mut rule = Rule::any();
        if let Some(base) = at.get("$id").filter(|_| !std::ptr::eq(at, self.root)) {
            // References in it are relative to another base: only the crate can follow them.
            self.fall_back(pointer, base, "$id inside a schema".into());
            return Ok(id);
        }
        match &at.data {
            Data::Bool(true) => {}
            Data::Bool(false) => rule.never = true,
            Data::Object(entries) => {
                for (key, value) in entries {
                    let before = pointer.len();
                    push_token(pointer, &key.text);
                    let done = self.keyword(&mut rule, &key.text, value, pointer);
                    pointer.truncate(before);
                    done?;
                }
            }
            _ => return Err((at.line, "a schema is a mapping, true or false".into())),
        }
        self.rules[id as usize] = rule;
        Ok(id)
    }

    /// What a schema of just a `$ref` (and annotations) leads to.
    fn plain_reference(&mut self, node: &'a Node) -> Compiled<Option<&'a Node>> {
        let Some(reference) = node.get("$ref") else { return Ok(None) };
        let annotation = |key: &str| {
            matches!(key, "$ref" | "title" | "description" | "$comment" | "examples" | "default" | "deprecated")
        };
        if !node.entries().iter().all(|(k, _)| annotation(&k.text) || k.text.starts_with("x-")) {
            return Ok(None);
        }
        match reference.as_str().and_then(|r| r.strip_prefix('#')) {
            Some(fragment) if fragment.is_empty() || fragment.starts_with('/') => {
                self.resolve(fragment, reference.line)
            }
            _ => Ok(None),
        }
    }

    /// The schema at a local pointer; none when only the crate can tell (an `$id` on the way moves the base).
    fn resolve(&mut self, fragment: &str, line: usize) -> Compiled<Option<&'a Node>> {
        let nowhere = || (line, format!("$ref: nothing stands at '#{fragment}' in this schema"));
        if !Format::of("uri-reference").is_some_and(|f| f.accepts(&format!("#{fragment}"))) {
            return Err((line, format!("$ref: '#{fragment}' is no URI reference: percent-encode what is not ASCII")));
        }
        let way = way(self.root, fragment).ok_or_else(nowhere)?;
        let Some((at, before)) = way.split_last() else { return Ok(None) };
        if before.iter().skip(1).any(|node| node.get("$id").is_some()) {
            return Ok(None);
        }
        Ok(if at.get("$id").is_some() && !std::ptr::eq(*at, self.root) { None } else { Some(at) })
    }

    fn fall_back(&mut self, pointer: &str, node: &Node, what: String) {
        self.fallback.push(Reason { pointer: pointer.to_owned(), line: node.line, what });
    }

    fn keyword(&mut self, rule: &mut Rule, key: &str, value: &'a Node, pointer: &mut String) -> Compiled<()> {
        match key {
            "type" => {
                let names = value.as_str().into_iter().chain(value.items().iter().filter_map(Node::as_str));
                rule.named = names.filter_map(|n| TYPES.iter().position(|t| *t == n)).fold(0, |set, i| set | 1 << i);
                rule.types = if rule.named & 8 != 0 { rule.named | 4 } else { rule.named };
            }
            "enum" => {
                let values = value.items().iter().map(Node::to_value).collect();
                rule.allowed.push(Allowed { values, constant: false });
            }
            "const" => rule.allowed.push(Allowed { values: vec![value.to_value()], constant: true }),
            "minimum" => self.bound(rule, "minimum", value),
            "maximum" => self.bound(rule, "maximum", value),
            "exclusiveMinimum" => self.bound(rule, "exclusiveMinimum", value),
            "exclusiveMaximum" => self.bound(rule, "exclusiveMaximum", value),
            "multipleOf" => {
                if let Data::Number(text) = &value.data
                    && Decimal::parse(text.as_bytes()).mantissa().is_none()
                {
                    self.fall_back(pointer, value, "multipleOf of more than 19 digits".into());
                }
                self.bound(rule, "multipleOf", value);
            }
            "minLength" => rule.string.get_or_insert_default().min = count(value),
            "maxLength" => rule.string.get_or_insert_default().max = count(value),
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                match Pattern::linear(text) {
                    Ok(pattern) => rule.string.get_or_insert_default().pattern = Some(pattern),
                    Err(reason) => match Pattern::any(text) {
                        Some(_) => self.fall_back(pointer, value, format!("pattern {text}: {reason}")),
                        None => {
                            return Err((value.line, format!("pattern {text} is no regular expression of ECMA-262")));
                        }
                    },
                }
            }
            "format" if self.formats => {
                let name = value.as_str().unwrap_or_default();
                match Format::of(name) {
                    Some(format) => rule.string.get_or_insert_default().format = Some(format),
                    None => self.ignore(pointer, value, format!("format {name}{}", hint(name, KNOWN))),
                }
            }
            "items" => rule.array.get_or_insert_default().items = Some(self.schema(value, pointer)?),
            "prefixItems" => {
                for (i, item) in value.items().iter().enumerate() {
                    let id = self.below(item, &i.to_string(), pointer)?;
                    rule.array.get_or_insert_default().prefix.push(id);
                }
            }
            "minItems" => rule.array.get_or_insert_default().min = count(value),
            "maxItems" => rule.array.get_or_insert_default().max = count(value),
            "uniqueItems" if value.data == Data::Bool(true) => rule.array.get_or_insert_default().unique = true,
            "properties" => {
                for (name, property) in value.entries() {
                    let id = self.below(property, &name.text, pointer)?;
                    rule.object.get_or_insert_default().properties.push((name.text.clone(), id));
                }
            }
            "additionalProperties" => {
                let object = rule.object.get_or_insert_default();
                if value.data == Data::Bool(false) {
                    object.closed = true;
                } else if value.data != Data::Bool(true) {
                    let id = self.schema(value, pointer)?;
                    rule.object.get_or_insert_default().additional = Some(id);
                }
            }
            "required" => rule.object.get_or_insert_default().required = strings(value),
            "dependentRequired" => {
                let dependent = value.entries().iter().map(|(k, v)| (k.text.clone(), strings(v)));
                rule.object.get_or_insert_default().dependent = dependent.collect();
            }
            "minProperties" => rule.object.get_or_insert_default().min = count(value),
            "maxProperties" => rule.object.get_or_insert_default().max = count(value),
            "$ref" => return self.reference(rule, value, pointer),
            "$schema" if value.as_str().is_none_or(|s| s.trim_end_matches('#') != DIALECT) => {
                self.fall_back(pointer, value, "$schema of another dialect".into());
            }
            _ if FALLBACK.contains(&key) => self.fall_back(pointer, value, key.to_owned()),
            _ if ANNOTATIONS.contains(&key) || KEYWORDS.contains(&key) || key.starts_with("x-") => {}
            _ => self.ignore(pointer, value, format!("{key}{}", hint(key, KEYWORDS))),
        }
        Ok(())
    }

    fn ignore(&mut self, pointer: &str, node: &Node, what: String) {
        self.ignored.push(Reason { pointer: pointer.to_owned(), line: node.line, what });
    }

    fn below(&mut self, node: &'a Node, token: &str, pointer: &mut String) -> Compiled<RuleId> {
        let before = pointer.len();
        push_token(pointer, token);
        let id = self.schema(node, pointer);
        pointer.truncate(before);
        id
    }

    fn reference(&mut self, rule: &mut Rule, value: &'a Node, pointer: &mut String) -> Compiled<()> {
        let text = value.as_str().unwrap_or_default();
        let target = match text.strip_prefix('#') {
            Some(fragment) if fragment.is_empty() || fragment.starts_with('/') => self.resolve(fragment, value.line)?,
            _ => None,
        };
        match target {
            Some(target) => rule.target = Some(self.schema(target, pointer)?),
            None => self.fall_back(pointer, value, format!("$ref {text}")),
        }
        Ok(())
    }

    fn bound(&mut self, rule: &mut Rule, keyword: &'static str, value: &Node) {
        if let Data::Number(text) = &value.data {
            let small = small_decimal(text.as_bytes());
            let test = match keyword {
                "minimum" => Test::AtLeast,
                "maximum" => Test::AtMost,
                "exclusiveMinimum" => Test::Above,
                "exclusiveMaximum" => Test::Below,
                _ => Test::MultipleOf,
            };
            rule.number.push(Bound { keyword, test, limit: text.clone(), small });
        }
    }
}

fn count(value: &Node) -> Option<u64> {
    match &value.data {
        Data::Number(text) => {
            let number = Decimal::parse(text.as_bytes());
            Some(number.to_i64().map_or(u64::MAX, |n| n.max(0) as u64))
        }
        _ => None,
    }
}

fn strings(value: &Node) -> Vec<String> {
    value.items().iter().filter_map(Node::as_str).map(str::to_owned).collect()
}
