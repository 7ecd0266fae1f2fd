//! Buckets: the asynchronous store behind a small runtime of its own.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use object_store::ObjectStore;

use super::LakeOptions;
use crate::error::{Error, Result};

/// A bucket, and the runtime that talks to it. Both are made when first used, and again in a process that was forked:
/// the threads and connections of the parent are not there.
#[derive(Debug)]
pub(super) struct Remote {
    url: String,
    options: Vec<(String, String)>,
    live: Mutex<Option<Live>>,
}

#[derive(Debug)]
struct Live {
    process: u32,
    runtime: Arc<tokio::runtime::Runtime>,
    store: Arc<dyn ObjectStore>,
}

impl Remote {
    pub(super) fn open(url: &str, options: &LakeOptions) -> Result<Self> {
        // Settings are checked now, not at the first put.
        bucket(url, &options.store)?;
        Ok(Self { url: url.to_owned(), options: options.store.clone(), live: Mutex::new(None) })
    }

    /// Runs a call on the runtime and waits for it.
    pub(super) fn run<T, F, Fut>(&self, call: F) -> Result<T>
    where
        T: Send,
        F: FnOnce(Arc<dyn ObjectStore>) -> Fut + Send,
        Fut: Future<Output = T> + Send,
    {
        let (runtime, store) = self.live()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Ok(runtime.block_on(call(store)));
        }
        // The caller is on some runtime's thread, which must not be blocked on another: wait on a thread apart.
        std::thread::scope(|scope| {
            let waited = scope.spawn(|| runtime.block_on(call(store))).join();
            waited.map_err(|_| Error::Internal(format!("a call to {} panicked", self.url)))
        })
    }

    fn live(&self) -> Result<(Arc<tokio::runtime::Runtime>, Arc<dyn ObjectStore>)> {
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
                let store = bucket(&self.url, &self.options)?;
                none.insert(Live { process: std::process::id(), runtime: Arc::new(runtime), store })
            }
        };
        Ok((Arc::clone(&live.runtime), Arc::clone(&live.store)))
    }
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

#[cfg(feature = "s3")]
fn bucket(url: &str, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::prefix::PrefixStore;
    use object_store::{ClientOptions, RetryConfig};

    // A request lives a minute at most, retries and all: what is younger than ten minutes is never swept.
    let minute = std::time::Duration::from_secs(60);
    let client = ClientOptions::new().with_timeout(minute);
    let retry = RetryConfig { retry_timeout: minute, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env().with_client_options(client).with_retry(retry).with_url(url);
    for (key, value) in options {
        let key: AmazonS3ConfigKey =
            key.parse().map_err(|_| Error::settings(format!("storage.{key}"), "is no setting of S3"))?;
        builder = builder.with_config(key, value);
    }
    let store = builder.build().map_err(|e| Error::lake(url, e))?;
    let prefix = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, prefix)| prefix);
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return Ok(Arc::new(store));
    }
    let prefix = object_store::path::Path::parse(prefix).map_err(|e| Error::lake(url, e))?;
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

#[cfg(not(feature = "s3"))]
fn bucket(_url: &str, _options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    Err(Error::settings("lake", "this build has no S3 in it; use a folder, or build with the feature 's3'"))
}
