//! The lake: named objects in a folder or a bucket, put whole or not at all.
//!
//! [`Lake`] is a synchronous face over [`object_store`]. Reading, listing and removing go through it everywhere. Writing
//! to a bucket does too; writing to a folder is done in [`local`], because `object_store`'s own local store never syncs
//! and leaves what a killed writer had begun beside the finished files.

pub mod layout;
mod local;
mod remote;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::error::{Error, Result};
use local::Folder;
use remote::Remote;

/// When a put counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The file and the folders on the way to it are synced to disk: survives a loss of power.
    #[default]
    Disk,
    /// The operating system has it: survives `kill -9` of the process.
    Process,
}

/// How a lake is opened.
#[derive(Debug, Clone)]
pub struct LakeOptions {
    /// When a put counts as done (a bucket is always durable).
    pub durability: Durability,
    /// Whether a folder that is not there is made; else it is an error.
    pub create: bool,
    /// Settings of the object store (`aws_region`, `aws_endpoint`, …), above those of the environment.
    pub store: Vec<(String, String)>,
}

impl Default for LakeOptions {
    fn default() -> Self {
        Self { durability: Durability::Disk, create: true, store: Vec::new() }
    }
}

/// What became of a put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there, and is now.
    Created,
    /// It was there before; nothing was written.
    Exists,
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The path in the lake.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// When it was last written, in microseconds since the Unix epoch.
    pub modified_us: i64,
}

/// A folder or a bucket that holds tables and their log.
#[derive(Debug)]
pub struct Lake {
    url: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(Folder),
    Bucket(Remote),
}

impl Lake {
    /// Opens a lake: a folder (as a path or `file://`), or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// [`Error::Lake`] when the folder cannot be used, naming it; [`Error::Settings`] for a URL of another kind.
    pub fn open(url: &str, options: &LakeOptions) -> Result<Self> {
        let place = match url.split_once("://") {
            None if url.is_empty() => {
                return Err(Error::settings("lake", "is empty; name a folder or s3://bucket/prefix"));
            }
            None => Place::Folder(Folder::open(PathBuf::from(url), options)?),
            Some(("file", path)) => Place::Folder(Folder::open(PathBuf::from(path), options)?),
            Some(("s3" | "s3a", _)) => Place::Bucket(Remote::open(url, options)?),
            Some((scheme, _)) => {
                let reason = format!("'{scheme}://' is not supported; use a folder or s3://bucket/prefix");
                return Err(Error::settings("lake", reason));
            }
        };
        Ok(Self { url: url.to_owned(), place })
    }

    /// The folder or URL, as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where an object lies on this machine; none in a bucket.
    pub fn local_path(&self, path: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Folder(folder) => Some(folder.file(path)),
            Place::Bucket(_) => None,
        }
    }

    /// Puts an object if none has that name; of two writers at once, one creates it and the other is told.
    ///
    /// # Errors
    /// [`Error::Lake`]. After an error of a bucket it may be there all the same: read it back.
    pub fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => folder.put_if_absent(path, &bytes),
            Place::Bucket(remote) => {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let location = location(path)?;
                let put = remote.run(move |store| async move {
                    match store.put_opts(&location, bytes.into(), options).await {
                        Ok(_) => Ok(Put::Created),
                        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                            Ok(Put::Exists)
                        }
                        Err(e) => Err(e),
                    }
                });
                put?.map_err(|e| store_error(path, &e))
            }
        }
    }

    /// Puts an object, in place of one of that name if there is one; a reader sees the old or the new, whole.
    ///
    /// # Errors
    /// [`Error::Lake`]; then the old one stands.
    pub fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put_many(vec![(path.to_owned(), bytes)])
    }

    /// Puts objects as [`Lake::put`] does, several at a time; all are durable when it returns.
    ///
    /// # Errors
    /// [`Error::Lake`] for the first that failed; of the others each is there whole or not at all.
    pub fn put_many(&self, files: Vec<(String, Bytes)>) -> Result<()> {
        for (path, _) in &files {
            layout::check_path(path)?;
        }
        match &self.place {
            Place::Folder(folder) => folder.put_many(&files),
            Place::Bucket(remote) => {
                let located = files.into_iter().map(|(path, bytes)| Ok((location(&path)?, path, bytes)));
                let located = located.collect::<Result<Vec<_>>>()?;
                remote.run(move |store| async move {
                    let puts = located.into_iter().map(|(location, path, bytes)| {
                        let store = Arc::clone(&store);
                        async move { store.put(&location, bytes.into()).await.map_err(|e| store_error(&path, &e)) }
                    });
                    let puts = futures_util::stream::iter(puts.map(Ok::<_, Error>));
                    puts.try_for_each_concurrent(8, |put| async move { put.await.map(|_| ()) }).await
                })?
            }
        }
    }

    /// Reads an object whole; none when there is none.
    ///
    /// # Errors
    /// [`Error::Lake`] when it is there but cannot be read.
    pub fn get(&self, path: &str) -> Result<Option<Bytes>> {
        layout::check_path(path)?;
        let location = location(path)?;
        let read = self.run(move |store| async move { store.get(&location).await?.bytes().await })?;
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(store_error(path, &e)),
        }
    }

    /// Reads a stretch of an object; none when there is none, less than the stretch when it ends before.
    ///
    /// # Errors
    /// [`Error::Lake`] when it is there but cannot be read, or ends before the stretch begins.
    pub fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        layout::check_path(path)?;
        let location = location(path)?;
        match self.run(move |store| async move { store.get_range(&location, range).await })? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(store_error(path, &e)),
        }
    }

    /// The objects under a prefix (a folder; '' is the whole lake), sorted by path; of those that come after `after`
    /// if it is given. What is being written is not among them.
    ///
    /// # Errors
    /// [`Error::Lake`] when it cannot be listed. A prefix with nothing under it gives nothing.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let folder = (!prefix.is_empty()).then(|| location(prefix.trim_end_matches('/'))).transpose()?;
        let offset = after.map(location).transpose()?;
        let listed = self.run(move |store| async move {
            let stream = match &offset {
                Some(offset) => store.list_with_offset(folder.as_ref(), offset),
                None => store.list(folder.as_ref()),
            };
            stream.try_collect::<Vec<_>>().await
        })?;
        let listed = listed.map_err(|e| store_error(prefix, &e))?;
        let objects = listed.into_iter().map(|meta| ObjectMeta {
            path: meta.location.to_string(),
            size: meta.size,
            modified_us: meta.last_modified.timestamp_micros(),
        });
        let mut objects: Vec<_> = objects.filter(|o| !o.path.starts_with("_penstock/tmp/")).collect();
        objects.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// Removes an object for good; it is no error if it is not there.
    ///
    /// # Errors
    /// [`Error::Lake`].
    pub fn delete(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        let location = location(path)?;
        match self.run(move |store| async move { store.delete(&location).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(store_error(path, &e)),
        }
    }

    /// Moves an object to the trash, where `read_lake` still finds it; its time there is the time of the move. It is no
    /// error if it is not there (any more).
    ///
    /// # Errors
    /// [`Error::Lake`].
    pub fn trash(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        let to = layout::trash(path);
        if let Place::Folder(folder) = &self.place {
            return folder.rename(path, &to);
        }
        let (from, to) = (location(path)?, location(&to)?);
        let moved = self.run(move |store| async move {
            store.copy(&from, &to).await?;
            store.delete(&from).await
        })?;
        match moved {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(store_error(path, &e)),
        }
    }

    fn run<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send,
        F: FnOnce(Arc<dyn ObjectStore>) -> Fut + Send,
        Fut: Future<Output = T> + Send,
    {
        match &self.place {
            Place::Folder(folder) => remote::ready(call(folder.store())),
            Place::Bucket(remote) => remote.run(call),
        }
    }
}

fn location(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|e| Error::lake(path, e))
}

/// An error of the object store, said as one of ours: what failed, and what to do.
fn store_error(path: &str, error: &object_store::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return local::io_error(path, "cannot be used", io);
        }
        source = e.source();
    }
    Error::lake(path, error)
}

#[cfg(test)]
mod tests;
