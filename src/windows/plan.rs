//! The aggregate functions: what each reads, how it is finished and saved.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Field, Float64Type, Int64Type, i256,
};
use arrow::row::{RowConverter, SortField};

use super::Aggregate;
use super::accumulator::{Accumulators, Input};
use super::exact::{FloatSum, WideSum};
use super::groups::Row;
use super::sketch::Distinct;
use crate::error::{Error, Result};
use crate::state::{column, typed};

/// Digits that an average of decimals has beyond those of its column.
const AVERAGE_DIGITS: i8 = 6;

/// One column of a window: what it reads, and how.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub name: String,
    pub aggregate: Aggregate,
    /// The column that it reads.
    pub input: Option<usize>,
    kind: Kind,
    /// The type of that column, for least and greatest.
    value: DataType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    /// Sums of integers and of decimals of this scale.
    Whole(i8),
    Float,
    /// Least or greatest of what compares as a number, a float, a text.
    Number,
    Real,
    Text,
    Distinct,
}

/// What a column is read as: text of any encoding as text, dictionaries as their values.
pub(super) fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Float16 | DataType::Float32 => DataType::Float64,
        DataType::Dictionary(_, values) => plain(values),
        other => other.clone(),
    }
}

/// A column as [`plain`] has it.
pub(super) fn to_plain(array: &ArrayRef) -> Result<ArrayRef> {
    let to = plain(array.data_type());
    if to == *array.data_type() { Ok(array.clone()) } else { Ok(cast(array, &to)?) }
}

impl Plan {
    pub fn new(name: &str, aggregate: &Aggregate, column: Option<(usize, &DataType)>) -> Result<Self> {
        let value = column.map_or(DataType::Null, |(_, data_type)| plain(data_type));
        let kind = match (aggregate, &value) {
            (Aggregate::Count(_), _) => Kind::Count,
            (Aggregate::ApproxCountDistinct(_), _) => Kind::Distinct,
            (Aggregate::Sum(_) | Aggregate::Avg(_), v) if v.is_integer() => Kind::Whole(0),
            (Aggregate::Sum(_) | Aggregate::Avg(_), DataType::Decimal128(_, scale)) => Kind::Whole(*scale),
            (Aggregate::Sum(_) | Aggregate::Avg(_), DataType::Float64) => Kind::Float,
            (Aggregate::Min(_) | Aggregate::Max(_), DataType::Float64) => Kind::Real,
            (Aggregate::Min(_) | Aggregate::Max(_), DataType::Utf8) => Kind::Text,
            (Aggregate::Min(_) | Aggregate::Max(_), v)
                if v.is_integer()
                    || v.is_temporal() && through(v).is_some()
                    || matches!(v, DataType::Decimal128(..) | DataType::Boolean) =>
            {
                Kind::Number
            }
            (_, other) => {
                return Err(Error::Data(format!(
                    "{name}: {aggregate} does not work on a column of type {other}; cast it first"
                )));
            }
        };
        Ok(Self {
            name: name.to_string(),
            aggregate: aggregate.clone(),
            input: column.map(|(index, _)| index),
            kind,
            value,
        })
    }

    /// The type of the finished column.
    pub fn output(&self) -> DataType {
        match (&self.aggregate, self.kind, &self.value) {
            (_, Kind::Count | Kind::Distinct, _) => DataType::Int64,
            (Aggregate::Avg(_), Kind::Whole(scale), DataType::Decimal128(..)) => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, average_scale(scale))
            }
            (Aggregate::Sum(_), Kind::Whole(scale), DataType::Decimal128(..)) => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale)
            }
            (Aggregate::Sum(_), Kind::Whole(_), _) => DataType::Int64,
            (_, Kind::Whole(_) | Kind::Float, _) => DataType::Float64,
            (_, Kind::Number | Kind::Real | Kind::Text, value) => value.clone(),
        }
    }

    pub fn field(&self) -> Field {
        let never_null = matches!(self.kind, Kind::Count | Kind::Distinct);
        Field::new(&self.name, self.output(), !never_null)
    }

    pub fn accumulators(&self) -> Accumulators {
        let greatest = matches!(self.aggregate, Aggregate::Max(_));
        match self.kind {
            Kind::Count => Accumulators::Count(Vec::new()),
            Kind::Whole(_) => Accumulators::Whole(Vec::new()),
            Kind::Float => Accumulators::Float(Vec::new()),
            Kind::Number => Accumulators::Number { greatest, best: Vec::new() },
            Kind::Real => Accumulators::Real { greatest, best: Vec::new() },
            Kind::Text => Accumulators::Text { greatest, best: Vec::new() },
            Kind::Distinct => Accumulators::Distinct(Vec::new()),
        }
    }

    /// The values of a batch.
    pub fn read(&self, batch: &RecordBatch) -> Result<Input> {
        let Some(index) = self.input else { return Ok(Input::All) };
        let array = to_plain(batch.column(index))?;
        let decimals = |array: &dyn Array| array.as_primitive::<Decimal128Type>().clone();
        Ok(match (self.kind, array.data_type()) {
            (Kind::Count, _) => Input::Nulls(array.logical_nulls()),
            (Kind::Distinct, DataType::Utf8) | (Kind::Text, _) => Input::Texts(array.as_string::<i32>().clone()),
            (_, DataType::Float64) => Input::Floats(array.as_primitive::<Float64Type>().clone()),
            (_, DataType::Decimal128(..)) => Input::Decimals(decimals(&array)),
            (_, DataType::UInt64) => Input::Decimals(decimals(&cast(&array, &DataType::Decimal128(20, 0))?)),
            (_, other) => match through(other) {
                Some(between) => {
                    let integers = cast(&cast(&array, &between)?, &DataType::Int64)?;
                    Input::Integers(integers.as_primitive::<Int64Type>().clone())
                }
                None => {
                    let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                    Input::Rows(converter.convert_columns(std::slice::from_ref(&array))?, array.logical_nulls())
                }
            },
        })
    }

    /// The finished column.
    pub fn finish(&self, n: usize, rows: &[Row<'_>], place: impl Fn(&Row<'_>) -> String) -> Result<ArrayRef> {
        let average = matches!(self.aggregate, Aggregate::Avg(_));
        let overflow = |row: &Row<'_>, what: &str| {
            Error::Data(format!("window {}: {} of {} is beyond {what}", place(row), self.aggregate, self.name))
        };
        let of = |row: &Row<'_>| row.index as usize;
        let counts = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Count(counts) => counts[of(row)],
            Accumulators::Distinct(sketches) => sketches[of(row)].estimate(),
            _ => 0,
        };
        let whole = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Whole(sums) => Some(sums[of(row)]).filter(|(_, count)| *count > 0),
            _ => None,
        };
        Ok(match (self.kind, self.output()) {
            (Kind::Count | Kind::Distinct, _) => Arc::new(Int64Array::from_iter_values(rows.iter().map(counts))),
            (Kind::Whole(_), DataType::Int64) => {
                let narrow = |row| {
                    let Some((sum, _)) = whole(row) else { return Ok(None) };
                    let value = sum.narrow().and_then(|v| i64::try_from(v).ok());
                    value.map(Some).ok_or_else(|| overflow(row, "64 bits"))
                };
                Arc::new(rows.iter().map(narrow).collect::<Result<Int64Array>>()?)
            }
            (Kind::Whole(_), DataType::Float64) => {
                let mean = |row| whole(row).map(|(sum, count)| to_f64(&sum) / count as f64);
                Arc::new(rows.iter().map(mean).collect::<Float64Array>())
            }
            (Kind::Whole(scale), to) => {
                let value = |row| {
                    let Some((sum, count)) = whole(row) else { return Ok(None) };
                    let value =
                        if average { rounded_mean(&sum, count, average_scale(scale) - scale) } else { sum.narrow() };
                    let fits = value.filter(|v| v.unsigned_abs() < 10u128.pow(u32::from(DECIMAL128_MAX_PRECISION)));
                    fits.map(Some).ok_or_else(|| overflow(row, "38 digits"))
                };
                Arc::new(rows.iter().map(value).collect::<Result<Decimal128Array>>()?.with_data_type(to))
            }
            (Kind::Float, _) => {
                let value = |row: &Row<'_>| match &row.groups.columns[n] {
                    Accumulators::Float(sums) => {
                        let (sum, count) = &sums[of(row)];
                        (*count > 0).then(|| if average { sum.value() / *count as f64 } else { sum.value() })
                    }
                    _ => None,
                };
                Arc::new(rows.iter().map(value).collect::<Float64Array>())
            }
            (Kind::Number | Kind::Real | Kind::Text, _) => self.best(n, rows)?,
        })
    }

    /// The fields of the state, named after the number of the aggregate.
    pub fn saved_fields(&self, n: usize) -> Vec<Field> {
        let wide = DataType::Decimal256(DECIMAL256_MAX_PRECISION, 0);
        let count = Field::new(format!("__{n}_count"), DataType::Int64, false);
        match self.kind {
            Kind::Count => vec![count],
            Kind::Whole(_) => vec![Field::new(format!("__{n}_sum"), wide, false), count],
            Kind::Float => vec![Field::new(format!("__{n}_sum"), DataType::Binary, false), count],
            Kind::Number | Kind::Real | Kind::Text => vec![Field::new(format!("__{n}_best"), self.value.clone(), true)],
            Kind::Distinct => vec![Field::new(format!("__{n}_sketch"), DataType::Binary, false)],
        }
    }

    /// The columns of the state, as [`Plan::saved_fields`] has them.
    pub fn save(&self, n: usize, rows: &[Row<'_>]) -> Result<Vec<ArrayRef>> {
        let of = |row: &Row<'_>| row.index as usize;
        let count = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Count(counts) => counts[of(row)],
            Accumulators::Whole(sums) => sums[of(row)].1,
            Accumulators::Float(sums) => sums[of(row)].1,
            _ => 0,
        };
        let bytes = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Float(sums) => sums[of(row)].0.to_bytes(),
            Accumulators::Distinct(sketches) => sketches[of(row)].to_bytes(),
            _ => Vec::new(),
        };
        let sum = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Whole(sums) => sums[of(row)].0.wide(),
            _ => i256::ZERO,
        };
        let counts = || -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(count))) };
        let binary = || -> ArrayRef { Arc::new(BinaryArray::from_iter_values(rows.iter().map(bytes))) };
        Ok(match self.kind {
            Kind::Count => vec![counts()],
            Kind::Whole(_) => {
                let sums = Decimal256Array::from_iter_values(rows.iter().map(sum));
                vec![Arc::new(sums.with_precision_and_scale(DECIMAL256_MAX_PRECISION, 0)?), counts()]
            }
            Kind::Float => vec![binary(), counts()],
            Kind::Number | Kind::Real | Kind::Text => vec![self.best(n, rows)?],
            Kind::Distinct => vec![binary()],
        })
    }

    /// What [`Plan::save`] wrote, one accumulator a row.
    pub fn load(&self, n: usize, table: &str, batch: &RecordBatch) -> Result<Accumulators> {
        let counts = || typed::<Int64Array>(table, batch, &format!("__{n}_count"));
        let damaged = || Error::checkpoint(table, "a saved sum is out of range: the state is damaged");
        Ok(match self.kind {
            Kind::Count => Accumulators::Count(counts()?.values().to_vec()),
            Kind::Whole(_) => {
                let sums: &Decimal256Array = typed(table, batch, &format!("__{n}_sum"))?;
                let sums = sums.values().iter().map(|sum| WideSum::from_wide(*sum).ok_or_else(damaged));
                let pairs = sums.zip(counts()?.values()).map(|(sum, count)| Ok((sum?, *count)));
                Accumulators::Whole(pairs.collect::<Result<_>>()?)
            }
            Kind::Float => {
                let sums: &BinaryArray = typed(table, batch, &format!("__{n}_sum"))?;
                let sums = sums.iter().map(|sum| FloatSum::from_bytes(sum.unwrap_or_default()));
                let pairs = sums.zip(counts()?.values()).map(|(sum, count)| Ok((sum?, *count)));
                Accumulators::Float(pairs.collect::<Result<_>>()?)
            }
            Kind::Distinct => {
                let sketches: &BinaryArray = typed(table, batch, &format!("__{n}_sketch"))?;
                let sketches = sketches.iter().map(|bytes| Distinct::from_bytes(bytes.unwrap_or_default()));
                Accumulators::Distinct(sketches.collect::<Result<_>>()?)
            }
            Kind::Number | Kind::Real | Kind::Text => {
                let name = format!("__{n}_best");
                let array = column(table, batch, &name)?;
                if *array.data_type() != self.value {
                    return Err(Error::checkpoint(
                        table,
                        format!("'{name}' is {}, not {}", array.data_type(), self.value),
                    ));
                }
                let one = RecordBatch::try_from_iter([(name, array.clone())])?;
                let input = Self { input: Some(0), ..self.clone() }.read(&one)?;
                let mut best = self.accumulators();
                let pairs: Vec<(u32, u32)> = (0..batch.num_rows() as u32).map(|row| (row, row)).collect();
                best.grow(batch.num_rows())?;
                best.update(&input, &pairs);
                best
            }
        })
    }

    /// Least or greatest values in the type of their column.
    fn best(&self, n: usize, rows: &[Row<'_>]) -> Result<ArrayRef> {
        let number = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Number { best, .. } => best[row.index as usize],
            _ => None,
        };
        let real = |row: &Row<'_>| match &row.groups.columns[n] {
            Accumulators::Real { best, .. } => best[row.index as usize],
            _ => None,
        };
        Ok(match self.kind {
            Kind::Real => Arc::new(rows.iter().map(real).collect::<Float64Array>()),
            Kind::Text => {
                let texts = rows.iter().map(|row| match &row.groups.columns[n] {
                    Accumulators::Text { best, .. } => best[row.index as usize].as_deref(),
                    _ => None,
                });
                Arc::new(texts.collect::<StringArray>())
            }
            _ => match &self.value {
                DataType::Decimal128(precision, scale) => {
                    let numbers = rows.iter().map(number).collect::<Decimal128Array>();
                    Arc::new(numbers.with_precision_and_scale(*precision, *scale)?)
                }
                DataType::UInt64 => {
                    let numbers = rows.iter().map(number).collect::<Decimal128Array>();
                    cast(&numbers.with_precision_and_scale(20, 0)?, &DataType::UInt64)?
                }
                value => {
                    let numbers: Int64Array = rows.iter().map(|row| number(row).map(|v| v as i64)).collect();
                    let between = through(value).unwrap_or(DataType::Int64);
                    cast(&cast(&numbers, &between)?, value)?
                }
            },
        })
    }
}

/// The integer type through which a type's values are read as numbers.
fn through(value: &DataType) -> Option<DataType> {
    match value {
        DataType::Date32 | DataType::Time32(_) => Some(DataType::Int32),
        DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Boolean => Some(DataType::Int64),
        v if v.is_integer() => Some(DataType::Int64),
        _ => None,
    }
}

fn average_scale(scale: i8) -> i8 {
    scale.saturating_add(AVERAGE_DIGITS).min(DECIMAL128_MAX_PRECISION as i8).max(scale)
}

fn to_f64(sum: &WideSum) -> f64 {
    sum.narrow().map_or(f64::NAN, |v| v as f64)
}

/// `sum / count` with so many digits more, halves rounded away from zero.
fn rounded_mean(sum: &WideSum, count: i64, digits: i8) -> Option<i128> {
    let power = i256::from_i128(10i128.pow(u32::try_from(digits).ok()?));
    let count = i256::from_i128(i128::from(count));
    let scaled = sum.wide().checked_mul(power)?;
    let (quotient, rest) = (scaled.checked_div(count)?, scaled.checked_rem(count)?);
    let away = rest.checked_abs()?.checked_mul(i256::from_i128(2))? >= count;
    let step = match (away, scaled.is_negative()) {
        (false, _) => i256::ZERO,
        (true, true) => i256::MINUS_ONE,
        (true, false) => i256::ONE,
    };
    quotient.checked_add(step)?.to_i128()
}
