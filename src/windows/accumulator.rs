//! What an aggregate keeps of each group, how it is fed and merged.

use arrow::array::{Array, Decimal128Array, Float64Array, Int64Array, StringArray};
use arrow::buffer::NullBuffer;
use arrow::row::Rows;
use datasketches::hash::value::{canonical_float, raw_bytes};

use super::exact::{FloatSum, WideSum};
use super::sketch::Distinct;
use crate::error::{Error, Result};

/// What an aggregate keeps of each group.
#[derive(Debug, Clone)]
pub(super) enum Accumulators {
    Count(Vec<i64>),
    Whole(Vec<(WideSum, i64)>),
    Float(Vec<(FloatSum, i64)>),
    Number { greatest: bool, best: Vec<Option<i128>> },
    Real { greatest: bool, best: Vec<Option<f64>> },
    Text { greatest: bool, best: Vec<Option<Box<str>>> },
    Distinct(Vec<Distinct>),
}

/// The values of a batch, as an aggregate reads them.
pub(super) enum Input {
    All,
    Nulls(Option<NullBuffer>),
    Integers(Int64Array),
    Decimals(Decimal128Array),
    Floats(Float64Array),
    Texts(StringArray),
    Rows(Rows, Option<NullBuffer>),
}

impl Accumulators {
    /// Bytes allocated.
    pub fn memory(&self) -> usize {
        match self {
            Self::Count(all) => all.capacity() * size_of::<i64>(),
            Self::Whole(all) => all.capacity() * size_of::<(WideSum, i64)>(),
            Self::Float(all) => all.capacity() * size_of::<(FloatSum, i64)>(),
            Self::Number { best, .. } => best.capacity() * size_of::<Option<i128>>(),
            Self::Real { best, .. } => best.capacity() * size_of::<Option<f64>>(),
            Self::Text { best, .. } => {
                let texts: usize = best.iter().flatten().map(|text| text.len()).sum();
                best.capacity() * size_of::<Option<Box<str>>>() + texts
            }
            Self::Distinct(all) => all.iter().map(Distinct::memory).sum(),
        }
    }

    /// Room for so many groups, the new ones empty.
    pub fn grow(&mut self, groups: usize) -> Result<()> {
        match self {
            Self::Count(counts) => counts.resize(groups, 0),
            Self::Whole(sums) => sums.resize(groups, Default::default()),
            Self::Float(sums) => sums.resize(groups, Default::default()),
            Self::Number { best, .. } => best.resize(groups, None),
            Self::Real { best, .. } => best.resize(groups, None),
            Self::Text { best, .. } => best.resize(groups, None),
            Self::Distinct(sketches) => {
                while sketches.len() < groups {
                    sketches.push(Distinct::new()?);
                }
            }
        }
        Ok(())
    }

    /// Feeds rows to groups: pairs of (row of the input, group).
    pub fn update(&mut self, input: &Input, pairs: &[(u32, u32)]) {
        match (self, input) {
            (Self::Count(counts), Input::All) => pairs.iter().for_each(|(_, group)| counts[*group as usize] += 1),
            (Self::Count(counts), Input::Nulls(nulls)) => {
                valid(nulls.as_ref(), pairs).for_each(|(_, group)| counts[group] += 1);
            }
            (Self::Whole(sums), Input::Integers(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs).for_each(|(row, group)| add_whole(&mut sums[group], values[row].into()));
            }
            (Self::Whole(sums), Input::Decimals(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs).for_each(|(row, group)| add_whole(&mut sums[group], values[row]));
            }
            (Self::Float(sums), Input::Floats(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs).for_each(|(row, group)| {
                    sums[group].0.add(values[row]);
                    sums[group].1 += 1;
                });
            }
            (Self::Number { greatest, best }, Input::Integers(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| better(*greatest, &mut best[group], values[row].into()));
            }
            (Self::Number { greatest, best }, Input::Decimals(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs).for_each(|(row, group)| better(*greatest, &mut best[group], values[row]));
            }
            (Self::Real { greatest, best }, Input::Floats(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| better_real(*greatest, &mut best[group], values[row]));
            }
            (Self::Text { greatest, best }, Input::Texts(array)) => {
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| better_text(*greatest, &mut best[group], array.value(row)));
            }
            (Self::Distinct(sketches), Input::Texts(array)) => {
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| sketches[group].add(raw_bytes::from_str(array.value(row))));
            }
            (Self::Distinct(sketches), Input::Integers(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs).for_each(|(row, group)| sketches[group].add(values[row]));
            }
            (Self::Distinct(sketches), Input::Decimals(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| sketches[group].add(raw_bytes::from_slice(&values[row].to_le_bytes())));
            }
            (Self::Distinct(sketches), Input::Floats(array)) => {
                let values = array.values();
                valid(array.nulls(), pairs)
                    .for_each(|(row, group)| sketches[group].add(canonical_float::from_f64(values[row])));
            }
            (Self::Distinct(sketches), Input::Rows(rows, nulls)) => {
                valid(nulls.as_ref(), pairs)
                    .for_each(|(row, group)| sketches[group].add(raw_bytes::from_slice(rows.row(row).as_ref())));
            }
            // A plan makes its accumulators and reads its input; no other pairs exist.
            _ => debug_assert!(false, "an aggregate was fed what it cannot read"),
        }
    }

    /// Takes in what another has of one group.
    pub fn merge(&mut self, to: usize, other: &Self, from: usize) -> Result<()> {
        match (self, other) {
            (Self::Count(a), Self::Count(b)) => a[to] += b[from],
            (Self::Whole(a), Self::Whole(b)) => {
                a[to].0.merge(&b[from].0);
                a[to].1 += b[from].1;
            }
            (Self::Float(a), Self::Float(b)) => {
                a[to].0.merge(&b[from].0);
                a[to].1 += b[from].1;
            }
            (Self::Number { greatest, best }, Self::Number { best: b, .. }) => {
                b[from].into_iter().for_each(|value| better(*greatest, &mut best[to], value));
            }
            (Self::Real { greatest, best }, Self::Real { best: b, .. }) => {
                b[from].into_iter().for_each(|value| better_real(*greatest, &mut best[to], value));
            }
            (Self::Text { greatest, best }, Self::Text { best: b, .. }) => {
                b[from].iter().for_each(|value| better_text(*greatest, &mut best[to], value));
            }
            (Self::Distinct(a), Self::Distinct(b)) => a[to].merge(&b[from])?,
            _ => return Err(Error::Internal("two aggregates of different kinds were merged".to_string())),
        }
        Ok(())
    }

    /// Puts what another has of one group in the place of one's own.
    pub fn replace(&mut self, to: usize, other: &Self, from: usize) -> Result<()> {
        match self {
            Self::Count(a) => a[to] = 0,
            Self::Whole(a) => a[to] = Default::default(),
            Self::Float(a) => a[to] = Default::default(),
            Self::Number { best, .. } => best[to] = None,
            Self::Real { best, .. } => best[to] = None,
            Self::Text { best, .. } => best[to] = None,
            Self::Distinct(a) => a[to] = Distinct::new()?,
        }
        self.merge(to, other, from)
    }
}

/// The pairs whose row is not null, as indices.
fn valid<'a>(nulls: Option<&'a NullBuffer>, pairs: &'a [(u32, u32)]) -> impl Iterator<Item = (usize, usize)> + 'a {
    pairs
        .iter()
        .map(|(row, group)| (*row as usize, *group as usize))
        .filter(move |(row, _)| nulls.is_none_or(|nulls| nulls.is_valid(*row)))
}

fn add_whole(sum: &mut (WideSum, i64), value: i128) {
    sum.0.add(value);
    sum.1 += 1;
}

fn better(greatest: bool, best: &mut Option<i128>, value: i128) {
    if best.is_none_or(|best| if greatest { value > best } else { value < best }) {
        *best = Some(value);
    }
}

/// By IEEE 754's total order: -0 below 0, NaN beyond infinity.
fn better_real(greatest: bool, best: &mut Option<f64>, value: f64) {
    // One NaN for all, and it is the greatest.
    let value = if value.is_nan() { f64::NAN } else { value };
    if best.is_none_or(|best| if greatest { value.total_cmp(&best).is_gt() } else { value.total_cmp(&best).is_lt() }) {
        *best = Some(value);
    }
}

fn better_text(greatest: bool, best: &mut Option<Box<str>>, value: &str) {
    if best.as_deref().is_none_or(|best| if greatest { value > best } else { value < best }) {
        *best = Some(value.into());
    }
}
