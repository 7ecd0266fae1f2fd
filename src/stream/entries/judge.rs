//! Events of the lake judged again, by today's contract.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use rayon::prelude::*;

use crate::contract::{Contract, JudgeRules, Judged};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::hash::HashKey;
use crate::sources::lake::{events, text, times};
use crate::stream::epoch::silver_schema;
use crate::stream::journal::{Journal, parse_key};
use crate::stream::operators::event_schema;
use crate::stream::run::contract_of;
use crate::stream::spec::{PipelineSpec, Shape};
use crate::stream::transform::{Transform, transformed};

/// Today's contract and settings, and the key of the pipeline's hash.
pub struct Judge {
    /// The contract.
    pub contract: Contract,
    /// The settings that shape rows.
    pub shape: Shape,
    /// The key.
    pub key: HashKey,
    /// The columns of an accepted event.
    pub events: SchemaRef,
    /// The columns of Silver.
    pub silver: SchemaRef,
    /// The pipeline's own function over valid rows, where it has one.
    transform: Option<Arc<dyn Transform>>,
    /// The columns of valid rows, after it.
    rows: SchemaRef,
}

/// What judging needs beside the pipeline file.
#[derive(Debug, Clone, Default)]
pub struct Means<'a> {
    /// The secret that personal properties are hashed with.
    pub secret: Option<&'a [u8]>,
    /// The pipeline's own function over valid rows.
    pub transform: Option<Arc<dyn Transform>>,
}

/// A piece of the lake, judged.
pub struct Piece {
    /// Which rows of the batch these events were.
    pub rows: Range<usize>,
    /// The events.
    pub events: RawEvents,
    /// What the contract says of them.
    pub judged: Judged,
}

/// Valid events.
pub struct Valid {
    /// Their columns.
    pub rows: RecordBatch,
    /// The hashes of their keys.
    pub keys: Vec<u128>,
    /// Their times.
    pub times: Vec<i64>,
}

impl Judge {
    /// What a pipeline judges by today.
    ///
    /// # Errors
    /// [`Error::Contract`] when the contract is broken, [`Error::Settings`] when a secret is needed and not given.
    pub fn new(spec: &PipelineSpec, journal: &Journal<'_>, means: &Means<'_>) -> Result<Self> {
        let shape = spec.shape();
        let contract = contract_of(&spec.contract_text, &spec.contract_path, &shape)?.with_secret(means.secret);
        if contract.needs_secret() && means.secret.is_none() {
            return Err(Error::settings(
                "pii.secret",
                "the contract hashes personal properties; give the secret to do it with",
            ));
        }
        let identity = journal
            .existing_identity()?
            .ok_or_else(|| Error::lake(&spec.lake, format!("has no pipeline {}; run it first", spec.name)))?;
        if let (Some(wanted), None) = (&shape.transform, &means.transform) {
            return Err(Error::settings("transform", format!("{} was not handed over", wanted.function)));
        }
        let rows = shape.rows(&contract.schema())?;
        let (events, silver) = (event_schema(&rows), silver_schema(&rows));
        let transform = means.transform.clone().filter(|_| shape.transform.is_some());
        Ok(Self { contract, shape, key: parse_key(&identity.key)?, events, silver, transform, rows })
    }

    /// Judges rows of Bronze or dead letters. `arrival` is the moment by which times of the future are known; that at
    /// which each event came unless given.
    ///
    /// # Errors
    /// As [`Contract::judge`].
    pub fn judge(&self, batch: &RecordBatch, arrival: Option<i64>) -> Result<Vec<Piece>> {
        let rules = JudgeRules { max_future_skew: Some(self.shape.watermark.max_future_skew_us) };
        let judged = events(batch)?.into_par_iter().map(|(rows, mut events)| {
            events.arrival = arrival.unwrap_or(events.arrival);
            let judged = self.contract.judge(&events, &rules)?;
            Ok(Piece { rows, events, judged })
        });
        let mut pieces = judged.collect::<Result<Vec<Piece>>>()?;
        if let Some(transform) = &self.transform {
            let valid = concat_batches(&self.contract.schema(), pieces.iter().map(|p| &p.judged.valid))?;
            let made = transformed(transform.as_ref(), &valid, &self.rows)?;
            let mut from = 0;
            for piece in &mut pieces {
                let rows = piece.judged.valid.num_rows();
                piece.judged.valid = made.slice(from, rows);
                from += rows;
            }
        }
        Ok(pieces)
    }

    /// The valid events of a piece, with their positions.
    ///
    /// # Errors
    /// [`Error::Data`] when Arrow cannot hold them.
    pub fn valid(&self, piece: &Piece) -> Result<Valid> {
        let rows = &piece.judged.valid;
        let n = rows.num_rows();
        let offsets = piece.judged.rows.iter().map(|row| piece.events.offsets.value(*row as usize));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(piece.events.topic.as_ref(), n))));
        columns.push(Arc::new(Int32Array::from_value(piece.events.partition, n)));
        columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
        let rows = RecordBatch::try_new(self.events.clone(), columns)?;
        Ok(Valid { keys: self.keys(&rows)?, times: times(&rows, "event_time")?.values().to_vec(), rows })
    }

    /// The hashes of the keys of these rows.
    ///
    /// # Errors
    /// [`Error::Data`] when they have no keys.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Vec<u128>> {
        let keys = text(rows, "idempotency_key")?;
        Ok(keys.iter().map(|k| self.key.hash(k.unwrap_or_default().as_bytes())).collect())
    }

    /// The settings of sessions.
    pub fn gap(&self) -> Option<(i64, Option<i64>)> {
        self.shape.sessions.as_ref().map(|s| (s.gap_us, s.max_duration_us))
    }
}
