//! Folders that a process holds by the lock of a file in them, and that stay behind when it is killed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file whose lock is held.
pub const LOCK: &str = "lock";
/// Where there are no locks, a folder of this age is nobody's any more.
const OLD: Duration = Duration::from_secs(600);

/// Removes the folders in `base` whose names begin so and whose process is dead. What cannot be removed now is left to
/// the next one.
pub fn remove_abandoned(base: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)) {
        let folder = entry.path();
        let lock = File::options().write(true).open(folder.join(LOCK));
        let abandoned = match lock.as_ref().map(File::try_lock) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            // No lock to be had: not made yet, or a file system without locks.
            Ok(Err(TryLockError::Error(_))) | Err(_) => idle_for(&folder).is_some_and(|age| age > OLD),
        };
        // The lock is held meanwhile: who has made the folder only just now finds that it cannot have it.
        if abandoned {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// How long ago something was written in a folder.
fn idle_for(folder: &Path) -> Option<Duration> {
    let files = fs::read_dir(folder).ok()?.flatten().filter_map(|file| file.metadata().ok());
    let all = fs::metadata(folder).into_iter().chain(files);
    all.filter_map(|of| of.modified().ok()?.elapsed().ok()).min()
}

/// A folder of this process alone; gone when it is dropped.
#[derive(Debug)]
pub struct HeldFolder {
    path: PathBuf,
    process: u32,
    /// Its lock is held until the folder goes.
    lock: File,
}

impl HeldFolder {
    /// Makes one in `base`, and `base` where it is not there; its name begins with `prefix`. Nobody else may look into it.
    ///
    /// # Errors
    /// When there is no room or no right to.
    pub fn new(base: &Path, prefix: &str) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        // Somebody may take a fresh folder for an abandoned one before it is locked; then another one is made.
        let mut made = Self::make(base, prefix)?;
        for _ in 0..16 {
            match made.lock.try_lock() {
                Err(TryLockError::WouldBlock) => {}
                // Where there are no locks, age has to do.
                Ok(()) | Err(TryLockError::Error(_)) if made.path.join(LOCK).exists() => break,
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            made = Self::make(base, prefix)?;
        }
        Ok(made)
    }

    fn make(base: &Path, prefix: &str) -> io::Result<Self> {
        let path = base.join(format!("{prefix}{:016x}", rand::random::<u64>()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        let lock = File::create_new(path.join(LOCK))?;
        Ok(Self { path, process: std::process::id(), lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is that of this process: after a fork it is the parent's.
    pub fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for HeldFolder {
    fn drop(&mut self) {
        if self.is_ours() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
