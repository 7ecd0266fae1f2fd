//! One Parquet file in memory.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch};
use arrow::datatypes::{ByteViewType, DataType, Field, SchemaRef, UInt16Type};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnDescPtr;
use rayon::prelude::*;

use super::body::{Blanks, Body};
use super::number::{self, NumberColumn};
use super::text::{self, TextColumn};
use super::{ParquetSettings, chunk};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::packed::{is_packed, plain};

/// From so many values on, the columns of a batch are encoded on all cores.
const PARALLEL: usize = 32 << 10;

/// Encodes batches into a Parquet file.
pub struct Encoder {
    schema: SchemaRef,
    file: SerializedFileWriter<Body>,
    factory: ArrowRowGroupWriterFactory,
    columns: Vec<Column>,
    /// Columns that are the same as one before them, in all rows of the row group so far: they are encoded once.
    twins: Vec<Option<usize>>,
    group_rows: usize,
    groups: usize,
    rows: usize,
    max_rows: usize,
    max_bytes: usize,
}

/// Where a field stands, and what it is.
type Place<'a> = (usize, &'a Arc<Field>);

/// The encoder of one field.
enum Column {
    Text(Box<TextColumn>),
    Number(Box<NumberColumn>),
    /// The general way; the writers of the leaves are made for each row group.
    Leaves(Vec<ArrowColumnWriter>),
}

/// What a field became in a row group.
enum Chunk {
    Own(Content, Box<ColumnCloseResult>),
    Leaves(Vec<ArrowColumnChunk>),
}

impl Encoder {
    /// A file with these columns.
    ///
    /// # Errors
    /// [`Error::Data`] when Parquet has no type for one of them.
    pub fn new(schema: &SchemaRef, settings: &ParquetSettings) -> Result<Self> {
        let (descriptor, properties) = settings.properties(schema)?;
        let mut leaf = 0;
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let kind = field.data_type();
            columns.push(if text::covers(kind) {
                let options = settings.text(field.name());
                Column::Text(Box::new(TextColumn::new(descriptor.column(leaf), kind, options)))
            } else if has_own(field, &descriptor.column(leaf)) {
                Column::Number(Box::new(NumberColumn::new(descriptor.column(leaf), settings.number(field.name()))))
            } else {
                Column::Leaves(Vec::new())
            });
            leaf += leaves(field);
        }
        let file = SerializedFileWriter::new(Body::default(), descriptor.root_schema_ptr(), Arc::new(properties))?;
        let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(schema));
        Ok(Self {
            schema: Arc::clone(schema),
            file,
            factory,
            twins: vec![None; columns.len()],
            columns,
            group_rows: 0,
            groups: 0,
            rows: 0,
            max_rows: settings.row_group_rows.max(1),
            max_bytes: settings.row_group_bytes.max(1),
        })
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes it has, encoded.
    pub fn bytes(&self) -> usize {
        self.file.bytes_written() + self.group_bytes()
    }

    fn group_bytes(&self) -> usize {
        let encoder = |(at, twin): (usize, &Option<usize>)| &self.columns[twin.unwrap_or(at)];
        self.twins.iter().enumerate().map(encoder).map(Column::bytes).sum()
    }

    /// Encodes the rows of a batch after those before.
    ///
    /// # Errors
    /// [`Error::Data`] when the columns are not those of the file.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_columns() != self.columns.len() {
            let (got, expected) = (batch.num_columns(), self.columns.len());
            return Err(Error::Internal(format!("a batch of {got} columns for a file of {expected}")));
        }
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (batch.num_rows() - from).min(self.max_rows - self.group_rows);
            self.encode(&[batch.slice(from, rows)])?;
            from += rows;
            if self.group_rows >= self.max_rows || self.group_bytes() >= self.max_bytes {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// Encodes batches one after the other, with the same bytes as [`Encoder::write`]; but where no row group can end among
    /// them, each column takes them all in one go, and the cores meet once and not once a batch.
    ///
    /// # Errors
    /// As [`Encoder::write`].
    pub fn write_all(&mut self, mut batches: &[RecordBatch]) -> Result<()> {
        while let [first, rest @ ..] = batches {
            let (mut rows, mut bytes, mut fit) = (self.group_rows, self.group_bytes() + MARGIN, 0);
            for batch in batches {
                rows += batch.num_rows();
                bytes += at_most(batch)?;
                if rows >= self.max_rows || bytes >= self.max_bytes || batch.num_columns() != self.columns.len() {
                    break;
                }
                fit += 1;
            }
            if fit < 2 {
                self.write(first)?;
                batches = rest;
            } else {
                self.encode(&batches[..fit])?;
                batches = &batches[fit..];
            }
        }
        Ok(())
    }

    fn encode(&mut self, batches: &[RecordBatch]) -> Result<()> {
        if self.group_rows == 0 {
            let mut writers = self.factory.create_column_writers(self.groups)?.into_iter();
            for (field, column) in self.schema.fields().iter().zip(&mut self.columns) {
                let fresh = writers.by_ref().take(leaves(field));
                match column {
                    Column::Text(_) | Column::Number(_) => fresh.for_each(drop),
                    Column::Leaves(leaves) => *leaves = fresh.collect(),
                }
            }
        }
        self.match_twins(batches);
        let fields = self.schema.fields();
        let write = |(place, column): (Place<'_>, &mut Column)| {
            batches.iter().try_for_each(|batch| column.write(place.1, batch.column(place.0)))
        };
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let columns = fields.iter().enumerate().zip(&mut self.columns).zip(&self.twins);
        let mut columns = columns.filter_map(|(column, twin)| twin.is_none().then_some(column));
        if rows * fields.len() >= PARALLEL {
            let mut columns: Vec<_> = columns.collect();
            largest_first(&mut columns, |(_, column)| column.bytes());
            columns.into_iter().par_bridge().try_for_each(write)?;
        } else {
            columns.try_for_each(write)?;
        }
        self.group_rows += rows;
        self.rows += rows;
        Ok(())
    }

    /// Finds out which columns of text are the same in memory as one before them (roles are, and the columns that they are
    /// read from). One that was so and is no longer goes its own way from here.
    fn match_twins(&mut self, batches: &[RecordBatch]) {
        let same = |a: usize, b: usize| {
            batches.iter().all(|batch| batch.column(a).to_data().ptr_eq(&batch.column(b).to_data()))
        };
        for at in 0..self.columns.len() {
            let Column::Text(column) = &self.columns[at] else { continue };
            if self.group_rows == 0 {
                let like = |before: &usize| match &self.columns[*before] {
                    Column::Text(other) => self.twins[*before].is_none() && other.is_like(column) && same(*before, at),
                    _ => false,
                };
                self.twins[at] = (0..at).find(like);
            } else if let Some(twin) = self.twins[at].filter(|twin| !same(*twin, at))
                && let Column::Text(other) = &self.columns[twin]
            {
                self.columns[at] = Column::Text(Box::new(other.copy_for(&column.column)));
                self.twins[at] = None;
            }
        }
    }

    fn close_group(&mut self) -> Result<()> {
        if self.group_rows == 0 {
            return Ok(());
        }
        let mut chunks: Vec<Option<Chunk>> = Vec::new();
        chunks.resize_with(self.columns.len(), || None);
        let close = |(column, chunk): (&mut Column, &mut Option<Chunk>)| {
            *chunk = Some(column.close()?);
            Ok::<_, Error>(())
        };
        let parallel = self.group_rows * self.columns.len() >= PARALLEL;
        let columns = self.columns.iter_mut().zip(&mut chunks).zip(&self.twins);
        let mut columns = columns.filter_map(|(column, twin)| twin.is_none().then_some(column));
        if parallel {
            let mut columns: Vec<_> = columns.collect();
            largest_first(&mut columns, |(column, _)| column.bytes());
            columns.into_iter().par_bridge().try_for_each(close)?;
        } else {
            columns.try_for_each(close)?;
        }
        // Where each chunk will stand is known before: the file is told of those of our own, so that it takes them as they are.
        let mut position = self.file.bytes_written();
        let mut parts = Vec::with_capacity(chunks.len());
        for (at, (chunk, twin)) in chunks.into_iter().zip(&self.twins).enumerate() {
            parts.push(match (chunk, twin, &self.columns[at]) {
                (Some(Chunk::Own(content, close)), ..) => Chunk::Own(content, close),
                (Some(Chunk::Leaves(leaves)), ..) => {
                    position +=
                        leaves.iter().map(|leaf| leaf.close().metadata.compressed_size() as usize).sum::<usize>();
                    Chunk::Leaves(leaves)
                }
                (None, Some(twin), Column::Text(column)) => match &parts[*twin] {
                    Chunk::Own(content, close) => {
                        Chunk::Own(content.clone(), Box::new(chunk::same_as(close, &column.column)?))
                    }
                    Chunk::Leaves(_) => return Err(Error::Internal(format!("column {at} has no like"))),
                },
                (None, ..) => return Err(Error::Internal(format!("column {at} was not encoded"))),
            });
            if let Some(Chunk::Own(content, _)) = parts.last() {
                self.file.inner_mut().expect(position, content.clone());
                position += content.len();
            }
        }
        let mut group = self.file.next_row_group()?;
        for part in parts {
            match part {
                Chunk::Own(content, close) => group.append_column(&Blanks(content.len()), *close)?,
                Chunk::Leaves(leaves) => leaves.into_iter().try_for_each(|l| l.append_to_row_group(&mut group))?,
            }
        }
        group.close()?;
        self.file.flush().map_err(ParquetError::from)?;
        if !self.file.inner().is_complete() {
            return Err(Error::Internal("a column chunk stands where none was expected".to_owned()));
        }
        self.group_rows = 0;
        self.groups += 1;
        Ok(())
    }

    /// The row groups that are finished, if they come to so many bytes: they need not be held until the file ends.
    pub fn take_done(&mut self, least: usize) -> Option<Content> {
        let done = self.file.inner_mut();
        (done.len() >= least).then(|| done.take())
    }

    /// The whole file, or what was not taken of it.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be encoded.
    pub fn finish(mut self) -> Result<Content> {
        self.close_group()?;
        Ok(self.file.into_inner()?.take())
    }
}

impl Column {
    fn write(&mut self, field: &Field, array: &ArrayRef) -> Result<()> {
        match self {
            Self::Text(column) => column.write(array),
            Self::Number(column) => column.write(array),
            Self::Leaves(writers) => {
                let of_field = field.data_type() == array.data_type();
                let array = if of_field { Cow::Borrowed(array) } else { plain(array)? };
                for (leaf, writer) in compute_leaves(field, &array)?.iter().zip(writers) {
                    writer.write(leaf)?;
                }
                Ok(())
            }
        }
    }

    fn close(&mut self) -> Result<Chunk> {
        Ok(match self {
            Self::Text(column) => {
                let (content, close) = column.close()?;
                Chunk::Own(content, Box::new(close))
            }
            Self::Number(column) => {
                let (content, close) = column.close()?;
                Chunk::Own(content, Box::new(close))
            }
            Self::Leaves(leaves) => {
                let leaves = std::mem::take(leaves).into_iter().map(ArrowColumnWriter::close);
                Chunk::Leaves(leaves.collect::<Result<_, _>>()?)
            }
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Text(column) => column.bytes(),
            Self::Number(column) => column.bytes(),
            Self::Leaves(leaves) => leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
        }
    }
}

/// Puts columns in the order in which the cores take them, one after the other: none is to wait for one that is large and was
/// begun last.
fn largest_first<T>(columns: &mut [T], bytes: impl Fn(&T) -> usize) {
    columns.sort_by_key(|column| std::cmp::Reverse(bytes(column)));
}

/// The most that a row group grows by with these rows, before any compression.
pub(super) fn at_most(batch: &RecordBatch) -> Result<usize> {
    let rows = batch.num_rows();
    let column = |column: &ArrayRef| -> Result<usize> {
        if is_packed(column.data_type()) {
            let values = column.as_dictionary::<UInt16Type>().values().as_string::<i32>();
            let longest = values.offsets().lengths().max().unwrap_or(0);
            return Ok(rows * (longest + EACH));
        }
        // Of views Arrow counts what they take themselves.
        let shown = match column.data_type() {
            DataType::BinaryView => lengths(column.as_binary_view()),
            DataType::Utf8View => lengths(column.as_string_view()),
            _ => 0,
        };
        Ok(2 * (column.to_data().get_slice_memory_size()? + shown) + rows * EACH)
    };
    batch.columns().iter().map(column).sum()
}

/// How many bytes views show.
fn lengths<T: ByteViewType>(views: &GenericByteViewArray<T>) -> usize {
    views.lengths().map(|length| length as usize).sum()
}

/// What a value takes beside itself, at most.
const EACH: usize = 16;
/// What the pages of a row group take beside their values, at most.
const MARGIN: usize = 4 << 20;

/// Whether a field, whose first Parquet column this is, is encoded by our own.
pub(super) fn has_own(field: &Field, column: &ColumnDescPtr) -> bool {
    let kind = field.data_type();
    text::covers(kind) || leaves(field) == 1 && number::covers(kind, column.physical_type())
}

/// How many Parquet columns an Arrow column becomes.
pub(super) fn leaves(field: &Field) -> usize {
    use arrow::datatypes::DataType as T;
    match field.data_type() {
        T::Struct(fields) => fields.iter().map(|f| leaves(f)).sum(),
        T::List(f) | T::LargeList(f) | T::FixedSizeList(f, _) | T::ListView(f) | T::LargeListView(f) | T::Map(f, _) => {
            leaves(f)
        }
        T::RunEndEncoded(_, f) => leaves(f),
        _ => 1,
    }
}
