//! Contracts in Python.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryViewArray, Int64Array, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use pyo3_arrow::PySchema;
use pyo3_arrow::input::AnyArray;
use rayon::prelude::*;

use super::errors::to_python;
use super::gate::{OnInterrupt, Stop, enter, enter_apart, tell};
use super::table::Table;
use crate::contract::{self, JudgeRules, Judged, Limits, Rejected};
use crate::events::RawEvents;
use crate::sinks::dead_letters::{self, Letter};
use crate::sources::files::{Files, FilesSettings};
use crate::sources::{Chunk, Source, Want, lines};
use crate::{Error, Result};

/// Rows of a column judged by one thread at once.
const ROWS_A_PIECE: usize = 8_192;
/// Pieces of a text judged at once.
const PIECES_AT_ONCE: usize = 16;
/// Bytes of a file read at once.
const BURST_BYTES: usize = 16 << 20;

/// What a valid event is, compiled.
#[pyclass(module = "penstock._core", frozen)]
pub struct Contract {
    /// The engine's own.
    pub inner: contract::Contract,
}

fn with_options(
    contract: contract::Contract,
    max_bytes: Option<usize>,
    max_depth: Option<usize>,
    assert_formats: bool,
    secret: Option<&[u8]>,
) -> Result<Contract> {
    let defaults = Limits::default();
    let limits = Limits {
        max_bytes: max_bytes.unwrap_or(defaults.max_bytes),
        max_depth: max_depth.unwrap_or(defaults.max_depth),
    };
    let contract = contract.with_limits(limits)?;
    let contract = if assert_formats { contract } else { contract.with_format_assertion(false)? };
    Ok(Contract { inner: contract.with_secret(secret) })
}

#[pymethods]
impl Contract {
    #[staticmethod]
    #[pyo3(signature = (path, *, max_bytes=None, max_depth=None, assert_formats=true, secret=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        max_bytes: Option<usize>,
        max_depth: Option<usize>,
        assert_formats: bool,
        secret: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let contract = py.detach(|| contract::Contract::load(&path)).map_err(|e| to_python(py, e))?;
        with_options(contract, max_bytes, max_depth, assert_formats, secret.as_deref()).map_err(|e| to_python(py, e))
    }

    #[staticmethod]
    #[pyo3(signature = (text, origin, *, max_bytes=None, max_depth=None, assert_formats=true, secret=None))]
    fn from_text(
        py: Python<'_>,
        text: &str,
        origin: PathBuf,
        max_bytes: Option<usize>,
        max_depth: Option<usize>,
        assert_formats: bool,
        secret: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let contract = py.detach(|| contract::Contract::from_text(text, &origin)).map_err(|e| to_python(py, e))?;
        with_options(contract, max_bytes, max_depth, assert_formats, secret.as_deref()).map_err(|e| to_python(py, e))
    }

    #[getter]
    fn name(&self) -> &str {
        self.inner.name()
    }

    #[getter]
    fn text(&self) -> &str {
        self.inner.text()
    }

    #[getter]
    fn digest(&self) -> String {
        self.inner.digest()
    }

    #[getter]
    fn schema(&self) -> PySchema {
        PySchema::new(self.inner.schema())
    }

    #[getter]
    fn event_types(&self) -> Vec<String> {
        self.inner.event_types().into_iter().map(str::to_owned).collect()
    }

    fn columns(&self) -> Vec<(String, String)> {
        self.inner.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().to_string())).collect()
    }

    fn explain(&self) -> String {
        self.inner.explain().to_string()
    }
}

/// Compares two contracts; gives JSON.
#[pyfunction]
pub fn contract_diff(old: &Contract, new: &Contract) -> PyResult<String> {
    let diff = contract::diff(&old.inner, &new.inner);
    serde_json::to_string(&diff).map_err(|e| Python::attach(|py| to_python(py, Error::Internal(e.to_string()))))
}

/// What `validate` reads.
#[derive(FromPyObject)]
pub enum Data<'py> {
    /// JSON lines in memory.
    Bytes(Bound<'py, PyBytes>),
    /// A column of text or binary.
    Column(AnyArray),
    /// A file of JSON lines.
    Path(PathBuf),
}

/// Validates a file, bytes or a column; gives valid rows, dead letters and counts as JSON.
#[pyfunction]
#[pyo3(signature = (contract, data, *, progress=None))]
pub fn validate(
    py: Python<'_>,
    contract: &Contract,
    data: Data<'_>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Table, Table, String)> {
    let arrival = chrono::Utc::now().timestamp_micros();
    let contract = contract.inner.clone();
    let input = match data {
        Data::Bytes(bytes) => Input::Bytes(bytes.as_bytes().to_vec()),
        Data::Path(path) => Input::Path(path),
        Data::Column(column) => {
            let (chunks, _) = column.into_chunked_array()?.into_inner();
            Input::Column(chunks)
        }
    };
    let calls_python = progress.is_some();
    let work = move |stop: &Stop| {
        let rules = JudgeRules { max_future_skew: None };
        let version = contract.digest();
        let mut valid = vec![];
        let mut dead = vec![];
        let mut codes = std::collections::BTreeMap::new();
        let (mut events, mut rejected) = (0_usize, 0_usize);
        let mut take = |pieces: Vec<RawEvents>| -> Result<()> {
            stop.check()?;
            let judged = pieces
                .par_iter()
                .map(|piece| {
                    stop.check()?;
                    let judged = contract.judge_packed(piece, &rules)?;
                    let letters: Vec<_> = judged.rejected.iter().map(|r| letter(&judged, r)).collect();
                    let rows = if letters.is_empty() {
                        None
                    } else {
                        Some(dead_letters::batch(piece, &letters, &version, 0)?)
                    };
                    drop(letters);
                    Ok((judged, rows))
                })
                .collect::<Result<Vec<_>>>()?;
            for (judged, letters) in judged {
                events += judged.rows.len() + judged.rejected.len();
                rejected += judged.rejected.len();
                for problem in judged.rejected.iter().filter_map(|r| r.problems.first()) {
                    *codes.entry(problem.code).or_insert(0_u64) += 1;
                }
                valid.push(judged.valid);
                dead.extend(letters);
            }
            tell(progress.as_ref(), events as u64)
        };
        match input {
            Input::Bytes(bytes) => {
                for some in lines::pieces(bytes, arrival)?.chunks(PIECES_AT_ONCE) {
                    take(some.to_vec())?;
                }
            }
            Input::Path(path) => {
                let paths = vec![path.to_string_lossy().into_owned()];
                let mut files = Files::new(FilesSettings { base: ".".into(), paths, bounded: true })?;
                files.restore(&[])?;
                files.refresh(arrival)?;
                let want = Want { bytes: BURST_BYTES, events: usize::MAX, arrival };
                let none = |_: &str, _: i32| None;
                let mut chunk = files.next(&none, &want)?;
                // The next chunk is read while this one is judged.
                while let Some(Chunk { pieces, .. }) = chunk {
                    let (taken, next) = rayon::join(|| take(pieces), || files.next(&none, &want));
                    taken?;
                    chunk = next?;
                }
            }
            Input::Column(chunks) => {
                let mut offset = 0;
                for chunk in chunks {
                    take(column_pieces(&chunk, &mut offset, arrival)?)?;
                }
            }
        }
        let counts = serde_json::json!({
            "events": events, "valid": events - rejected, "rejected": rejected,
            "rejected_by_code": codes.iter().map(|(c, n)| (c.as_str(), *n)).collect::<std::collections::BTreeMap<_, _>>(),
        });
        Ok((Table::new(contract.schema(), valid), Table::new(dead_letters::schema(), dead), counts.to_string()))
    };
    if calls_python { enter_apart(py, OnInterrupt::Abandon, work) } else { enter(py, OnInterrupt::Abandon, work) }
}

/// A dead letter of an event that is not valid.
fn letter<'a>(judged: &Judged, rejected: &'a Rejected) -> Letter<'a> {
    Letter {
        row: rejected.row,
        problems: &rejected.problems,
        event_type: rejected.event_type.as_deref(),
        schema_version: rejected.schema_version.as_deref(),
        idempotency_key: rejected.idempotency_key.as_deref(),
        entity: rejected.entity.as_deref(),
        event_time: judged.event_time.get(rejected.row as usize).copied().flatten(),
    }
}

enum Input {
    Bytes(Vec<u8>),
    Path(PathBuf),
    Column(Vec<ArrayRef>),
}

fn column_pieces(column: &ArrayRef, offset: &mut i64, arrival: i64) -> Result<Vec<RawEvents>> {
    // A table comes as a column of structs.
    if let Some(table) = column.as_any().downcast_ref::<StructArray>() {
        let [only] = table.columns() else {
            return Err(Error::Data(format!(
                "validate takes one column, and this table has {}: {}; choose the one that holds the events",
                table.num_columns(),
                table.column_names().join(", ")
            )));
        };
        return column_pieces(only, offset, arrival);
    }
    let binary = match column.data_type() {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => cast(column, &DataType::BinaryView)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            cast(&cast(column, &DataType::Utf8View)?, &DataType::BinaryView)?
        }
        DataType::Dictionary(_, value) if value.is_string() => {
            cast(&cast(column, &DataType::Utf8View)?, &DataType::BinaryView)?
        }
        other => {
            return Err(Error::Data(format!(
                "validate takes a column of text or binary, one event a row; this one is {other}"
            )));
        }
    };
    let values = binary
        .as_any()
        .downcast_ref::<BinaryViewArray>()
        .ok_or_else(|| Error::Internal("a cast gave another type".into()))?;
    let mut pieces = vec![];
    for from in (0..values.len()).step_by(ROWS_A_PIECE) {
        let values = values.slice(from, ROWS_A_PIECE.min(values.len() - from));
        let n = values.len() as i64;
        pieces.push(RawEvents {
            topic: Arc::from(""),
            partition: 0,
            offsets: Int64Array::from_iter_values(*offset..*offset + n),
            values,
            timestamps: None,
            timestamp_type: None,
            keys: None,
            headers: None,
            truncated: vec![],
            arrival,
        });
        *offset += n;
    }
    Ok(pieces)
}
