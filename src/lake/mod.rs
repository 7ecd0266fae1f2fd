//! The lake: named objects in a folder or a bucket, put whole or not at all.
//!
//! [`Lake`] is a synchronous face over [`object_store`]. A bucket is used in `bucket`, which tries again what may pass
//! and reads back what may have been done. Writing to a folder is done in [`local`], because `object_store`'s own local
//! store never syncs and leaves what a killed writer had begun beside the finished files.

#[cfg(feature = "s3")]
mod bucket;
mod growing;
pub mod layout;
mod local;
#[cfg(feature = "s3")]
mod refusal;
#[cfg(feature = "s3")]
mod remote;
#[cfg(feature = "s3")]
mod retry;
#[cfg(feature = "s3")]
mod s3;
mod settings;

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use crate::content::Content;
use crate::error::{Error, Result};
pub use growing::Growing;
use local::Folder;
#[cfg(feature = "s3")]
use remote::Remote;
pub use settings::{LONGEST, StorageSecrets, StorageSpec};

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
    /// How a bucket is reached, above what the environment says.
    pub storage: StorageSpec,
    /// Who asks.
    pub secrets: StorageSecrets,
}

impl Default for LakeOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            create: true,
            storage: StorageSpec::default(),
            secrets: StorageSecrets::default(),
        }
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

/// What a bucket was asked since the lake was opened; of a folder nothing is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LakeStats {
    /// Requests sent.
    pub requests: u64,
    /// Those that were sent again, because the server was not reached, was busy, or its answer was lost.
    pub retries: u64,
    /// Puts-if-absent that were refused.
    pub conflicts: u64,
    /// Objects read back to know what became of a put.
    pub read_back: u64,
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
    #[cfg(feature = "s3")]
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
            #[cfg(feature = "s3")]
            Some(("s3" | "s3a", _)) => Place::Bucket(Remote::open(url, options)?),
            #[cfg(not(feature = "s3"))]
            Some(("s3" | "s3a", _)) => {
                let reason = "this build has no S3 in it; use a folder, or build with the feature 's3'";
                return Err(Error::settings("lake", reason));
            }
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
            #[cfg(feature = "s3")]
            Place::Bucket(_) => None,
        }
    }

    /// What was asked of a bucket so far.
    pub fn stats(&self) -> LakeStats {
        match &self.place {
            Place::Folder(_) => LakeStats::default(),
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => {
                let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
                LakeStats {
                    requests: count(&remote.counters.requests),
                    retries: count(&remote.counters.retries),
                    conflicts: count(&remote.counters.conflicts),
                    read_back: count(&remote.counters.read_back),
                }
            }
        }
    }

    /// Puts an object if none has that name; of two writers at once, one creates it and the other is told. In a bucket
    /// an object of the same bytes counts as the one that was to be put: it may be, if an answer was lost on its way.
    ///
    /// # Errors
    /// [`Error::Lake`]. After an error of a bucket it may be there all the same, or come within a minute: read it back.
    pub fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<Put> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => folder.put_if_absent(path, &bytes),
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.put_if_absent(path, &bytes).await }),
        }
    }

    /// Puts an object, in place of one of that name if there is one; a reader sees the old or the new, whole.
    ///
    /// # Errors
    /// [`Error::Lake`]; then the old one stands (in a bucket the new one may, if an answer was lost).
    pub fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put_many(vec![(path.to_owned(), bytes.into())])
    }

    /// Puts objects as [`Lake::put`] does, several at a time; all are durable when it returns.
    ///
    /// # Errors
    /// [`Error::Lake`] for the first that failed; of the others each is there whole or not at all.
    pub fn put_many(&self, files: Vec<(String, Content)>) -> Result<()> {
        for (path, _) in &files {
            layout::check_path(path)?;
        }
        match &self.place {
            Place::Folder(folder) => folder.put_many(&files),
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.put_many(files).await }),
        }
    }

    /// Begins a file that comes in pieces; nobody sees it before [`Lake::name`]. None in a bucket: there objects come whole.
    ///
    /// # Errors
    /// [`Error::Lake`] when nothing can be written there.
    pub fn begin(&self, path: &str) -> Result<Option<Growing>> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => Growing::new(folder.begin(path)?).map(Some),
            #[cfg(feature = "s3")]
            Place::Bucket(_) => Ok(None),
        }
    }

    /// Gives a file that is whole its name, and it is durable then: in place of one that has it if `replace`, else unless
    /// there is one.
    ///
    /// # Errors
    /// [`Error::Lake`]; then it is not there.
    pub fn name(&self, file: Growing, replace: bool) -> Result<Put> {
        let path = file.path().to_owned();
        let staged = file.end()?;
        match &self.place {
            Place::Folder(folder) if replace => folder.name(&path, &staged).map(|()| Put::Created),
            Place::Folder(folder) => folder.name_new(&path, &staged),
            #[cfg(feature = "s3")]
            Place::Bucket(_) => Err(Error::Internal(format!("{path} was begun elsewhere"))),
        }
    }

    /// Reads an object whole; none when there is none.
    ///
    /// # Errors
    /// [`Error::Lake`] when it is there but cannot be read.
    pub fn get(&self, path: &str) -> Result<Option<Bytes>> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => {
                let (store, at) = (folder.store(), location(path)?);
                found(path, local::ready(async move { store.get(&at).await?.bytes().await })?)
            }
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.get(path).await }),
        }
    }

    /// Reads the bytes from `range.start` up to `range.end`, or to the end of the object where that comes first; none
    /// when there is no such object.
    ///
    /// # Errors
    /// [`Error::Lake`] when it is there but cannot be read, or ends before `range.start`.
    pub fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => {
                let (store, at) = (folder.store(), location(path)?);
                let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
                found(path, local::ready(async move { store.get_opts(&at, options).await?.bytes().await })?)
            }
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.get_range(path, range).await }),
        }
    }

    /// Size and time of an object; none when there is none.
    ///
    /// # Errors
    /// [`Error::Lake`].
    pub fn head(&self, path: &str) -> Result<Option<ObjectMeta>> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => {
                let (store, at) = (folder.store(), location(path)?);
                let meta = found(path, local::ready(async move { store.head(&at).await })?)?;
                Ok(meta.map(|meta| ObjectMeta {
                    path: path.to_owned(),
                    size: meta.size,
                    modified_us: meta.last_modified.timestamp_micros(),
                }))
            }
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.head(path).await }),
        }
    }

    /// The objects under a prefix (a folder; '' is the whole lake), sorted by path; of those that come after `after`
    /// if it is given. What is being written is not among them.
    ///
    /// # Errors
    /// [`Error::Lake`] when it cannot be listed. A prefix with nothing under it gives nothing.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let folder = prefix.trim_end_matches('/');
        let mut objects: Vec<_> = match &self.place {
            Place::Folder(place) => {
                let folder = (!folder.is_empty()).then(|| location(folder)).transpose()?;
                let offset = after.map(location).transpose()?;
                let store = place.store();
                let listed = local::ready(async move {
                    let stream = match &offset {
                        Some(offset) => store.list_with_offset(folder.as_ref(), offset),
                        None => store.list(folder.as_ref()),
                    };
                    stream.try_collect::<Vec<_>>().await
                })?;
                let listed = listed.map_err(|e| store_error(prefix, &e))?;
                listed
                    .into_iter()
                    .map(|meta| ObjectMeta {
                        path: meta.location.to_string(),
                        size: meta.size,
                        modified_us: meta.last_modified.timestamp_micros(),
                    })
                    .collect()
            }
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.list(folder, after).await })?,
        };
        objects.retain(|o| !o.path.starts_with("_penstock/tmp/"));
        objects.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// Removes an object for good; it is no error if it is not there.
    ///
    /// # Errors
    /// [`Error::Lake`].
    pub fn delete(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        match &self.place {
            Place::Folder(folder) => {
                let (store, at) = (folder.store(), location(path)?);
                found(path, local::ready(async move { store.delete(&at).await })?).map(|_| ())
            }
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.delete(path).await }),
        }
    }

    /// Writes, reads and removes an object of no meaning, and makes sure that of two put-if-absent one is refused.
    ///
    /// # Errors
    /// [`Error::Lake`] saying what does not work.
    pub fn probe(&self) -> Result<()> {
        let path = format!("{}/probe-{:032x}", layout::STAGING, rand::random::<u128>());
        let (ours, other) = (Bytes::from_static(b"penstock was here"), Bytes::from_static(b"and here again"));
        let first = self.put_if_absent(&path, ours.clone())?;
        let second = self.put_if_absent(&path, other)?;
        let read = self.get(&path)?;
        self.delete(&path)?;
        if first == Put::Created && second == Put::Exists && read.is_some_and(|bytes| bytes == ours) {
            return Ok(());
        }
        let reason = "two put-if-absent (`If-None-Match: *`) of one name were both taken: two runs at once would damage \
                      a lake here. Use a server that keeps to conditional writes";
        Err(Error::lake(&self.url, reason))
    }

    /// Moves an object to the trash, where `read_lake` still finds it; its time there is the time of the move. It is no
    /// error if it is not there (any more).
    ///
    /// # Errors
    /// [`Error::Lake`].
    pub fn trash(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        let to = layout::trash(path);
        match &self.place {
            Place::Folder(folder) => folder.rename(path, &to),
            #[cfg(feature = "s3")]
            Place::Bucket(remote) => remote.run(|bucket| async move { bucket.rename(path, &to).await }),
        }
    }
}

fn found<T>(path: &str, read: object_store::Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(store_error(path, &e)),
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
