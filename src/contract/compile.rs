//! From a contract as it is written to one that judges: rules, columns, and how the roles are read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::columns::{self, Column, ColumnType, Property, Shape};
use super::fallback::Fallback;
use super::fast::MOST_TAPS;
use super::load::Spec;
use super::plan::{Plan, impossible};
use super::program::Program;
use super::quick::Literal;
use super::rules::Rules;
use super::source::File;
use super::speculate::Glance;
use super::text::Habit;
use crate::error::Result;

/// A contract compiled.
#[derive(Debug)]
pub struct Compiled {
    /// The event types; the first ones are those that are named, in the order of the contract.
    pub types: Vec<EventType>,
    /// The place of `*` among the types.
    pub wildcard: Option<usize>,
    /// How many types are named.
    pub named: usize,
    /// How the roles are read before the event type is known.
    pub plan: Plan,
    /// The typed columns.
    pub columns: Vec<Column>,
    /// The columns of a judged batch.
    pub schema: SchemaRef,
    /// Whether a personal property is to be hashed.
    pub needs_secret: bool,
    /// How the event type is found at a glance, where it is a property.
    pub glance: Option<Glance>,
    /// The column that holds the entity of every event as it stands, if there is one: that is built once.
    pub entity_column: Option<usize>,
    /// The column that holds the event time of every event, if there is one.
    pub time_column: Option<usize>,
    /// What the columns of earlier pieces were like: each column, then those of roles.
    pub habits: Vec<Habit>,
    /// The secret of hashes in memory.
    pub seed: u64,
}

/// An event type compiled.
#[derive(Debug)]
pub struct EventType {
    /// Its name.
    pub name: String,
    /// Its versions.
    pub versions: Vec<Version>,
    /// How the version is found at a glance, where it is a property.
    pub glance: Option<Glance>,
    /// Its name in quotes.
    pub quoted: Literal,
    /// The property with its name, where the event type is one, as in a text without white space.
    pub announced: Option<Literal>,
}

/// The place among a plan's taps of each role that is read as it stands.
#[derive(Debug, Clone, Copy)]
pub struct RoleTaps {
    /// The event type.
    pub event_type: Option<usize>,
    /// The version.
    pub version: Option<usize>,
    /// The event time, where it is a date-time.
    pub time: Option<usize>,
    /// The key.
    pub key: Option<usize>,
    /// The entity.
    pub entity: Option<usize>,
}

/// A version of an event type compiled.
#[derive(Debug)]
pub struct Version {
    /// Its name.
    pub name: String,
    /// Its name in quotes.
    pub quoted: Literal,
    /// The schema's file.
    pub file: File,
    /// The schema as rules.
    pub rules: Rules,
    /// The schema for the `jsonschema` crate, when it needs it.
    pub fallback: Option<Fallback>,
    /// How an event goes into the columns.
    pub shape: Shape,
    /// How the roles are read.
    pub plan: Plan,
    /// The places of the roles among the plan's taps.
    pub taps: RoleTaps,
    /// The place among the versions of all types.
    pub id: usize,
    /// The fast path, or why there is none.
    pub program: Result<Program, String>,
}

impl Version {
    /// The declared top-level properties.
    pub fn properties(&self) -> &[Property] {
        match &self.shape {
            Shape::Struct(properties) => properties,
            _ => &[],
        }
    }
}

/// Compiles a contract; with `formats`, `format` is asserted.
pub fn compile(spec: &Spec, formats: bool) -> Result<Compiled> {
    let mut types = Vec::new();
    for kind in &spec.types {
        let mut versions = Vec::new();
        for version in &kind.versions {
            let file = &version.schema;
            let fault = |(line, reason): (usize, String)| file.error(line, reason);
            let rules = Rules::compile(&file.root, formats).map_err(fault)?;
            let root = rules.get(rules.root);
            if root.never || root.types & 64 == 0 {
                return Err(file.error(file.root.line, "takes no object, so no event could be valid"));
            }
            let fallback = if rules.fallback.is_empty() {
                None
            } else {
                let built = Fallback::compile(&file.root.to_value(), formats, None);
                Some(built.map_err(|(at, reason)| {
                    file.error(file.root.line_of(&at), format!("is no JSON Schema: {reason}"))
                })?)
            };
            let shape = columns::derive(&file.root, &|name| kind.roles.is_own_property(name)).map_err(fault)?;
            let plan = Plan::new(&kind.roles, Some(&shape)).map_err(|(line, reason)| crate::Error::Contract {
                file: spec.file.to_path_buf(),
                line: Some(line),
                reason,
            })?;
            if let Some((line, reason)) = impossible(&kind.roles, |tokens| types_at(&rules, tokens)) {
                let reason = format!("{reason} ({} {})", kind.name, version.name);
                return Err(crate::Error::Contract { file: spec.file.to_path_buf(), line: Some(line), reason });
            }
            let taps = RoleTaps {
                event_type: plan.event_type_tap(),
                version: plan.version_tap(),
                time: plan.event_time_tap(),
                key: plan.key_tap(),
                entity: plan.entity_tap(),
            };
            versions.push(Version {
                name: version.name.clone(),
                quoted: Literal::new(&format!("\"{}\"", version.name)),
                file: file.clone(),
                rules,
                fallback,
                shape,
                plan,
                taps,
                id: 0,
                program: Err(String::new()),
            });
        }
        let glance = versions.first().and_then(|v| Glance::new(&v.plan, v.plan.version_tap()));
        let quoted = Literal::new(&format!("\"{}\"", kind.name));
        types.push(EventType { name: kind.name.clone(), versions, glance, quoted, announced: None });
    }
    // The named ones first: their places are those of `event_types()`.
    types.sort_by_key(|t| t.name == "*");
    let named = types.iter().filter(|t| t.name != "*").count();
    if named >= usize::from(u16::MAX) {
        return Err(crate::Error::Contract {
            file: spec.file.to_path_buf(),
            line: None,
            reason: "names too many event types".into(),
        });
    }
    let wildcard = (named < types.len()).then_some(named);
    let columns = merge_columns(spec, &types)?;
    let mut checks = vec![Vec::new(); columns.len()];
    for (id, version) in types.iter_mut().flat_map(|t| &mut t.versions).enumerate() {
        version.shape.assign(&columns);
        version.id = id;
        version.program = program(version);
        if let Ok(program) = &mut version.program {
            program.number_checks(&version.rules, &mut checks);
        }
    }
    let plan = Plan::new(&spec.roles, None).map_err(|(line, reason)| crate::Error::Contract {
        file: spec.file.to_path_buf(),
        line: Some(line),
        reason,
    })?;
    let needs_secret = types.iter().flat_map(|t| &t.versions).any(|v| v.shape.has_hash() || v.plan.has_hash());
    let schema = schema(&columns);
    let glance = Glance::new(&plan, plan.event_type_tap());
    for kind in &mut types {
        kind.announced = glance.as_ref().map(|glance| glance.before(&kind.name));
    }
    let entity_column = common_column(&types, Plan::entity_property, &ColumnType::Text);
    let time_column = common_column(&types, Plan::time_property, &ColumnType::Timestamp);
    let habits = (0..columns.len() + ROLE_COLUMNS).map(|_| Habit::default()).collect();
    let seed = rand::random();
    Ok(Compiled {
        types,
        wildcard,
        named,
        plan,
        columns,
        schema,
        needs_secret,
        glance,
        entity_column,
        time_column,
        habits,
        seed,
    })
}

/// How many text columns there are beside the typed ones: event type, version, key, entity, `_extra`.
pub const ROLE_COLUMNS: usize = 5;

/// The column of this type that a role is read from in every version, as it stands.
fn common_column(types: &[EventType], role: impl Fn(&Plan) -> Option<&str>, kind: &ColumnType) -> Option<usize> {
    let column = |version: &Version| {
        let name = role(&version.plan)?;
        let property = version.properties().iter().find(|p| p.name == name)?;
        property.slot.filter(|_| property.shape == Shape::Leaf(kind.clone()))
    };
    let mut columns = types.iter().flat_map(|t| &t.versions).map(column);
    let first = columns.next()??;
    columns.all(|c| c == Some(first)).then_some(first)
}

/// The types that a schema lets in at a property, 0 when the property cannot be there; none when nothing is said of it.
fn types_at(rules: &Rules, tokens: &[String]) -> Option<u8> {
    let mut rule = rules.get(rules.root);
    for token in tokens {
        let object = rule.object.as_deref()?;
        rule = match object.property(token) {
            Some(id) => rules.get(id),
            // patternProperties may let it in: only the fallback knows.
            None if object.closed && rules.fallback.is_empty() => return Some(0),
            None => return None,
        };
        if rule.never {
            return Some(0);
        }
    }
    Some(rule.types)
}

/// The fast path of a version, or why there is none.
fn program(version: &Version) -> Result<Program, String> {
    if !version.rules.fallback.is_empty() {
        return Err("the schema has keywords that the jsonschema crate judges".into());
    }
    if version.plan.taps.len() > MOST_TAPS {
        return Err(format!("the roles read more than {MOST_TAPS} properties"));
    }
    let program = Program::new(&version.rules, Some(&version.shape), &version.plan.taps);
    if program.node(program.root).object.is_none() {
        return Err(
            "the schema of the whole event has a $ref beside other keywords, an enum or const, or too many properties"
                .into(),
        );
    }
    Ok(program)
}

/// The columns of all versions, in the order in which they first appear in the contract.
fn merge_columns(spec: &Spec, types: &[EventType]) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    let mut owners: Vec<(String, String)> = Vec::new();
    for kind in &spec.types {
        let Some(compiled) = types.iter().find(|t| t.name == kind.name) else { continue };
        for version in &compiled.versions {
            let here = format!("{} {}", kind.name, version.name);
            for property in version.properties() {
                let Some(column) = property.shape.column_type() else { continue };
                let column = Column { name: property.column.clone(), kind: column };
                if let Err((path, before, now)) = columns::merge(&mut columns, std::slice::from_ref(&column)) {
                    let owner = owners.iter().find(|(name, _)| *name == column.name).map_or("another type", |(_, o)| o);
                    let reason = format!(
                        "column '{path}' is {before} in {owner} and {now} in {here}: give both one type, or rename one with \
                         x-penstock-column"
                    );
                    return Err(version.file.error(property.line, reason));
                }
                if !owners.iter().any(|(name, _)| *name == column.name) {
                    owners.push((column.name, here.clone()));
                }
            }
        }
    }
    Ok(columns)
}

fn schema(columns: &[Column]) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![
        Field::new("event_type", DataType::Utf8, false),
        Field::new("event_time", time, false),
        Field::new("idempotency_key", DataType::Utf8, false),
        Field::new("entity", DataType::Utf8, true),
        Field::new("schema_version", DataType::Utf8, true),
    ];
    fields.extend(columns.iter().map(|c| Field::new(&c.name, c.kind.arrow(), true)));
    fields.push(Field::new("_extra", DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}
