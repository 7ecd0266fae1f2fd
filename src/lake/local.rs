//! Writing to a folder: under a name that nobody reads, synced, then given its own name in one step.
//!
//! What is being written lies in `_penstock/tmp/<id>/`, whose `lock` its writer holds for as long as it lives. Whoever
//! opens the lake removes such folders whose lock is free, so that a killed writer leaves nothing for long, and never
//! anything that a reader of a table could see.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::growing::Open;
use super::layout::STAGING;
use super::{Durability, LakeOptions, Put};
use crate::abandoned::{LOCK, remove_abandoned};
use crate::content::Content;
use crate::error::{Error, Result};

/// Writers and syncs at once: a disk takes several syncs in the time of one.
const THREADS: usize = 8;

/// A folder as a lake.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    store: Arc<LocalFileSystem>,
    durability: Durability,
    staging: Mutex<Option<Staging>>,
    /// Folders known to be on disk under their names, relative to the root.
    synced: Mutex<HashSet<PathBuf>>,
}

/// Where this process writes before it names.
#[derive(Debug)]
struct Staging {
    process: u32,
    folder: PathBuf,
    next: AtomicU64,
    /// Held until the process ends.
    _lock: File,
}

impl Folder {
    pub(super) fn open(root: PathBuf, options: &LakeOptions) -> Result<Self> {
        let shown = root.display().to_string();
        match fs::metadata(&root) {
            Ok(meta) if !meta.is_dir() => return Err(Error::lake(shown, "is a file; a lake is a folder")),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound && options.create => {
                let mut made = Vec::new();
                make_folders(&root, &mut made).map_err(|e| io_error(&shown, "cannot be made", &e))?;
                if options.durability == Durability::Disk {
                    for folder in made.iter().filter_map(|f| f.parent()) {
                        sync_folder(folder).map_err(|e| io_error(&shown, "cannot be synced", &e))?;
                    }
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::lake(shown, "there is no such folder"));
            }
            Err(e) => return Err(io_error(&shown, "cannot be opened", &e)),
        }
        let root = fs::canonicalize(&root).map_err(|e| io_error(&shown, "cannot be opened", &e))?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| super::store_error(&shown, &e))?;
        // What dead writers left; what cannot be removed now is left to the next one.
        remove_abandoned(&root.join(STAGING), "");
        Ok(Self {
            root,
            store: Arc::new(store),
            durability: options.durability,
            staging: Mutex::new(None),
            synced: Mutex::new(HashSet::new()),
        })
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as Arc<dyn ObjectStore>
    }

    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn put_if_absent(&self, path: &str, bytes: &Bytes) -> Result<Put> {
        self.name_new(path, &self.stage(path, &bytes.clone().into())?)
    }

    /// Gives a file its name unless that is taken.
    pub(super) fn name_new(&self, path: &str, staged: &Staged) -> Result<Put> {
        let target = self.file(path);
        self.make_parent(path)?;
        // A link fails when the name is taken; a rename would take it away.
        let put = match fs::hard_link(&staged.0, &target) {
            Ok(()) => Put::Created,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Put::Exists,
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::CrossesDevices) => {
                let reason =
                    "the file system has no hard links, which a lake needs for its log; put the lake on another";
                return Err(Error::lake(path, reason));
            }
            Err(e) => return Err(io_error(path, "cannot be written", &e)),
        };
        self.sync_names([path])?;
        Ok(put)
    }

    pub(super) fn put_many(&self, files: &[(String, Content)]) -> Result<()> {
        // All the bytes first, then all the names: what fails for want of space has shown nothing.
        // The largest is begun first, else one core writes it while the others are done.
        let mut files: Vec<&(String, Content)> = files.iter().collect();
        files.sort_by_key(|(_, content)| std::cmp::Reverse(content.len()));
        let staged = in_parallel(&files, |(path, content)| self.stage(path, content))?;
        for ((path, _), staged) in files.iter().zip(staged) {
            self.rename_staged(path, &staged)?;
        }
        self.sync_names(files.iter().map(|(path, _)| path.as_str()))
    }

    /// Gives a file its name, in place of one that has it.
    pub(super) fn name(&self, path: &str, staged: &Staged) -> Result<()> {
        self.rename_staged(path, staged)?;
        self.sync_names([path])
    }

    fn rename_staged(&self, path: &str, staged: &Staged) -> Result<()> {
        self.make_parent(path)?;
        fs::rename(&staged.0, self.file(path)).map_err(|e| io_error(path, "cannot be written", &e))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.make_parent(to)?;
        let old = self.file(from);
        match fs::rename(&old, self.file(to)) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound && !old.exists() => return Ok(()),
            Err(e) => return Err(io_error(from, "cannot be moved", &e)),
        }
        let now = File::options().append(true).open(self.file(to)).and_then(|f| f.set_modified(SystemTime::now()));
        now.map_err(|e| io_error(to, "cannot be marked with the time", &e))?;
        self.sync_names([to, from])
    }

    /// Writes the bytes where nobody reads them.
    fn stage(&self, path: &str, content: &Content) -> Result<Staged> {
        let mut open = self.begin(path)?;
        open.write(content)?;
        open.end()
    }

    /// Opens a file where nobody reads it.
    pub(super) fn begin(&self, path: &str) -> Result<Open> {
        let (file, staged) = match self.staged_file(path)? {
            Ok(made) => made,
            // Somebody took a fresh folder for an abandoned one before it was locked.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                *self.staging() = None;
                self.staged_file(path)?.map_err(|e| io_error(path, "cannot be written", &e))?
            }
            Err(e) => return Err(io_error(path, "cannot be written", &e)),
        };
        Ok(Open { path: path.to_owned(), file, staged, sync: self.durability == Durability::Disk })
    }

    fn staged_file(&self, path: &str) -> Result<io::Result<(File, Staged)>> {
        let mut staging = self.staging();
        if staging.as_ref().is_none_or(|s| s.process != std::process::id()) {
            // After a fork the parent goes on with its own.
            let fresh = Staging::new(&self.root).map_err(|e| io_error(path, "cannot be written", &e))?;
            if let Some(parents) = staging.replace(fresh) {
                std::mem::forget(parents);
            }
        }
        let Some(staging) = staging.as_ref() else { return Err(Error::Internal("no staging folder".into())) };
        let name = staging.folder.join(staging.next.fetch_add(1, Ordering::Relaxed).to_string());
        Ok(File::options().write(true).create_new(true).open(&name).map(|file| (file, Staged(name))))
    }

    fn staging(&self) -> MutexGuard<'_, Option<Staging>> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_parent(&self, path: &str) -> Result<()> {
        let Some(parent) = self.file(path).parent().map(Path::to_path_buf) else { return Ok(()) };
        make_folders(&parent, &mut Vec::new()).map_err(|e| io_error(path, "its folder cannot be made", &e))
    }

    /// Makes the names of these files, and of the folders on the way to them, durable.
    fn sync_names<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        if self.durability == Durability::Process {
            return Ok(());
        }
        let mut folders = Vec::new();
        let mut ways = Vec::new();
        {
            let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            for path in paths {
                let mut way = Path::new(path).parent();
                folders.extend(way.map(Path::to_path_buf));
                // A folder may have been made by somebody who was killed before syncing it: once is enough, but once.
                while let Some(folder) = way.filter(|f| !f.as_os_str().is_empty() && !synced.contains(*f)) {
                    way = folder.parent();
                    folders.extend(way.map(Path::to_path_buf));
                    ways.push(folder.to_path_buf());
                }
            }
        }
        folders.sort_unstable();
        folders.dedup();
        in_parallel(&folders, |folder| {
            sync_folder(&self.root.join(folder))
                .map_err(|e| io_error(&folder.display().to_string(), "cannot be synced", &e))
        })?;
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).extend(ways);
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(staging) = self.staging().take()
            && staging.process == std::process::id()
        {
            let _ = fs::remove_dir_all(&staging.folder);
            // A folder of Parquet files that is no lake is left without a trace. Both go only if they are empty.
            let folder = self.root.join(STAGING);
            let _ = fs::remove_dir(&folder);
            let _ = folder.parent().map(fs::remove_dir);
        }
    }
}

impl Staging {
    fn new(root: &Path) -> io::Result<Self> {
        let folder = root.join(STAGING).join(format!("{:016x}", rand::random::<u64>()));
        make_folders(&folder, &mut Vec::new())?;
        let lock = File::create(folder.join(LOCK))?;
        // Where there are no locks, age has to do.
        let _ = lock.try_lock();
        Ok(Self { process: std::process::id(), folder, next: AtomicU64::new(0), _lock: lock })
    }
}

/// A file that has no name in the lake yet; removed unless it was renamed.
pub(super) struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a folder and those above it; those that were not there are added to `made`.
fn make_folders(folder: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => made.push(folder.to_path_buf()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) else { return Err(e) };
            make_folders(parent, made)?;
            match fs::create_dir(folder) {
                Ok(()) => made.push(folder.to_path_buf()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        // A read-only file system says so even of a folder that is there.
        Err(e) => return if folder.is_dir() { Ok(()) } else { Err(e) },
    }
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Some network file systems do not sync folders; their server does what it does.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Does it for every item, several at a time; the results in order, or the first error.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    if items.len() < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((i, item)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?))) {
            done.push((i, work(item)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..items.len().min(THREADS)).map(|_| scope.spawn(worker)).collect();
        let mut done = worker();
        for thread in threads {
            done.extend(thread.join().map_err(|_| Error::Internal("a writer panicked".into()))?);
        }
        Ok::<_, Error>(done)
    })?;
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The outcome of a future of the local store, which does its work when it is polled and never waits.
pub(super) fn ready<T: Send>(future: impl Future<Output = T> + Send) -> Result<T> {
    if tokio::runtime::Handle::try_current().is_ok() {
        // On a thread of a runtime it would hand its work to that runtime: poll it elsewhere.
        let polled = std::thread::scope(|scope| scope.spawn(|| future.now_or_never()).join());
        return polled.ok().flatten().ok_or_else(|| Error::Internal("the local store did not answer".into()));
    }
    future.now_or_never().ok_or_else(|| Error::Internal("the local store did not answer".into()))
}

/// What the operating system refused, and what to do about it.
pub(super) fn io_error(path: &str, what: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull => "the disk is full. Nothing of it was kept; make room and run again",
        ErrorKind::QuotaExceeded => "the disk quota is used up. Nothing of it was kept; make room and run again",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only; mount it for writing or choose another place",
        ErrorKind::PermissionDenied => "permission denied; give the user of this process the right to it",
        ErrorKind::NotADirectory => "something on the way to it is a file, not a folder; move that away",
        ErrorKind::IsADirectory => "a folder has its name; move that away",
        ErrorKind::FileTooLarge => "it is larger than the file system or `ulimit -f` allows",
        ErrorKind::InvalidFilename => "the file system does not take a name that long",
        ErrorKind::NotFound => {
            "it, or its folder, was removed while it was being used; is something cleaning up the lake?"
        }
        _ => return Error::lake(path, format!("{what}: {error}")),
    };
    Error::lake(path, format!("{what}: {advice} ({error})"))
}
