//! Windows of event time: tumbling and hopping, aligned to the Unix epoch, half-open.
//!
//! Events are summed up in *panes*, the stretches between any two neighbouring edges of windows (at most two for each
//! slide: Krishnamurthy, Wu, Franklin, *On-the-Fly Sharing for Streamed Aggregation*, 2006). An event touches one pane,
//! however many windows it lies in, and a window is the union of its panes. Every aggregate is independent of the order
//! of events: integers and decimals are exact, sums of floats exact until they are rounded once, distinct counts a
//! sketch of registers.

mod accumulator;
mod exact;
mod groups;
mod operator;
mod plan;
mod saved;
mod sketch;

use crate::error::{Error, Result};

pub use operator::{Windows, aggregate_windows};

/// What a window aggregates. Times in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowSpec {
    /// The name, for messages and for the tables of the state.
    pub name: String,
    /// How long a window is.
    pub size: i64,
    /// How far apart windows begin; none: as far as they are long (tumbling).
    pub slide: Option<i64>,
    /// The columns to group by; null is a value.
    pub by: Vec<String>,
    /// The event types that count; all when there are none.
    pub from: Vec<String>,
    /// The columns to make.
    pub aggregates: Vec<(String, Aggregate)>,
}

/// An aggregate function over a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aggregate {
    /// Events; of a column, those where it is not null.
    Count(Option<String>),
    /// The sum of what is not null; null without any.
    Sum(String),
    /// The average of what is not null; null without any. Of decimals a decimal with six digits more.
    Avg(String),
    /// The least that is not null.
    Min(String),
    /// The greatest that is not null.
    Max(String),
    /// About how many different values that are not null (HyperLogLog with 4,096 registers: 1.6 % standard error).
    ApproxCountDistinct(String),
}

impl Aggregate {
    /// Reads `sum(amount)` and the like.
    ///
    /// # Errors
    /// [`Error::Settings`] that names the nearest function.
    pub fn parse(text: &str) -> Result<Self> {
        const FUNCTIONS: [&str; 6] = ["count", "sum", "avg", "min", "max", "approx_count_distinct"];
        let wrong = |reason: String| Error::settings("aggregates", format!("'{text}': {reason}"));
        let call = text.trim().strip_suffix(')').and_then(|call| call.split_once('('));
        let Some((function, argument)) = call else {
            return Err(wrong("write a function of a column, like sum(amount)".to_string()));
        };
        let (function, argument) = (function.trim().to_lowercase(), argument.trim());
        if function == "count" {
            return Ok(Self::Count((!matches!(argument, "" | "*")).then(|| argument.to_string())));
        }
        let make = match function.as_str() {
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "approx_count_distinct" => Self::ApproxCountDistinct,
            other => {
                let near = crate::columns::nearest(other, &FUNCTIONS);
                let hint =
                    near.map_or(format!("known are {}", FUNCTIONS.join(", ")), |near| format!("did you mean {near}?"));
                return Err(wrong(format!("there is no function '{other}'; {hint}")));
            }
        };
        if argument.is_empty() {
            return Err(wrong(format!("{function} needs a column, like {function}(amount)")));
        }
        Ok(make(argument.to_string()))
    }

    /// The column that it reads.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Count(column) => column.as_deref(),
            Self::Sum(c) | Self::Avg(c) | Self::Min(c) | Self::Max(c) | Self::ApproxCountDistinct(c) => Some(c),
        }
    }
}

impl std::fmt::Display for Aggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let function = match self {
            Self::Count(_) => "count",
            Self::Sum(_) => "sum",
            Self::Avg(_) => "avg",
            Self::Min(_) => "min",
            Self::Max(_) => "max",
            Self::ApproxCountDistinct(_) => "approx_count_distinct",
        };
        write!(f, "{function}({})", self.column().unwrap_or_default())
    }
}

impl WindowSpec {
    fn slide(&self) -> i64 {
        self.slide.unwrap_or(self.size)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str, reason: &str| Err(Error::settings(format!("windows.{}.{what}", self.name), reason));
        if self.size <= 0 {
            return wrong("size", "must be positive");
        }
        if self.slide() <= 0 {
            return wrong("slide", "must be positive; leave it out for windows that touch");
        }
        if self.slide() > self.size {
            return wrong("slide", "must not be longer than size: events between two windows would count nowhere");
        }
        if self.aggregates.is_empty() {
            return wrong("aggregates", "name at least one, like {events: count()}");
        }
        let mut taken = vec!["window_start", "window_end"];
        for name in self.by.iter().chain(self.aggregates.iter().map(|(name, _)| name)) {
            if taken.contains(&name.as_str()) {
                return wrong("aggregates", &format!("two columns would be called '{name}'"));
            }
            taken.push(name);
        }
        Ok(())
    }

    /// The pane that holds a moment.
    fn pane(&self, time: i64) -> Pane {
        let slide = self.slide();
        let into = time.rem_euclid(slide);
        let start = time.saturating_sub(into);
        // Windows begin at each slide and end this far into one.
        match self.size.rem_euclid(slide) {
            edge if edge > into => Pane { start, end: start.saturating_add(edge) },
            edge => Pane { start: start.saturating_add(edge), end: start.saturating_add(slide) },
        }
    }

    /// The starts of the windows that hold the pane beginning at `pane`, in order.
    fn windows_of(&self, pane: i64) -> impl DoubleEndedIterator<Item = i64> + use<> {
        let (slide, size) = (self.slide(), self.size);
        let last = pane.saturating_sub(pane.rem_euclid(slide));
        // Those that begin at or before the pane and end after its beginning.
        let more = (last.saturating_add(size) - 1).saturating_sub(pane) / slide;
        (0..=more).rev().map(move |n| last.saturating_sub(n * slide))
    }

    fn end_of(&self, window: i64) -> i64 {
        window.saturating_add(self.size)
    }
}

/// A stretch without an edge of a window in it, half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pane {
    start: i64,
    end: i64,
}

#[cfg(test)]
mod tests;
