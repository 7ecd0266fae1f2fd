//! Spilling to local disk: a folder of this process's own, whose `lock` it holds for as long as it lives.
//!
//! The folder is made with the first file and removed when nothing of it is used any more. A process that was killed leaves
//! its folder behind; whoever runs next with the same place removes the folders whose lock is free.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Spill, SpillFile, SpillWriter, Usage};
use crate::abandoned::{HeldFolder, remove_abandoned};
use crate::error::{Error, Result};
use crate::failpoint;

/// Names the folder below which is spilled, instead of the system's folder for temporary files.
pub const FOLDER: &str = "PENSTOCK_SPILL_DIR";

const PREFIX: &str = "penstock-spill-";

/// A folder of local files.
#[derive(Debug)]
pub struct Disk {
    base: PathBuf,
    folder: Mutex<Option<Arc<Folder>>>,
}

/// The folder of this process.
#[derive(Debug)]
struct Folder {
    held: HeldFolder,
    next: AtomicU64,
    bytes: AtomicU64,
    files: AtomicU64,
    spills: AtomicU64,
    written: AtomicU64,
}

/// Where local files go that do not fit into memory: `PENSTOCK_SPILL_DIR` where that is set, else the system's folder for
/// temporary files.
pub fn spill_base() -> PathBuf {
    std::env::var_os(FOLDER).filter(|v| !v.is_empty()).map_or_else(std::env::temp_dir, PathBuf::from)
}

impl Disk {
    /// Spills below [`spill_base`].
    pub fn from_env() -> Self {
        Self::new(spill_base())
    }

    /// Spills below `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), folder: Mutex::new(None) }
    }

    /// Removes what dead processes left there. What cannot be removed now is left to the next one.
    pub fn sweep(&self) {
        remove_abandoned(&self.base, PREFIX);
    }

    fn folder(&self) -> Result<Arc<Folder>> {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folder.as_ref().filter(|f| f.held.is_ours()) {
            return Ok(folder.clone());
        }
        let made = Folder::make(&self.base).map_err(|e| spill_error(&self.base, "no folder can be made there", &e))?;
        Ok(folder.insert(Arc::new(made)).clone())
    }
}

impl Folder {
    fn make(base: &Path) -> io::Result<Self> {
        Ok(Self {
            held: HeldFolder::new(base, PREFIX)?,
            next: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            spills: AtomicU64::new(0),
            written: AtomicU64::new(0),
        })
    }
}

impl Spill for Disk {
    fn create(&self, what: &str) -> Result<Box<dyn SpillWriter>> {
        failpoint::pass("spill.before")?;
        let folder = self.folder()?;
        let name = format!("{:06}-{}.arrow", folder.next.fetch_add(1, Ordering::Relaxed), what.replace('/', "."));
        let path = folder.held.path().join(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|e| spill_error(&path, "cannot be made", &e))?;
        let buffer = io::BufWriter::with_capacity(1 << 18, file);
        Ok(Box::new(Writer { buffer: Some(buffer), size: 0, path: Named { path, folder } }))
    }

    fn usage(&self) -> Usage {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.as_ref().map_or_else(Usage::default, |f| Usage {
            bytes: f.bytes.load(Ordering::Relaxed),
            files: f.files.load(Ordering::Relaxed),
            spills: f.spills.load(Ordering::Relaxed),
            written: f.written.load(Ordering::Relaxed),
        })
    }
}

/// A file's name; with it goes the file.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    folder: Arc<Folder>,
}

impl Drop for Named {
    fn drop(&mut self) {
        if self.folder.held.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Writer {
    buffer: Option<io::BufWriter<File>>,
    size: u64,
    path: Named,
}

impl SpillWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        let written = self.buffer.as_mut().map_or(Ok(()), |buffer| buffer.write_all(bytes));
        written.map_err(|e| spill_error(&self.path.path, "cannot be written", &e))
    }

    fn finish(mut self: Box<Self>) -> Result<Arc<dyn SpillFile>> {
        let Some(buffer) = self.buffer.take() else { return Err(Error::Internal("a spill was finished twice".into())) };
        let file = buffer
            .into_inner()
            .map_err(|e| spill_error(&self.path.path, "cannot be written", &io::Error::from(e.error().kind())))?;
        let folder = &self.path.folder;
        folder.bytes.fetch_add(self.size, Ordering::Relaxed);
        folder.written.fetch_add(self.size, Ordering::Relaxed);
        folder.files.fetch_add(1, Ordering::Relaxed);
        folder.spills.fetch_add(1, Ordering::Relaxed);
        let spilled = Arc::new(Spilled { file, size: self.size, name: self.path });
        failpoint::pass("spill.after")?;
        Ok(spilled)
    }
}

#[derive(Debug)]
struct Spilled {
    file: File,
    size: u64,
    name: Named,
}

impl SpillFile for Spilled {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        read_at(&self.file, at, into).map_err(|e| spill_error(&self.name.path, "cannot be read", &e))
    }

    fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        self.name.folder.bytes.fetch_sub(self.size, Ordering::Relaxed);
        self.name.folder.files.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, at)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => {
                at += n as u64;
                into = &mut into[n..];
            }
        }
    }
    Ok(())
}

/// What the operating system refused, and what to do about it.
fn spill_error(path: &Path, what: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull => "the disk is full",
        ErrorKind::QuotaExceeded => "the disk quota is used up",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::NotADirectory => "something on the way to it is a file, not a folder",
        ErrorKind::FileTooLarge => "it is larger than the file system or `ulimit -f` allows",
        _ => "",
    };
    let reason = if advice.is_empty() { error.to_string() } else { format!("{advice} ({error})") };
    Error::spill(
        path.display().to_string(),
        format!(
            "{what}: {reason}. The epoch is not committed and nothing is lost: make room, or name another folder in \
             {FOLDER}, or give the pipeline more `memory`, and start it again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abandoned::LOCK;

    fn folders(base: &Path) -> Vec<PathBuf> {
        fs::read_dir(base).unwrap().map(|e| e.unwrap().path()).collect()
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_goes_with_its_last_holder() {
        let base = tempfile::tempdir().unwrap();
        let disk = Disk::new(base.path());
        assert!(folders(base.path()).is_empty(), "nothing is made before it is needed");
        let mut writer = disk.create("dedup/keys").unwrap();
        writer.write(b"abc").unwrap();
        writer.write(b"defg").unwrap();
        let file = writer.finish().unwrap();
        assert_eq!((file.size(), disk.usage()), (7, Usage { bytes: 7, files: 1, spills: 1, written: 7 }));
        let mut bytes = [0; 4];
        file.read(2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"cdef");
        assert!(matches!(file.read(5, &mut bytes), Err(Error::Spill { .. })));
        let folder = folders(base.path()).pop().unwrap();
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&folder).unwrap().permissions()) & 0o777,
            0o700
        );
        assert_eq!(folders(&folder).len(), 2, "the file and the lock");
        drop(file);
        drop(disk.create("given up").unwrap());
        assert_eq!(folders(&folder).len(), 1);
        assert_eq!(disk.usage(), Usage { bytes: 0, files: 0, spills: 1, written: 7 });
        drop(disk);
        assert!(folders(base.path()).is_empty());
    }

    #[test]
    fn a_file_outlives_the_handle_that_made_it() {
        let base = tempfile::tempdir().unwrap();
        let disk = Disk::new(base.path());
        let mut writer = disk.create("x").unwrap();
        writer.write(b"abc").unwrap();
        let file = writer.finish().unwrap();
        drop(disk);
        let mut bytes = [0; 3];
        file.read(0, &mut bytes).unwrap();
        drop(file);
        assert!(folders(base.path()).is_empty());
    }

    #[test]
    fn what_dead_processes_left_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let live = Disk::new(base.path());
        let file = live.create("x").unwrap().finish().unwrap();
        let dead = base.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::write(dead.join("000000-x.arrow"), "left").unwrap();
        let foreign = base.path().join("something-else");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join(LOCK), "").unwrap();
        Disk::new(base.path()).sweep();
        assert!(!dead.exists() && foreign.exists());
        file.read(0, &mut []).unwrap();
        assert_eq!(folders(base.path()).len(), 2);
    }

    #[test]
    fn where_nothing_can_be_written_the_error_says_what_to_do() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Disk::new(file.join("below")).create("x").map(|_| ()).unwrap_err().to_string();
        for part in ["file/below", "nothing is lost", FOLDER, "memory"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
