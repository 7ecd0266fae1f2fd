//! What the allocator of the process does with large blocks.

/// Blocks of so many bytes have pages of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES: std::ffi::c_int = 1 << 20;

/// A heap asks the system for so much more than it needs now,
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const AHEAD: std::ffi::c_int = 1 << 20;
/// and gives the end of it back only when so much is free there: the next epoch takes it again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: std::ffi::c_int = 64 << 20;

/// Has glibc give the pages of every large block back when it is freed. By itself it begins so, but each large block that
/// is freed lets it keep larger ones, up to 32 MiB, in heaps that the holes of freed columns and pages never leave: a
/// sixth of the peak. The heaps of smaller blocks grow and shrink in larger steps than by themselves. What the environment
/// says of it (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TOP_PAD_`, `MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES`) counts.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
        for (parameter, value, name, tunable) in [
            (libc::M_MMAP_THRESHOLD, OWN_PAGES, "MALLOC_MMAP_THRESHOLD_", "malloc.mmap_threshold"),
            (libc::M_TOP_PAD, AHEAD, "MALLOC_TOP_PAD_", "malloc.top_pad"),
            (libc::M_TRIM_THRESHOLD, KEPT, "MALLOC_TRIM_THRESHOLD_", "malloc.trim_threshold"),
        ] {
            if std::env::var_os(name).is_some() || tunables.contains(tunable) {
                continue;
            }
            // SAFETY: `mallopt` takes two numbers and touches no memory of ours. It takes the lock of the main heap and
            // stores a word that glibc's own `malloc` and `free` read (one of them, `free` stores to) without a lock:
            // whatever other threads allocate meanwhile, they read the old value or the new one, and both are good.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}
