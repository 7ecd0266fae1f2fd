//! Any table to a folder of Parquet files, in Hive's layout.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};

use super::{ParquetSettings, PartitionedWriter};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::lake::layout::{self, Partition};
use crate::lake::{Durability, Growing, Lake, LakeOptions, Put, StorageSecrets, StorageSpec};

/// Encoded bytes that are held at most before the largest file is closed.
const ROOM: usize = 256 << 20;

/// Encoded bytes of a file are written as soon as they are so many.
const PIECE: usize = 4 << 20;

/// What to do when the folder has files of the partitions that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// An error for a file of the same name; others stay.
    #[default]
    Refuse,
    /// They go, so that running again gives the same.
    Replace,
}

/// How a table is written.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The columns that stand in the path and not in the files.
    pub partition_by: Vec<String>,
    /// Files are named `{name}-0000.parquet`.
    pub name: String,
    /// What to do with files that are there.
    pub existing: Existing,
    /// When a file counts as written.
    pub durability: Durability,
    /// How a bucket is reached.
    pub storage: StorageSpec,
    /// Who asks for it.
    pub secrets: StorageSecrets,
    /// How files are encoded.
    pub settings: ParquetSettings,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            partition_by: Vec::new(),
            name: "part".to_owned(),
            existing: Existing::Refuse,
            durability: Durability::Disk,
            storage: StorageSpec::default(),
            secrets: StorageSecrets::default(),
            settings: ParquetSettings::default(),
        }
    }
}

/// A table that is being written.
pub struct Export {
    lake: Lake,
    options: ExportOptions,
    /// Columns of the input that stand in the path.
    in_path: Vec<usize>,
    /// Columns of the input that stand in the files.
    in_file: Vec<usize>,
    writer: PartitionedWriter,
    parts: HashMap<Partition, u32>,
    /// Files on disk that are being encoded still.
    growing: HashMap<Partition, Growing>,
    written: BTreeMap<String, u64>,
}

/// Writes batches as Parquet files below a folder (or `s3://…`), and returns their paths below it and their rows.
///
/// # Errors
/// [`Error::Settings`] for columns that are not there, [`Error::Data`] for types that cannot be written, [`Error::Lake`]
/// when the folder refuses; files that were written before stay.
pub fn write_parquet(
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = Result<RecordBatch>>,
    folder: &str,
    options: ExportOptions,
) -> Result<Vec<(String, u64)>> {
    let mut export = Export::new(schema, folder, options)?;
    for batch in batches {
        export.write(&batch?)?;
    }
    export.finish()
}

impl Export {
    /// Opens the folder.
    ///
    /// # Errors
    /// As [`write_parquet`].
    pub fn new(schema: &SchemaRef, folder: &str, options: ExportOptions) -> Result<Self> {
        layout::check_name("name", &options.name)?;
        let mut in_path = Vec::new();
        for column in &options.partition_by {
            let index = schema.index_of(column).map_err(|_| {
                let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Error::settings(
                    "partition_by",
                    format!("there is no column '{column}'; there are {}", names.join(", ")),
                )
            })?;
            if in_path.contains(&index) {
                return Err(Error::settings("partition_by", format!("'{column}' stands there twice")));
            }
            check_type(schema, index)?;
            in_path.push(index);
        }
        let in_file: Vec<usize> = (0..schema.fields().len()).filter(|i| !in_path.contains(i)).collect();
        if in_file.is_empty() {
            return Err(Error::settings("partition_by", "leaves no column for the files"));
        }
        let rest = Arc::new(schema.project(&in_file)?);
        let rest = Arc::new(Schema::new(rest.fields().clone()));
        let ExportOptions { durability, storage, secrets, .. } = options.clone();
        let lake = Lake::open(folder, &LakeOptions { durability, create: true, storage, secrets })?;
        let writer = PartitionedWriter::new(&rest, &options.settings);
        Ok(Self {
            lake,
            options,
            in_path,
            in_file,
            writer,
            parts: HashMap::new(),
            growing: HashMap::new(),
            written: BTreeMap::new(),
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// As [`write_parquet`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let rest = batch.project(&self.in_file)?;
        if self.in_path.is_empty() {
            self.writer.write_soon(&Partition::none(), &rest)?;
        } else {
            let (groups, partitions) = self.group(batch)?;
            self.writer.write_grouped(&rest, &groups, &partitions)?;
        }
        while self.writer.bytes() > ROOM {
            self.writer.close_largest()?;
            self.put_full()?;
        }
        self.put_full()?;
        self.grow()
    }

    /// Puts what is left, and returns the files.
    ///
    /// # Errors
    /// As [`write_parquet`].
    pub fn finish(mut self) -> Result<Vec<(String, u64)>> {
        self.writer.close_all()?;
        self.put_full()?;
        if self.options.existing == Existing::Replace {
            let folders: BTreeSet<&str> = self.written.keys().map(|path| folder_of(path)).collect();
            for folder in folders {
                for object in self.lake.list(folder, None)? {
                    let ours = folder_of(&object.path) == folder && object.path.ends_with(".parquet");
                    if ours && !self.written.contains_key(&object.path) {
                        self.lake.delete(&object.path)?;
                    }
                }
            }
        }
        Ok(self.written.into_iter().collect())
    }

    /// The path of the next file of a partition.
    fn next_path(&mut self, partition: Partition) -> String {
        let folder = partition.path();
        let slash = if folder.is_empty() { "" } else { "/" };
        let part = self.parts.entry(partition).or_default();
        let path = format!("{folder}{slash}{}-{part:04}.parquet", self.options.name);
        *part += 1;
        path
    }

    /// Writes what is encoded of files on disk that are not full yet.
    fn grow(&mut self) -> Result<()> {
        if self.lake.local_path("").is_none() {
            return Ok(());
        }
        for (partition, content) in self.writer.take_done(PIECE) {
            if !self.growing.contains_key(&partition) {
                let path = self.next_path(partition.clone());
                let Some(file) = self.lake.begin(&path)? else {
                    return Err(Error::Internal("a bucket takes no pieces".into()));
                };
                self.growing.insert(partition.clone(), file);
            }
            if let Some(file) = self.growing.get_mut(&partition) {
                file.write(content)?;
            }
        }
        Ok(())
    }

    fn put_full(&mut self) -> Result<()> {
        let mut files = Vec::new();
        for (partition, content, rows) in self.writer.take_full() {
            if let Some(mut file) = self.growing.remove(&partition) {
                file.write(content)?;
                let path = file.path().to_owned();
                let named = self.lake.name(file, self.options.existing == Existing::Replace)?;
                self.is_new(&path, named)?;
                self.written.insert(path, rows);
                continue;
            }
            let path = self.next_path(partition);
            self.written.insert(path.clone(), rows);
            files.push((path, content));
        }
        if files.is_empty() {
            return Ok(());
        }
        if self.options.existing == Existing::Replace {
            return self.lake.put_many(files);
        }
        files.into_iter().try_for_each(|(path, content)| self.put_new(&path, content))
    }

    fn put_new(&self, path: &str, content: Content) -> Result<()> {
        // In a bucket, a put-if-absent over the very same bytes would count as done.
        let there = self.lake.local_path(path).is_none() && self.lake.head(path)?.is_some();
        self.is_new(path, if there { Put::Exists } else { self.lake.put_if_absent(path, content.into_whole())? })
    }

    fn is_new(&self, path: &str, put: Put) -> Result<()> {
        match put {
            Put::Created => Ok(()),
            Put::Exists => {
                let reason = "is there already; write to another folder, under another name, or replace what is there";
                Err(Error::lake(format!("{}/{path}", self.lake.url()), reason))
            }
        }
    }

    /// For each row an index into the partitions of this batch.
    fn group(&self, batch: &RecordBatch) -> Result<(Vec<u32>, Vec<Partition>)> {
        let columns = self.in_path.iter().map(|&i| text(batch.column(i))).collect::<Result<Vec<_>>>()?;
        let columns: Vec<&StringArray> = columns.iter().map(|c| c.as_string()).collect();
        let mut known: HashMap<Vec<Option<&str>>, u32> = HashMap::new();
        let mut partitions = Vec::new();
        let mut groups = Vec::with_capacity(batch.num_rows());
        let mut key = Vec::with_capacity(columns.len());
        for row in 0..batch.num_rows() {
            key.clear();
            key.extend(columns.iter().map(|c| c.is_valid(row).then(|| c.value(row))));
            let group = match known.get(&key) {
                Some(group) => *group,
                None => {
                    let values = self.options.partition_by.iter().zip(&key);
                    let partition = values.fold(Partition::none(), |p, (c, v)| p.and(c, v.unwrap_or("")));
                    partitions.push(partition);
                    known.insert(key.clone(), partitions.len() as u32 - 1);
                    partitions.len() as u32 - 1
                }
            };
            groups.push(group);
        }
        Ok((groups, partitions))
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn check_type(schema: &SchemaRef, index: usize) -> Result<()> {
    let field = schema.field(index);
    let inner = match field.data_type() {
        DataType::Dictionary(_, value) => value,
        other => other,
    };
    let fine = inner.is_integer()
        || matches!(inner, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        || matches!(inner, DataType::Date32 | DataType::Boolean | DataType::Null);
    if fine {
        return Ok(());
    }
    let reason = format!("'{}' is {inner}; partition by text, whole numbers, dates or booleans", field.name());
    Err(Error::settings("partition_by", reason))
}

fn text(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(column, &DataType::Utf8)?)
}
