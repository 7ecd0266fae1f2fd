//! Rows and records parted into buckets on local disk, so that each bucket fits into memory.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::abandoned::{HeldFolder, remove_abandoned};
use crate::error::{Error, Result};
use crate::spill::disk::spill_base;

const PREFIX: &str = "penstock-backfill-";

/// A folder of this process, gone when it is dropped.
pub struct Folder(HeldFolder);

impl Folder {
    /// Makes one below [`spill_base`]; what backfills left there that were killed is removed.
    ///
    /// # Errors
    /// [`Error::Lake`] when there is no room or no right to.
    pub fn new() -> Result<Self> {
        Self::below(&spill_base())
    }

    fn below(base: &Path) -> Result<Self> {
        remove_abandoned(base, PREFIX);
        HeldFolder::new(base, PREFIX).map(Self).map_err(|e| refused(base, &e))
    }

    fn file(&self, name: &str, bucket: usize) -> PathBuf {
        self.0.path().join(format!("{name}-{bucket}"))
    }
}

fn refused(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::lake(
        path.display().to_string(),
        format!(
            "{error}. A backfill works there on local disk; make room, or set PENSTOCK_SPILL_DIR to another folder"
        ),
    )
}

/// Records of `W` words.
pub struct Records<'a, const W: usize> {
    folder: &'a Folder,
    name: &'static str,
    files: Vec<Option<BufWriter<File>>>,
}

impl<'a, const W: usize> Records<'a, W> {
    /// Records in so many buckets.
    pub fn new(folder: &'a Folder, name: &'static str, buckets: usize) -> Self {
        Self { folder, name, files: (0..buckets).map(|_| None).collect() }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Lake`] when the disk is full.
    pub fn push(&mut self, bucket: usize, record: [u64; W]) -> Result<()> {
        let path = self.folder.file(self.name, bucket);
        let file = match &mut self.files[bucket] {
            Some(file) => file,
            none => none.insert(BufWriter::new(File::create(&path).map_err(|e| refused(&path, &e))?)),
        };
        record.iter().try_for_each(|word| file.write_all(&word.to_le_bytes())).map_err(|e| refused(&path, &e))
    }

    /// Takes the records of a bucket.
    ///
    /// # Errors
    /// [`Error::Lake`] when they cannot be read.
    pub fn take(&mut self, bucket: usize) -> Result<Vec<[u64; W]>> {
        let Some(file) = self.files[bucket].take() else { return Ok(vec![]) };
        let path = self.folder.file(self.name, bucket);
        let read = || -> std::io::Result<Vec<u8>> {
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            let mut bytes = vec![];
            File::open(&path)?.read_to_end(&mut bytes)?;
            std::fs::remove_file(&path)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|e| refused(&path, &e))?;
        let word = |w: &[u8]| u64::from_le_bytes(w.try_into().unwrap_or_default());
        Ok(bytes
            .chunks_exact(8 * W)
            .map(|record| {
                let mut words = [0; W];
                words.iter_mut().zip(record.chunks_exact(8)).for_each(|(to, from)| *to = word(from));
                words
            })
            .collect())
    }
}

/// Rows of one table.
pub struct Rows<'a> {
    folder: &'a Folder,
    name: &'static str,
    schema: SchemaRef,
    files: Vec<Option<StreamWriter<BufWriter<File>>>>,
}

impl<'a> Rows<'a> {
    /// Rows in so many buckets.
    pub fn new(folder: &'a Folder, name: &'static str, schema: SchemaRef, buckets: usize) -> Self {
        Self { folder, name, schema, files: (0..buckets).map(|_| None).collect() }
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Adds rows, each to its bucket.
    ///
    /// # Errors
    /// [`Error::Lake`] when the disk is full.
    pub fn push(&mut self, rows: &RecordBatch, buckets: &[usize]) -> Result<()> {
        let mut parts: Vec<Vec<u32>> = vec![vec![]; self.files.len()];
        for (row, bucket) in buckets.iter().enumerate() {
            parts[*bucket].push(row as u32);
        }
        for (bucket, part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            let path = self.folder.file(self.name, bucket);
            let file = match &mut self.files[bucket] {
                Some(file) => file,
                none => {
                    let file = BufWriter::new(File::create(&path).map_err(|e| refused(&path, &e))?);
                    none.insert(StreamWriter::try_new(file, &self.schema)?)
                }
            };
            let part = take_record_batch(rows, &UInt32Array::from(part))?;
            file.write(&part).map_err(|e| refused(&path, &e))?;
        }
        Ok(())
    }

    /// Ends the writing of every bucket.
    ///
    /// # Errors
    /// [`Error::Lake`] when the disk is full.
    pub fn finish(&mut self) -> Result<()> {
        for (bucket, file) in self.files.iter_mut().enumerate() {
            if let Some(file) = file {
                let path = self.folder.file(self.name, bucket);
                file.finish().map_err(|e| refused(&path, &e))?;
                file.get_mut().flush().map_err(|e| refused(&path, &e))?;
            }
        }
        Ok(())
    }

    /// The rows of a bucket; they can be read again.
    ///
    /// # Errors
    /// [`Error::Lake`] when they cannot be read.
    pub fn read(&self, bucket: usize) -> Result<Vec<RecordBatch>> {
        if self.files[bucket].is_none() {
            return Ok(vec![]);
        }
        let path = self.folder.file(self.name, bucket);
        let file = File::open(&path).map_err(|e| refused(&path, &e))?;
        let reader = StreamReader::try_new(BufReader::new(file), None).map_err(|e| refused(&path, &e))?;
        reader.map(|batch| batch.map_err(|e| refused(&path, &e))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::abandoned::LOCK;

    #[test]
    fn what_a_killed_backfill_left_goes_and_what_another_works_on_stays() {
        let base = tempfile::tempdir().unwrap();
        let names = || {
            let entries = fs::read_dir(base.path()).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let dead = base.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join("rows-0"), "left").unwrap();
        fs::create_dir(base.path().join("somebody-elses")).unwrap();

        let first = Folder::below(base.path()).unwrap();
        let held = names();
        assert_eq!(held.len(), 2, "{held:?}");
        let second = Folder::below(base.path()).unwrap();
        assert_eq!(names().len(), 3);
        drop(second);
        assert_eq!(names(), held, "the first works on");
        drop(first);
        assert_eq!(names(), ["somebody-elses"]);
    }
}
