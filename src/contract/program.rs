//! What the fast path follows: a schema, its columns and the roles in it, joined into one tree.

use std::collections::HashMap;

use super::columns::{ColumnType, Pii, Shape};
use super::quick::{Literal, Quick};
use super::rules::{ArrayRule, ObjectRule, Rule, RuleId, Rules};
use super::text::OPEN;

/// The place of a node in a program.
pub type NodeId = u32;

/// A schema with its columns and roles, for the fast path.
#[derive(Debug)]
pub struct Program {
    nodes: Vec<Node>,
    /// The node of the whole event.
    pub root: NodeId,
    /// How many guesses about the order of keys there are.
    pub guesses: usize,
}

/// Where a scalar goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// Nowhere.
    Nothing,
    /// Into a column of this type.
    Boolean,
    /// Into a column of this type.
    Int64,
    /// Into a column of this type.
    Float64,
    /// Into a column of this type.
    Decimal(u8, u8),
    /// Into a column of this type.
    Text,
    /// Into a column of this type.
    Timestamp,
    /// Into a column of JSON text.
    Json,
    /// Hashed.
    Hash,
    /// As stars.
    Mask,
    /// Its column is a struct or a list, and it is no scalar.
    Nested,
}

/// What the fast path knows of one value.
#[derive(Debug)]
pub struct Node {
    /// What the schema says.
    pub rule: RuleId,
    /// The types that are let in.
    pub types: u8,
    /// Whether every value has to go through a document.
    pub general: bool,
    /// Where a scalar goes.
    pub leaf: Leaf,
    /// What is taken without detours.
    pub quick: Quick,
    /// The bit by which a column of text remembers that a value has passed what is said here; none: it is asked each time.
    pub check: u64,
    /// The role that is read here.
    pub tap: Option<u8>,
    /// The roles that are read below, with their way from here.
    pub below: Vec<(Vec<String>, u8)>,
    /// How an object is read; through a document when none.
    pub object: Option<Object>,
    /// How an array is read; through a document when none.
    pub array: Option<Array>,
    /// The columns, for what goes through a document.
    pub shape: Option<Shape>,
}

/// How the fast path reads an object.
#[derive(Debug)]
pub struct Object {
    /// Every property that the schema or a role names.
    pub keys: Vec<Key>,
    /// Places in `keys` by [`hash`] of the name.
    table: Vec<u8>,
    /// The bits of the keys that have to be there.
    pub required: u128,
    /// When this key is there, those have to be.
    pub dependent: Vec<(u8, u128)>,
    /// Fewest and most properties.
    pub count: Option<(u64, u64)>,
    /// What is said of properties that are not declared.
    pub additional: Option<NodeId>,
    /// Whether no other properties may be there.
    pub closed: bool,
    /// Whether properties that are not declared are kept in `_extra`.
    pub extra: bool,
    /// Its first guess.
    pub guess: usize,
}

/// A property that the fast path knows by name.
#[derive(Debug)]
pub struct Key {
    /// The name in its quotes and the colon after it, as in the text without white space.
    pub quoted: Literal,
    /// Its place among the keys.
    pub place: usize,
    /// The bit of that place.
    pub bit: u128,
    /// What is known of the value.
    pub node: NodeId,
    /// Its column; `usize::MAX`: none.
    pub slot: usize,
    /// Whether the value goes to `_extra`, because the schema does not declare it.
    pub extra: bool,
    /// Whether it may not be there.
    pub forbidden: bool,
    /// Whether it is one of both.
    pub odd: bool,
}

/// How the fast path reads an array.
#[derive(Debug)]
pub struct Array {
    /// The first items.
    pub prefix: Vec<NodeId>,
    /// The items after them.
    pub rest: NodeId,
    /// Fewest and most items.
    pub count: Option<(u64, u64)>,
}

impl Key {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        let quoted = self.quoted.bytes();
        &quoted[1..quoted.len() - 2]
    }
}

/// As many keys as there are bits.
const MOST_KEYS: usize = 128;

#[inline(always)]
fn hash(name: &[u8], mask: usize) -> usize {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    let middle = name[name.len() / 2];
    let mixed = (*first as usize)
        .wrapping_mul(0x9e37)
        .wrapping_add((*last as usize).wrapping_mul(0x85eb))
        .wrapping_add((middle as usize).wrapping_mul(0xc2b3))
        .wrapping_add(name.len().wrapping_mul(0x27d5));
    (mixed ^ (mixed >> 7)) & mask
}

impl Object {
    /// The key of this name.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        let mask = self.table.len() - 1;
        let mut at = hash(name, mask);
        loop {
            let key = self.table[at];
            if key == u8::MAX {
                return None;
            }
            if self.keys[key as usize].name() == name {
                return Some(key as usize);
            }
            at = (at + 1) & mask;
        }
    }

    fn index(&mut self) {
        let size = (self.keys.len() * 4).next_power_of_two().max(4);
        self.table = vec![u8::MAX; size];
        for (place, key) in self.keys.iter().enumerate() {
            let mut at = hash(key.name(), size - 1);
            while self.table[at] != u8::MAX {
                at = (at + 1) & (size - 1);
            }
            self.table[at] = place as u8;
        }
    }
}

impl Program {
    /// Joins a schema with its columns (none: it is only to be checked) and the properties that roles read.
    pub fn new(rules: &Rules, shape: Option<&Shape>, taps: &[Vec<String>]) -> Self {
        let mut joiner = Joiner { rules, nodes: Vec::new(), guesses: 0, bare: HashMap::new() };
        let below = taps.iter().enumerate().map(|(at, tokens)| (tokens.clone(), at as u8)).collect();
        let root = joiner.node(Some(rules.root), shape, below);
        Self { nodes: joiner.nodes, root, guesses: joiner.guesses }
    }

    /// Gives each top-level column of text the bits of its checks. `known` holds, for each column, what earlier programs
    /// ask of its values: what is the same has the same bit.
    pub fn number_checks(&mut self, rules: &Rules, known: &mut [Vec<String>]) {
        let Some(object) = &self.nodes[self.root as usize].object else { return };
        let columns: Vec<(NodeId, usize)> =
            object.keys.iter().filter_map(|k| (k.slot != usize::MAX).then_some((k.node, k.slot))).collect();
        for (id, slot) in columns {
            let node = &mut self.nodes[id as usize];
            if node.leaf != Leaf::Text || node.rule == RuleId::MAX || node.general {
                continue;
            }
            let rule = rules.get(node.rule);
            if rule.string.is_none() && rule.allowed.is_empty() {
                continue;
            }
            let asked = format!("{:?} {:?}", rule.string, rule.allowed);
            let Some(known) = known.get_mut(slot) else { continue };
            let at = known.iter().position(|k| *k == asked).unwrap_or_else(|| {
                known.push(asked);
                known.len() - 1
            });
            node.check = if at < OPEN.ilog2() as usize { 1 << at } else { 0 };
        }
    }

    /// A node.
    #[inline(always)]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }
}

struct Joiner<'a> {
    rules: &'a Rules,
    nodes: Vec<Node>,
    guesses: usize,
    /// The nodes of rules without columns and roles, which may lead back to themselves.
    bare: HashMap<Option<RuleId>, NodeId>,
}

type Below = Vec<(Vec<String>, u8)>;

impl Joiner<'_> {
    fn node(&mut self, rule: Option<RuleId>, shape: Option<&Shape>, mut below: Below) -> NodeId {
        let bare = shape.is_none() && below.is_empty();
        if bare && let Some(id) = self.bare.get(&rule) {
            return *id;
        }
        let id = self.nodes.len() as NodeId;
        if bare {
            self.bare.insert(rule, id);
        }
        let tap = below.iter().position(|(tokens, _)| tokens.is_empty()).map(|at| below.swap_remove(at).1);
        let leaf = leaf(shape);
        let known = rule.map(|r| self.rules.get(r));
        let general = known.is_some_and(|r| r.target.is_some() || r.never);
        self.nodes.push(Node {
            rule: rule.unwrap_or(RuleId::MAX),
            types: known.map_or(super::rules::ANY, |r| r.types),
            general,
            leaf,
            quick: if general { Quick::Nothing } else { Quick::of(known, leaf) },
            check: if known.is_none_or(|r| r.string.is_none() && r.allowed.is_empty()) { OPEN } else { 0 },
            tap,
            below: below.clone(),
            object: None,
            array: None,
            shape: shape.cloned(),
        });
        let streams = known.is_some_and(|r| !self.nodes[id as usize].general && r.allowed.is_empty());
        // An object or array without a column of its own is worth a document only when nothing is said of it.
        let nested =
            matches!(leaf, Leaf::Nested) || matches!(leaf, Leaf::Nothing) && shape.is_none_or(|s| !has_columns(s));
        if let (true, true, Some(known)) = (streams, nested, known) {
            self.nodes[id as usize].object = self.object(known, shape, &below);
            self.nodes[id as usize].array = self.array(known, shape, &below);
        }
        id
    }

    fn object(&mut self, rule: &Rule, shape: Option<&Shape>, below: &Below) -> Option<Object> {
        let empty = ObjectRule::default();
        let said = match (&rule.object, shape) {
            (Some(said), _) => said,
            (None, Some(Shape::Struct(_))) => &empty,
            _ => return None,
        };
        let properties = match shape {
            Some(Shape::Struct(properties)) => properties.as_slice(),
            _ => &[],
        };
        let mut names: Vec<&str> = said.properties.iter().map(|(n, _)| n.as_str()).collect();
        names.extend(properties.iter().map(|p| p.name.as_str()));
        names.extend(said.required.iter().map(String::as_str));
        names
            .extend(said.dependent.iter().flat_map(|(n, others)| std::iter::once(n).chain(others)).map(String::as_str));
        names.extend(below.iter().filter_map(|(tokens, _)| tokens.first()).map(String::as_str));
        let mut seen = std::collections::HashSet::new();
        names.retain(|n| seen.insert(*n));
        // A name that has to be escaped in the text cannot be compared with it; such events take the exact way.
        let plain = |n: &str| !n.bytes().any(|b| b == b'"' || b == b'\\' || b < 0x20);
        if names.len() > MOST_KEYS || !names.iter().all(|n| plain(n)) {
            return None;
        }
        let keep = matches!(shape, Some(Shape::Struct(_)));
        let mut keys = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let declared = properties.iter().find(|p| p.name == *name);
            let own = said.property(name);
            let further: Below = below
                .iter()
                .filter(|(tokens, _)| tokens.first().is_some_and(|t| t == name))
                .map(|(tokens, tap)| (tokens[1..].to_vec(), *tap))
                .collect();
            let shape = declared.map(|p| &p.shape);
            let node = self.node(own.or(said.additional), shape, further);
            let (extra, forbidden) = (keep && declared.is_none(), own.is_none() && said.closed);
            keys.push(Key {
                quoted: Literal::new(&format!("\"{name}\":")),
                place,
                bit: 1 << place,
                node,
                slot: declared.and_then(|p| p.slot).unwrap_or(usize::MAX),
                extra,
                forbidden,
                odd: extra || forbidden,
            });
        }
        let bit = |name: &String| names.iter().position(|n| n == name).map_or(0, |at| 1u128 << at);
        let bits = |names: &[String]| names.iter().map(bit).fold(0, |all, one| all | one);
        let place = |name: &String| names.iter().position(|n| n == name).unwrap_or(0) as u8;
        let additional = said.additional.map(|rule| self.node(Some(rule), None, Vec::new()));
        let mut object = Object {
            keys,
            table: Vec::new(),
            required: bits(&said.required),
            dependent: said.dependent.iter().map(|(name, others)| (place(name), bits(others))).collect(),
            count: counts(said.min, said.max),
            additional,
            closed: said.closed,
            extra: keep,
            guess: self.guesses,
        };
        object.index();
        self.guesses += object.keys.len() + 1;
        Some(object)
    }

    fn array(&mut self, rule: &Rule, shape: Option<&Shape>, below: &Below) -> Option<Array> {
        let empty = ArrayRule::default();
        let said = match (&rule.array, shape) {
            (Some(said), _) => said,
            (None, Some(Shape::List(_))) => &empty,
            _ => return None,
        };
        if said.unique || !below.is_empty() {
            return None;
        }
        let item = match shape {
            Some(Shape::List(item)) => Some(&**item),
            _ => None,
        };
        let prefix = said.prefix.iter().map(|rule| self.node(Some(*rule), item, Vec::new())).collect();
        let rest = self.node(said.items, item, Vec::new());
        Some(Array { prefix, rest, count: counts(said.min, said.max) })
    }
}

fn counts(min: Option<u64>, max: Option<u64>) -> Option<(u64, u64)> {
    (min.is_some() || max.is_some()).then(|| (min.unwrap_or(0), max.unwrap_or(u64::MAX)))
}

fn has_columns(shape: &Shape) -> bool {
    !matches!(shape, Shape::Role(_) | Shape::Pii(Pii::Drop))
}

fn leaf(shape: Option<&Shape>) -> Leaf {
    match shape {
        None | Some(Shape::Role(_) | Shape::Pii(Pii::Drop)) => Leaf::Nothing,
        Some(Shape::Pii(Pii::Hash)) => Leaf::Hash,
        Some(Shape::Pii(Pii::Mask)) => Leaf::Mask,
        Some(Shape::Struct(_) | Shape::List(_)) => Leaf::Nested,
        Some(Shape::Leaf(kind)) => match kind {
            ColumnType::Boolean => Leaf::Boolean,
            ColumnType::Int64 => Leaf::Int64,
            ColumnType::Float64 => Leaf::Float64,
            ColumnType::Decimal(precision, scale) => Leaf::Decimal(*precision, *scale),
            ColumnType::Text => Leaf::Text,
            ColumnType::Timestamp => Leaf::Timestamp,
            ColumnType::Json | ColumnType::Struct(_) | ColumnType::List(_) => Leaf::Json,
        },
    }
}
