//! What columns a schema comes to, and how its values find their way into them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::nearest::suggestion;
use super::number::Decimal;
use super::problem::push_token;
use super::source::{Data, Node};

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// Booleans.
    Boolean,
    /// Integers of 64 bits.
    Int64,
    /// Binary floats of 64 bits.
    Float64,
    /// Decimals: digits, and how many of them stand after the point.
    Decimal(u8, u8),
    /// Text.
    Text,
    /// Microseconds, UTC.
    Timestamp,
    /// Anything, as JSON text.
    Json,
    /// Objects with declared properties.
    Struct(Vec<Column>),
    /// Arrays.
    List(Box<ColumnType>),
}

/// A column, or a field of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
}

/// What becomes of a personal property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pii {
    /// Replaced by a keyed hash.
    Hash,
    /// Replaced by stars.
    Mask,
    /// Left out.
    Drop,
}

/// How a value goes into its column.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Into a column of this type, which is neither a struct nor a list.
    Leaf(ColumnType),
    /// As the mark of a personal property says.
    Pii(Pii),
    /// Nowhere: a role's own column holds it, marked or not.
    Role(Option<Pii>),
    /// Property by property.
    Struct(Vec<Property>),
    /// Item by item.
    List(Box<Shape>),
}

/// A declared property.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Its name in the event.
    pub name: String,
    /// Its name as a column.
    pub column: String,
    /// Its place among the columns of its level; none when it has no column.
    pub slot: Option<usize>,
    /// How its value goes in.
    pub shape: Shape,
    /// The line of the schema.
    pub line: usize,
}

/// The columns that are ours.
pub const RESERVED: &[&str] = &[
    "event_type",
    "event_time",
    "idempotency_key",
    "entity",
    "schema_version",
    "_extra",
    "session_id",
    "session_start",
    "session_seq",
    "replayed",
    "_topic",
    "_partition",
    "_offset",
    "date",
];

const EXTENSIONS: [&str; 3] = ["x-penstock-column", "x-penstock-decimal", "x-penstock-pii"];

/// The line and the reason of what makes no column.
pub type Fault = (usize, String);

impl Shape {
    /// The type of the column; none when there is none.
    pub fn column_type(&self) -> Option<ColumnType> {
        Some(match self {
            Shape::Leaf(kind) => kind.clone(),
            Shape::Pii(Pii::Drop) | Shape::Role(_) => return None,
            Shape::Pii(_) => ColumnType::Text,
            Shape::Struct(properties) => ColumnType::Struct(
                properties
                    .iter()
                    .filter_map(|p| Some(Column { name: p.column.clone(), kind: p.shape.column_type()? }))
                    .collect(),
            ),
            Shape::List(item) => ColumnType::List(Box::new(item.column_type()?)),
        })
    }

    /// Tells each property its place among `columns`.
    pub fn assign(&mut self, columns: &[Column]) {
        if let Shape::Struct(properties) = self {
            for property in properties {
                property.slot = match property.shape.column_type() {
                    Some(_) => columns.iter().position(|c| c.name == property.column),
                    None => None,
                };
                if let Some(slot) = property.slot {
                    property.shape.assign_type(&columns[slot].kind);
                }
            }
        }
    }

    fn assign_type(&mut self, kind: &ColumnType) {
        match (self, kind) {
            (shape @ Shape::Struct(_), ColumnType::Struct(columns)) => shape.assign(columns),
            (Shape::List(item), ColumnType::List(kind)) => item.assign_type(kind),
            _ => {}
        }
    }

    /// The mark of the property that a list of reference tokens leads to, or of one around it.
    pub fn pii_at(&self, tokens: &[String]) -> Option<Pii> {
        match (self, tokens) {
            (Shape::Pii(pii), _) => Some(*pii),
            (Shape::Role(pii), _) => *pii,
            (Shape::Struct(properties), [first, rest @ ..]) => {
                properties.iter().find(|p| p.name == *first)?.shape.pii_at(rest)
            }
            (Shape::List(item), [_, rest @ ..]) => item.pii_at(rest),
            _ => None,
        }
    }

    /// Whether any property is to be hashed.
    pub fn has_hash(&self) -> bool {
        match self {
            Shape::Pii(Pii::Hash) | Shape::Role(Some(Pii::Hash)) => true,
            Shape::Struct(properties) => properties.iter().any(|p| p.shape.has_hash()),
            Shape::List(item) => item.has_hash(),
            _ => false,
        }
    }
}

impl ColumnType {
    /// The Arrow type.
    pub fn arrow(&self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Float64 => DataType::Float64,
            ColumnType::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale as i8),
            ColumnType::Text | ColumnType::Json => DataType::Utf8,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ColumnType::Struct(columns) => DataType::Struct(fields(columns)),
            ColumnType::List(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
        }
    }

    /// What to call it in messages.
    pub fn describe(&self) -> String {
        match self {
            ColumnType::Boolean => "boolean".into(),
            ColumnType::Int64 => "int64".into(),
            ColumnType::Float64 => "float64".into(),
            ColumnType::Decimal(precision, scale) => format!("decimal({precision}, {scale})"),
            ColumnType::Text => "text".into(),
            ColumnType::Timestamp => "timestamp".into(),
            ColumnType::Json => "JSON text".into(),
            ColumnType::Struct(columns) => {
                let fields: Vec<String> =
                    columns.iter().map(|c| format!("{}: {}", c.name, c.kind.describe())).collect();
                format!("struct<{}>", fields.join(", "))
            }
            ColumnType::List(item) => format!("list<{}>", item.describe()),
        }
    }
}

/// The Arrow fields of columns; any of them may be null.
pub fn fields(columns: &[Column]) -> Fields {
    columns.iter().map(|c| Field::new(&c.name, c.kind.arrow(), true)).collect()
}

/// Adds the columns of one more schema; the fields of structs are joined.
///
/// # Errors
/// The path of the first column that is typed differently, and the two types.
pub fn merge(into: &mut Vec<Column>, more: &[Column]) -> Result<(), (String, String, String)> {
    for column in more {
        match into.iter_mut().find(|c| c.name == column.name) {
            None => into.push(column.clone()),
            Some(present) => merge_types(&mut present.kind, &column.kind).map_err(|(path, a, b)| {
                let path = if path.is_empty() { column.name.clone() } else { format!("{}.{path}", column.name) };
                (path, a, b)
            })?,
        }
    }
    Ok(())
}

fn merge_types(into: &mut ColumnType, more: &ColumnType) -> Result<(), (String, String, String)> {
    match (into, more) {
        (ColumnType::Struct(a), ColumnType::Struct(b)) => merge(a, b),
        (ColumnType::List(a), ColumnType::List(b)) => merge_types(a, b),
        (a, b) if a == b => Ok(()),
        (a, b) => Err((String::new(), a.describe(), b.describe())),
    }
}

/// The shape of a whole event by its schema. `is_role` tells which top-level property is the role of a reserved name.
///
/// # Errors
/// What of the schema makes no column.
pub fn derive(root: &Node, is_role: &dyn Fn(&str) -> bool) -> Result<Shape, Fault> {
    let mut deriver = Deriver { root, open: Vec::new() };
    deriver.extensions(root)?;
    let (node, target) = (root, deriver.follow(root));
    let properties = match deriver.properties(node, target) {
        Some(declared) => deriver.object(declared, Some(is_role))?,
        None => Vec::new(),
    };
    Ok(Shape::Struct(properties))
}

struct Deriver<'a> {
    root: &'a Node,
    /// The schemas that are being read, so that one that holds itself ends as JSON text.
    open: Vec<*const Node>,
}

impl<'a> Deriver<'a> {
    /// The schema at the end of a chain of local references; the schema itself when there is none.
    fn follow(&self, node: &'a Node) -> &'a Node {
        let mut at = node;
        for _ in 0..100 {
            let Some(next) = super::keywords::target(self.root, at) else { break };
            at = next;
        }
        at
    }

    fn properties(&self, node: &'a Node, target: &'a Node) -> Option<&'a Node> {
        [node, target].into_iter().filter_map(|n| n.get("properties")).find(|p| !p.entries().is_empty())
    }

    fn object(&mut self, declared: &'a Node, is_role: Option<&dyn Fn(&str) -> bool>) -> Result<Vec<Property>, Fault> {
        let mut properties: Vec<Property> = Vec::new();
        for (key, schema) in declared.entries() {
            let name = key.text.clone();
            let column = match schema.get("x-penstock-column") {
                Some(given) => match given.as_str() {
                    Some(text) if !text.is_empty() => text.to_owned(),
                    _ => return Err((given.line, "x-penstock-column needs the name of a column".into())),
                },
                None => name.clone(),
            };
            let mut shape = self.shape(schema)?;
            let taken = RESERVED.iter().find(|r| r.eq_ignore_ascii_case(&column));
            if let (Some(is_role), Some(taken)) = (is_role, taken) {
                if column == name && *taken == name && is_role(&name) {
                    shape = Shape::Role(match shape {
                        Shape::Pii(mark) => Some(mark),
                        _ => None,
                    });
                } else {
                    let reason = format!(
                        "property '{name}' would make a column '{column}', which is Penstock's own; name its column with \
                         x-penstock-column"
                    );
                    return Err((key.line, reason));
                }
            }
            if column.is_empty() {
                return Err((key.line, "a property without a name needs x-penstock-column".into()));
            }
            if properties.iter().any(|p| p.column == column) {
                let reason =
                    format!("two properties would make one column '{column}'; rename one with x-penstock-column");
                return Err((key.line, reason));
            }
            properties.push(Property { name, column, slot: None, shape, line: key.line });
        }
        Ok(properties)
    }

    fn shape(&mut self, node: &'a Node) -> Result<Shape, Fault> {
        self.extensions(node)?;
        let target = self.follow(node);
        let chain = [node, target];
        if let Some(mark) = chain.iter().find_map(|n| n.get("x-penstock-pii")) {
            return Ok(Shape::Pii(match mark.as_str() {
                Some("hash") => Pii::Hash,
                Some("mask") => Pii::Mask,
                Some("drop") => Pii::Drop,
                _ => return Err((mark.line, "x-penstock-pii is hash, mask or drop".into())),
            }));
        }
        let types = chain.iter().find_map(|n| types(n)).unwrap_or_default();
        let decimal = chain.iter().find_map(|n| n.get("x-penstock-decimal"));
        if let Some(given) = decimal {
            let (precision, scale) = precision_and_scale(given)?;
            if !types.iter().all(|t| matches!(*t, "integer" | "number")) || types.is_empty() {
                return Err((given.line, "x-penstock-decimal needs the type number or integer".into()));
            }
            return Ok(Shape::Leaf(ColumnType::Decimal(precision, scale)));
        }
        let open = std::ptr::from_ref(target);
        let shape = match types.as_slice() {
            ["boolean"] => Shape::Leaf(ColumnType::Boolean),
            ["integer"] => Shape::Leaf(ColumnType::Int64),
            ["number"] | ["integer", "number"] | ["number", "integer"] => Shape::Leaf(ColumnType::Float64),
            ["string"] => {
                let time = chain.iter().any(|n| n.get("format").and_then(Node::as_str) == Some("date-time"));
                Shape::Leaf(if time { ColumnType::Timestamp } else { ColumnType::Text })
            }
            ["object"] if !self.open.contains(&open) => match self.properties(node, target) {
                Some(declared) => {
                    self.open.push(open);
                    let properties = self.object(declared, None);
                    self.open.pop();
                    let properties = properties?;
                    if properties.iter().all(|p| p.shape.column_type().is_none()) {
                        let reason = "every property in it is dropped: mark the object itself with x-penstock-pii";
                        return Err((node.line, reason.into()));
                    }
                    Shape::Struct(properties)
                }
                None => Shape::Leaf(ColumnType::Json),
            },
            ["array"] if !self.open.contains(&open) => {
                self.open.push(open);
                let item = self.item(node, target);
                self.open.pop();
                Shape::List(Box::new(item?))
            }
            _ => Shape::Leaf(ColumnType::Json),
        };
        let as_text = match &shape {
            Shape::Leaf(ColumnType::Json) => true,
            Shape::List(item) => **item == Shape::Leaf(ColumnType::Json),
            _ => false,
        };
        if as_text && let Some(line) = marked(target).or_else(|| marked(node)) {
            let reason = "x-penstock-pii inside a value that is kept as JSON text; mark the property that holds it, or give it a type";
            return Err((line, reason.into()));
        }
        Ok(shape)
    }

    /// What the items of an array come to: one type for all, or JSON text.
    fn item(&mut self, node: &'a Node, target: &'a Node) -> Result<Shape, Fault> {
        let find = |key: &str| [node, target].into_iter().find_map(|n| n.get(key));
        let open = Shape::Leaf(ColumnType::Json);
        let rest = match find("items") {
            Some(items) if items.data == Data::Bool(false) => None,
            Some(items) => Some(self.shape(items)?),
            None => Some(open.clone()),
        };
        let mut shapes = Vec::new();
        for first in find("prefixItems").map(Node::items).unwrap_or_default() {
            shapes.push(self.shape(first)?);
        }
        shapes.extend(rest);
        let mut shapes = shapes.into_iter();
        let first = shapes.next().unwrap_or_else(|| open.clone());
        if matches!(first, Shape::Pii(Pii::Drop)) {
            return Err((
                node.line,
                "items cannot be dropped one by one: mark the array itself with x-penstock-pii".into(),
            ));
        }
        Ok(if shapes.all(|s| s == first) { first } else { open })
    }

    /// Refuses `x-penstock-…` keywords that do not exist.
    fn extensions(&self, node: &Node) -> Result<(), Fault> {
        for (key, _) in node.entries() {
            if key.text.starts_with("x-penstock-") && !EXTENSIONS.contains(&key.text.as_str()) {
                return Err((key.line, format!("there is no {}{}", key.text, suggestion(&key.text, EXTENSIONS))));
            }
        }
        Ok(())
    }
}

/// The types that a schema names besides null; those of its `enum` or `const` when it names none.
fn types(node: &Node) -> Option<Vec<&str>> {
    if let Some(named) = node.get("type") {
        let names = named.as_str().into_iter().chain(named.items().iter().filter_map(Node::as_str));
        return Some(names.filter(|t| *t != "null").collect());
    }
    let values: Vec<&Node> = match (node.get("enum"), node.get("const")) {
        (_, Some(value)) => vec![value],
        (Some(values), None) => values.items().iter().collect(),
        (None, None) => return None,
    };
    let mut types: Vec<&str> = Vec::new();
    for value in values {
        let kind = match &value.data {
            Data::Null => continue,
            Data::Bool(_) => "boolean",
            Data::Number(text) if Decimal::parse(text.as_bytes()).is_integer() => "integer",
            Data::Number(_) => "number",
            Data::String(_) => "string",
            Data::Array(_) => "array",
            Data::Object(_) => "object",
        };
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    // The properties of a constant object are nowhere declared.
    if types == ["object"] || types == ["array"] {
        types.clear();
    }
    Some(types)
}

fn precision_and_scale(given: &Node) -> Result<(u8, u8), Fault> {
    let numbers: Vec<Option<i64>> = given
        .items()
        .iter()
        .map(|n| match &n.data {
            Data::Number(text) => Decimal::parse(text.as_bytes()).to_i64(),
            _ => None,
        })
        .collect();
    match numbers.as_slice() {
        [Some(precision @ 1..=38), Some(scale)] if (0..=*precision).contains(scale) => {
            Ok((*precision as u8, *scale as u8))
        }
        _ => {
            Err((given.line, "x-penstock-decimal is [digits, digits after the point], at most 38, like [12, 2]".into()))
        }
    }
}

/// The line of a personal mark somewhere in a schema.
fn marked(node: &Node) -> Option<usize> {
    match &node.data {
        Data::Object(entries) => entries.iter().find_map(|(key, value)| {
            if key.text == "x-penstock-pii" && value.as_str().is_some() { Some(key.line) } else { marked(value) }
        }),
        Data::Array(items) => items.iter().find_map(marked),
        _ => None,
    }
}

/// The columns of a schema as JSON Pointers and their types, for people.
pub fn outline(shape: &Shape, pointer: &str, out: &mut Vec<(String, String, String)>) {
    if let Shape::Struct(properties) = shape {
        for property in properties {
            let mut at = pointer.to_owned();
            push_token(&mut at, &property.name);
            let kind = match &property.shape {
                Shape::Role(_) => "role".to_owned(),
                Shape::Pii(Pii::Hash) => "text (hashed)".to_owned(),
                Shape::Pii(Pii::Mask) => "text (masked)".to_owned(),
                Shape::Pii(Pii::Drop) => "dropped".to_owned(),
                other => other.column_type().map(|t| t.describe()).unwrap_or_default(),
            };
            out.push((at, property.column.clone(), kind));
        }
    }
}
