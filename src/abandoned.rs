//! Folders that a process holds by the lock of a file in them, and that stay behind when it is killed.

use std::fs::{self, File, TryLockError};
use std::path::Path;
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
        let abandoned = match File::options().write(true).open(folder.join(LOCK)).map(|lock| lock.try_lock()) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            // No lock to be had: not made yet, or a file system without locks.
            Ok(Err(TryLockError::Error(_))) | Err(_) => entry
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|t| t.elapsed().ok())
                .is_some_and(|age| age > OLD),
        };
        if abandoned {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
