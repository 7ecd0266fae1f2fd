//! A bucket, and the small runtime that talks to it.

use std::sync::{Arc, Mutex};

use super::bucket::Bucket;
use super::retry::Counters;
use super::settings::{StorageSecrets, StorageSpec};
use super::{LakeOptions, s3};
use crate::error::{Error, Result};

/// A bucket, and the runtime that talks to it. Both are made when first used, and again in a process that was forked:
/// the threads and connections of the parent are not there.
#[derive(Debug)]
pub(super) struct Remote {
    url: String,
    spec: StorageSpec,
    secrets: StorageSecrets,
    pub(super) counters: Arc<Counters>,
    live: Mutex<Option<Live>>,
}

#[derive(Debug)]
struct Live {
    process: u32,
    runtime: Arc<tokio::runtime::Runtime>,
    bucket: Arc<Bucket>,
}

impl Remote {
    pub(super) fn open(url: &str, options: &LakeOptions) -> Result<Self> {
        let counters = Arc::<Counters>::default();
        // Settings are checked now, not at the first put.
        s3::open(url, &options.storage, &options.secrets, Arc::clone(&counters))?;
        let (spec, secrets) = (options.storage.clone(), options.secrets.clone());
        Ok(Self { url: url.to_owned(), spec, secrets, counters, live: Mutex::new(None) })
    }

    /// Runs a call on the runtime and waits for it.
    pub(super) fn run<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send,
        F: FnOnce(Arc<Bucket>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let (runtime, bucket) = self.live()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return runtime.block_on(call(bucket));
        }
        // The caller is on some runtime's thread, which must not be blocked on another: wait on a thread apart.
        std::thread::scope(|scope| {
            let waited = scope.spawn(|| runtime.block_on(call(bucket))).join();
            waited.map_err(|_| Error::Internal(format!("a call to {} panicked", self.url)))?
        })
    }

    fn live(&self) -> Result<(Arc<tokio::runtime::Runtime>, Arc<Bucket>)> {
        let mut live = self.live.lock().map_err(|_| Error::Internal("the lake's lock is poisoned".into()))?;
        if let Some(old) = live.take_if(|l| l.process != std::process::id()) {
            // Dropping it would wait for threads that exist in the parent only.
            std::mem::forget(old);
        }
        let live = match &mut *live {
            Some(live) => live,
            none => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name("penstock-lake")
                    .enable_all()
                    .build()
                    .map_err(|e| Error::lake(&self.url, format!("cannot start threads to reach it: {e}")))?;
                let bucket = s3::open(&self.url, &self.spec, &self.secrets, Arc::clone(&self.counters))?;
                none.insert(Live { process: std::process::id(), runtime: Arc::new(runtime), bucket: Arc::new(bucket) })
            }
        };
        Ok((Arc::clone(&live.runtime), Arc::clone(&live.bucket)))
    }
}
