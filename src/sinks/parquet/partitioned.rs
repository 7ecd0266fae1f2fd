//! Rows to the files of their partitions.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, max, min, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMicrosecondType};
use rayon::prelude::*;

use super::encoder::at_most;
use super::{Encoder, ParquetSettings};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::lake::layout::Partition;
use crate::packed;
use crate::time::DAY;

/// A partition with fewer rows waits with encoding: thousands of small ones must not hold an encoder each.
const PATIENCE: usize = if cfg!(test) { 64 } else { 16 << 10 };
/// So many rows wait at most, in all partitions together.
const WAITING: usize = 256 << 10;
/// So many rows are encoded in one go where many come at once.
const TOGETHER: usize = 32 << 10;
/// What an encoder takes for each column before it holds anything, about.
const OVERHEAD: usize = 4 << 10;

/// A file that is ready to be put.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Its path.
    pub path: String,
    /// Its partition.
    pub partition: Partition,
    /// Its bytes.
    pub content: Content,
    /// Its rows.
    pub rows: u64,
    /// The lowest event time in it.
    pub min_time: Option<i64>,
    /// The highest event time in it.
    pub max_time: Option<i64>,
}

/// Writes a table: rows come with their partitions, files come out at the end.
pub struct PartitionedWriter {
    schema: SchemaRef,
    settings: ParquetSettings,
    time: Option<usize>,
    partitions: BTreeMap<Partition, Slot>,
    /// Rows that wait for being encoded.
    waiting: usize,
    /// Whether some need not wait any longer.
    touched: bool,
    /// Rows that came since some were last encoded.
    soon: usize,
}

/// What one partition has.
#[derive(Default)]
struct Slot {
    waiting: Vec<RecordBatch>,
    /// The rows that wait.
    rows: usize,
    encoder: Option<Encoder>,
    times: Times,
    full: Vec<(Content, u64, Times)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    min: Option<i64>,
    max: Option<i64>,
}

impl PartitionedWriter {
    /// A table with these columns (those of the partition are not among them).
    pub fn new(schema: &SchemaRef, settings: &ParquetSettings) -> Self {
        let time = schema.index_of(&settings.time_column).ok();
        let time = time.filter(|&i| *schema.field(i).data_type() == timestamp());
        Self {
            schema: Arc::clone(schema),
            settings: settings.clone(),
            time,
            partitions: BTreeMap::new(),
            waiting: 0,
            touched: false,
            soon: 0,
        }
    }

    /// The writer with all that was written, and a new one in its place.
    pub fn take(&mut self) -> Self {
        let fresh = Self::new(&self.schema, &self.settings);
        std::mem::replace(self, fresh)
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// About how many bytes are encoded so far.
    pub fn bytes(&self) -> usize {
        self.partitions.values().map(Slot::bytes).sum()
    }

    /// Adds rows to one partition.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be encoded.
    pub fn write(&mut self, partition: &Partition, batch: &RecordBatch) -> Result<()> {
        self.hold(partition, batch);
        self.encode_held()
    }

    /// The same, but not necessarily now: many small batches are encoded in one go.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be encoded.
    pub fn write_soon(&mut self, partition: &Partition, batch: &RecordBatch) -> Result<()> {
        self.hold(partition, batch);
        self.soon += batch.num_rows();
        if self.soon >= TOGETHER { self.encode_held() } else { Ok(()) }
    }

    /// Takes rows that are to be encoded.
    fn hold(&mut self, partition: &Partition, batch: &RecordBatch) {
        if batch.num_rows() == 0 {
            return;
        }
        if !self.partitions.contains_key(partition) {
            self.partitions.insert(partition.clone(), Slot::default());
        }
        let Some(slot) = self.partitions.get_mut(partition) else { return };
        slot.rows += batch.num_rows();
        slot.waiting.push(batch.clone());
        self.waiting += batch.num_rows();
        self.touched |= slot.is_due();
    }

    /// Encodes what need not wait.
    fn encode_held(&mut self) -> Result<()> {
        let (schema, time, settings) = (&self.schema, self.time, &self.settings);
        self.soon = 0;
        if std::mem::take(&mut self.touched) {
            let mut due: Vec<_> = self.partitions.values_mut().filter(|slot| slot.is_due()).collect();
            // None is to wait for one that is large and was begun last.
            due.sort_by_key(|slot| Reverse(slot.rows));
            let encoded = due.into_iter().par_bridge().map(|slot| slot.encode(schema, time, settings));
            self.waiting -= encoded.sum::<Result<usize>>()?;
        }
        while self.waiting > WAITING {
            // So many partitions that none has much: the one with most has to go first.
            let Some(slot) = self.partitions.values_mut().max_by_key(|slot| slot.rows) else { break };
            self.waiting -= slot.encode(schema, time, settings)?;
        }
        Ok(())
    }

    /// Adds rows to the partitions that `groups` names: for each row an index into `partitions`.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be encoded.
    pub fn write_grouped(&mut self, batch: &RecordBatch, groups: &[u32], partitions: &[Partition]) -> Result<()> {
        self.hold_grouped(batch, groups, partitions)?;
        self.encode_held()
    }

    /// Adds many batches so: the same bytes, but each file takes its rows of all of them in one go.
    ///
    /// # Errors
    /// As [`PartitionedWriter::write_grouped`].
    pub fn write_all_grouped(
        &mut self,
        batches: impl IntoIterator<Item = Result<(RecordBatch, Vec<u32>, Vec<Partition>)>>,
    ) -> Result<()> {
        for batch in batches {
            let (batch, groups, partitions) = batch?;
            self.hold_grouped(&batch, &groups, &partitions)?;
        }
        self.encode_held()
    }

    fn hold_grouped(&mut self, batch: &RecordBatch, groups: &[u32], partitions: &[Partition]) -> Result<()> {
        if groups.len() != batch.num_rows() {
            return Err(Error::Internal(format!("{} groups for {} rows", groups.len(), batch.num_rows())));
        }
        let Some(first) = groups.first() else { return Ok(()) };
        if groups.iter().all(|g| g == first) {
            self.hold(&partitions[*first as usize], batch);
            return Ok(());
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); partitions.len()];
        for (row, group) in groups.iter().enumerate() {
            rows[*group as usize].push(row as u32);
        }
        for (rows, partition) in rows.into_iter().zip(partitions).filter(|(rows, _)| !rows.is_empty()) {
            self.hold(partition, &select(batch, rows)?);
        }
        Ok(())
    }

    /// Adds rows to the partition `date=…` of a timestamp column.
    ///
    /// # Errors
    /// [`Error::Data`] when there is no such column without nulls, or the rows cannot be encoded.
    pub fn write_by_date(&mut self, batch: &RecordBatch, column: &str) -> Result<()> {
        self.hold_by_date(batch, column)?;
        self.encode_held()
    }

    /// Adds many batches so: the same bytes, but each column takes several batches in one go.
    ///
    /// # Errors
    /// As [`PartitionedWriter::write_by_date`].
    pub fn write_all_by_date(
        &mut self,
        batches: impl IntoIterator<Item = Result<RecordBatch>>,
        column: &str,
    ) -> Result<()> {
        for batch in batches {
            let batch = batch?;
            self.soon += batch.num_rows();
            self.hold_by_date(&batch, column)?;
            if self.soon >= TOGETHER {
                self.encode_held()?;
            }
        }
        self.encode_held()
    }

    fn hold_by_date(&mut self, batch: &RecordBatch, column: &str) -> Result<()> {
        let times = batch.column_by_name(column).filter(|c| *c.data_type() == timestamp() && c.null_count() == 0);
        let Some(times) = times.map(|c| c.as_primitive::<TimestampMicrosecondType>()) else {
            return Err(Error::Internal(format!("no column {column} of times to partition by")));
        };
        let (Some(first), Some(last)) = (min(times), max(times)) else { return Ok(()) };
        let (first, last) = (first.div_euclid(DAY), last.div_euclid(DAY));
        if first == last {
            self.hold(&Partition::day(first), batch);
            return Ok(());
        }
        let days: Vec<i64> = times.values().iter().map(|t| t.div_euclid(DAY)).collect();
        let mut distinct = days.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let partitions: Vec<_> = distinct.iter().map(|day| Partition::day(*day)).collect();
        let groups: Vec<u32> = days.iter().map(|day| distinct.partition_point(|d| d < day) as u32).collect();
        self.hold_grouped(batch, &groups, &partitions)
    }

    /// Closes every file.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be encoded.
    pub fn close_all(&mut self) -> Result<()> {
        let (schema, time, settings) = (&self.schema, self.time, &self.settings);
        let mut slots: Vec<_> = self.partitions.values_mut().collect();
        self.waiting = 0;
        slots.par_iter_mut().with_max_len(1).try_for_each(|slot| slot.close(schema, time, settings).map(|_| ()))
    }

    /// The files that are full already; those of a long table need not be kept till the end.
    pub fn take_full(&mut self) -> Vec<(Partition, Content, u64)> {
        let slots = self.partitions.iter_mut();
        slots.flat_map(|(p, slot)| slot.full.drain(..).map(|(content, rows, _)| (p.clone(), content, rows))).collect()
    }

    /// The beginnings of files that are not full yet, so many bytes of each at least; what comes later of each file follows
    /// on them.
    pub fn take_done(&mut self, least: usize) -> Vec<(Partition, Content)> {
        let done = |slot: &mut Slot| slot.encoder.as_mut().and_then(|encoder| encoder.take_done(least));
        self.partitions.iter_mut().filter_map(|(p, slot)| done(slot).map(|content| (p.clone(), content))).collect()
    }

    /// The same with the times in them; `name` gives a path to each.
    pub fn take_files(&mut self, name: &mut dyn FnMut(&Partition) -> String) -> Vec<DataFile> {
        let mut files = vec![];
        for (partition, slot) in &mut self.partitions {
            for (content, rows, times) in slot.full.drain(..) {
                let path = name(partition);
                let partition = partition.clone();
                files.push(DataFile { path, partition, content, rows, min_time: times.min, max_time: times.max });
            }
        }
        files
    }

    /// Closes the file that has grown largest, to make room.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be encoded.
    pub fn close_largest(&mut self) -> Result<()> {
        match self.partitions.values_mut().max_by_key(|slot| slot.bytes()) {
            Some(slot) => {
                self.waiting -= slot.close(&self.schema, self.time, &self.settings)?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The files, sorted by partition and part. `name` gives the path of a part of a partition.
    ///
    /// # Errors
    /// [`Error::Data`] when they cannot be encoded.
    pub fn finish(mut self, name: &dyn Fn(&Partition, u32) -> String) -> Result<Vec<DataFile>> {
        self.close_all()?;
        let parts = self.partitions.into_iter().flat_map(|(partition, slot)| {
            let files = slot.full.into_iter().zip(0..);
            files.map(move |(file, part)| (partition.clone(), part, file))
        });
        let files = parts.map(|(partition, part, (content, rows, times))| DataFile {
            path: name(&partition, part),
            partition,
            content,
            rows,
            min_time: times.min,
            max_time: times.max,
        });
        Ok(files.collect())
    }
}

impl Slot {
    /// Encodes the rows that wait; how many they were.
    fn encode(&mut self, schema: &SchemaRef, time: Option<usize>, settings: &ParquetSettings) -> Result<usize> {
        let waiting = std::mem::take(&mut self.waiting);
        if let (Some(encoder), 2..) = (&mut self.encoder, waiting.len()) {
            let bytes = waiting.iter().map(at_most).sum::<Result<usize>>()?;
            if encoder.rows() + self.rows < settings.file_rows && encoder.bytes() + 2 * bytes < settings.file_bytes {
                encoder.write_all(&waiting)?;
                for column in waiting.iter().filter_map(|batch| Some(batch.column(time?))) {
                    let times = column.as_primitive::<TimestampMicrosecondType>();
                    self.times = self.times.with(min(times), max(times));
                }
                return Ok(std::mem::take(&mut self.rows));
            }
        }
        for batch in waiting {
            let mut from = 0;
            while from < batch.num_rows() {
                let encoder = match &mut self.encoder {
                    Some(encoder) => encoder,
                    none => none.insert(Encoder::new(schema, settings)?),
                };
                let rows = (batch.num_rows() - from).min(settings.file_rows.max(1) - encoder.rows());
                let slice = batch.slice(from, rows);
                encoder.write(&slice)?;
                if let Some(time) = time {
                    let times = slice.column(time).as_primitive::<TimestampMicrosecondType>();
                    self.times = self.times.with(min(times), max(times));
                }
                from += rows;
                if encoder.rows() >= settings.file_rows || encoder.bytes() >= settings.file_bytes {
                    self.finish_file()?;
                }
            }
        }
        Ok(std::mem::take(&mut self.rows))
    }

    fn close(&mut self, schema: &SchemaRef, time: Option<usize>, settings: &ParquetSettings) -> Result<usize> {
        let rows = self.encode(schema, time, settings)?;
        self.finish_file()?;
        Ok(rows)
    }

    fn finish_file(&mut self) -> Result<()> {
        if let Some(encoder) = self.encoder.take() {
            let rows = encoder.rows() as u64;
            self.full.push((encoder.finish()?, rows, std::mem::take(&mut self.times)));
        }
        Ok(())
    }

    /// Whether what waits is to be encoded now.
    fn is_due(&self) -> bool {
        !self.waiting.is_empty() && (self.rows >= PATIENCE || self.encoder.is_some())
    }

    fn bytes(&self) -> usize {
        let full: usize = self.full.iter().map(|(content, ..)| content.len()).sum();
        full + self.encoder.as_ref().map_or(0, |e| e.bytes() + e.columns() * OVERHEAD)
    }
}

impl Times {
    fn with(self, min: Option<i64>, max: Option<i64>) -> Self {
        let lower = self.min.into_iter().chain(min).min();
        Self { min: lower, max: self.max.max(max) }
    }
}

fn timestamp() -> arrow::datatypes::DataType {
    use arrow::datatypes::{DataType, TimeUnit};
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// These rows of a batch, in this order.
fn select(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let few = rows.len() < batch.num_rows() / 4;
    let consecutive = rows.windows(2).all(|w| w[1] == w[0] + 1);
    let selected = match rows.first() {
        Some(first) if consecutive => batch.slice(*first as usize, rows.len()),
        _ => take_record_batch(batch, &UInt32Array::from(rows))?,
    };
    if few { of_its_own(&selected) } else { Ok(selected) }
}

/// The same rows with values of their own: a few that wait must not keep all alive that was read with them.
fn of_its_own(batch: &RecordBatch) -> Result<RecordBatch> {
    let own = |column: &ArrayRef| -> Result<ArrayRef> {
        Ok(match column.data_type() {
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::Dictionary(..) if column.as_any_dictionary().values().len() > column.len() => {
                cast(column, packed::plain_type(column.data_type()))?
            }
            _ => Arc::clone(column),
        })
    };
    let columns = batch.columns().iter().map(own).collect::<Result<Vec<_>>>()?;
    let fields = batch.schema_ref().fields().iter().zip(&columns).map(|(field, column)| match column.data_type() {
        same if same == field.data_type() => Arc::clone(field),
        plain => Arc::new(field.as_ref().clone().with_data_type(plain.clone())),
    });
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), batch.schema_ref().metadata().clone());
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn a_few_rows_do_not_keep_all_values() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
        ]));
        let numbers: Vec<u16> = (0..10_000).collect();
        let text: StringArray = numbers.iter().map(|n| Some(format!("a text that is rather long, {n}"))).collect();
        let columns = vec![
            packed::of(numbers.clone(), None, text).unwrap(),
            packed::of(numbers.clone(), None, Int64Array::from_iter_values(0..10_000)).unwrap(),
        ];
        let batch = packed::batch(&schema, columns).unwrap();
        let few = select(&batch, vec![7, 9_000]).unwrap();
        assert!(few.get_array_memory_size() < 1_000, "{} bytes", few.get_array_memory_size());
        assert_eq!(packed::unpack(&schema, &few).unwrap(), {
            let whole = packed::unpack(&schema, &batch).unwrap();
            take_record_batch(&whole, &UInt32Array::from(vec![7, 9_000])).unwrap()
        });
    }
}
