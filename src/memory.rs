//! What the allocator of the process does with large blocks.

/// Blocks of so many bytes have pages of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES: std::ffi::c_int = 256 << 10;

/// Has glibc give the pages of every large block back when it is freed. By itself it begins so, but each large block that
/// is freed lets it keep larger ones, up to 32 MiB, in heaps that the holes of freed columns and pages never leave: a
/// sixth of the peak. What the environment says of it (`MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`) counts.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let tunables = std::env::var("GLIBC_TUNABLES").unwrap_or_default();
        if std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_some() || tunables.contains("malloc.mmap_threshold") {
            return;
        }
        // SAFETY: `mallopt` takes two numbers and touches no memory of ours. It takes the lock of the main heap and
        // stores a threshold, a word that glibc's own `free` stores to without a lock whenever it frees such a block:
        // whatever other threads allocate meanwhile, they read the old value or the new one, and both are good.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES) };
    }
}
