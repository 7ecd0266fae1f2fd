//! The bucket over a store that fails, by chance, before or after what it was asked to do.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartId, MultipartUpload, PutMultipartOptions, PutResult,
    Result as StoreResult,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It never comes to the server.
    Unsent,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done twice, and the second answer comes.
    Twice,
    /// The server is busy.
    Busy,
    /// It is done, and no answer ever comes.
    Silent,
}

#[derive(Debug, Default)]
struct Faulty {
    inner: InMemory,
    uploads: Mutex<HashMap<String, BTreeMap<usize, Bytes>>>,
    /// Faults to come, in order; then by chance.
    planned: Mutex<Vec<Option<Fault>>>,
    chance: Mutex<Option<(ChaCha8Rng, f64)>>,
    /// What no upload survives: the part of this index is refused.
    refused_part: Option<usize>,
    aborted: Mutex<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

fn generic(text: &str) -> StoreError {
    StoreError::Generic { store: "S3", source: Box::new(Said(text.into())) }
}

impl Faulty {
    fn by_chance(seed: u64, rate: f64) -> Self {
        let chance = Mutex::new(Some((ChaCha8Rng::seed_from_u64(seed), rate)));
        Self { chance, ..Self::default() }
    }

    fn planned(faults: &[Option<Fault>]) -> Self {
        Self { planned: Mutex::new(faults.iter().rev().copied().collect()), ..Self::default() }
    }

    fn fault(&self) -> Option<Fault> {
        if let Some(planned) = self.planned.lock().unwrap().pop() {
            return planned;
        }
        let mut chance = self.chance.lock().unwrap();
        let (random, rate) = chance.as_mut()?;
        let kinds = [Fault::Unsent, Fault::Lost, Fault::Twice, Fault::Busy];
        random.random_bool(*rate).then(|| kinds[random.random_range(0..kinds.len())])
    }

    async fn through<T, F: Future<Output = StoreResult<T>> + Send>(
        &self,
        call: impl Fn() -> F + Send,
    ) -> StoreResult<T> {
        match self.fault() {
            None => call().await,
            Some(Fault::Unsent) => Err(generic("connection refused")),
            Some(Fault::Busy) => Err(generic("status code: 503 Service Unavailable: <Code>SlowDown</Code>")),
            Some(Fault::Lost) => call().await.and(Err(generic("connection closed before message completed"))),
            Some(Fault::Twice) => {
                let _ = call().await;
                call().await
            }
            Some(Fault::Silent) => {
                let _ = call().await;
                std::future::pending().await
            }
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        self.through(|| self.inner.put_opts(location, payload.clone(), opts.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.through(|| self.inner.put_multipart_opts(location, opts.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.through(|| self.inner.get_opts(location, options.clone())).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        match self.fault() {
            Some(Fault::Unsent | Fault::Busy) => stream::iter([Err(generic("cut"))]).boxed(),
            Some(_) => self.inner.delete_stream(locations).map(|_| Err(generic("cut"))).boxed(),
            None => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<object_store::ObjectMeta>> {
        match self.fault() {
            // Some come, then the page breaks off.
            Some(_) => self.inner.list(prefix).take(3).chain(stream::iter([Err(generic("cut"))])).boxed(),
            None => self.inner.list(prefix),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, StoreResult<object_store::ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix).filter(move |m| std::future::ready(m.as_ref().map_or(true, |m| m.location > offset))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.through(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, _: &Path) -> StoreResult<MultipartId> {
        let create = || async {
            let mut uploads = self.uploads.lock().unwrap();
            let id = (uploads.len() + self.aborted.lock().unwrap().len()).to_string();
            uploads.insert(id.clone(), BTreeMap::new());
            Ok(id)
        };
        self.through(create).await
    }

    async fn put_part(&self, _: &Path, id: &MultipartId, index: usize, data: PutPayload) -> StoreResult<PartId> {
        let put = || async {
            if self.refused_part == Some(index) {
                return Err(generic("status code: 403 Forbidden: <Code>AccessDenied</Code>"));
            }
            let mut uploads = self.uploads.lock().unwrap();
            let upload = uploads.get_mut(id).ok_or_else(|| gone(id))?;
            upload.insert(index, data.clone().into());
            Ok(PartId { content_id: index.to_string() })
        };
        self.through(put).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> StoreResult<PutResult> {
        let complete = || async {
            let upload = self.uploads.lock().unwrap().remove(id).ok_or_else(|| gone(id))?;
            assert_eq!(upload.len(), parts.len());
            assert!(parts.iter().enumerate().all(|(i, part)| part.content_id == i.to_string()));
            let whole: Vec<u8> = upload.into_values().flatten().collect();
            self.inner.put(path, whole.into()).await
        };
        self.through(complete).await
    }

    async fn abort_multipart(&self, _: &Path, id: &MultipartId) -> StoreResult<()> {
        self.aborted.lock().unwrap().push(id.clone());
        self.uploads.lock().unwrap().remove(id).map(|_| ()).ok_or_else(|| gone(id))
    }
}

fn gone(id: &str) -> StoreError {
    let source = Box::new(Said("status code: 404 Not Found: <Code>NoSuchUpload</Code>".into()));
    StoreError::NotFound { path: id.into(), source }
}

fn bucket(store: Faulty) -> (Arc<Faulty>, Bucket) {
    let store = Arc::new(store);
    let policy = Policy {
        total: Duration::from_secs(20),
        attempt: Duration::from_millis(200),
        first_contact: Duration::from_secs(20),
        pause: Duration::from_micros(10),
        longest: Duration::from_micros(200),
    };
    let place = Where {
        url: "s3://b/lake".into(),
        bucket: "b".into(),
        endpoint: "http://here".into(),
        region: "r".into(),
        has_keys: true,
        anonymous: false,
    };
    let bucket = Bucket {
        store: Arc::clone(&store) as Arc<dyn Objects>,
        prefix: "lake/".into(),
        policy,
        parts: Parts { above: 16, each: 8 },
        counters: Arc::default(),
        place,
        secrets: StorageSecrets::default(),
    };
    (store, bucket)
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn of(bucket: &Bucket, path: &str) -> Option<Bytes> {
    block(bucket.get(path)).unwrap()
}

#[test]
fn of_racing_writers_one_creates_whatever_is_lost() {
    let mut read_back = 0;
    for seed in 0..300 {
        let (_, bucket) = bucket(Faulty::by_chance(seed, 0.4));
        let bytes: Vec<Bytes> = (0..16).map(|i| Bytes::from(format!("writer {i}"))).collect();
        let puts = block(futures_util::future::join_all(bytes.iter().map(|b| bucket.put_if_absent("x", b))));
        let created: Vec<usize> = (0..16).filter(|i| matches!(puts[*i], Ok(Put::Created))).collect();
        assert!(puts.iter().all(Result::is_ok), "seed {seed}: {puts:?}");
        assert_eq!(created.len(), 1, "seed {seed}: {puts:?}");
        assert_eq!(of(&bucket, "x").unwrap(), bytes[created[0]], "seed {seed}");
        read_back += bucket.counters.read_back.load(Ordering::Relaxed);
    }
    assert!(read_back > 0);
}

#[test]
fn our_own_put_is_known_though_its_answer_was_lost() {
    for fault in [Fault::Lost, Fault::Twice, Fault::Silent, Fault::Unsent, Fault::Busy] {
        let (_, bucket) = bucket(Faulty::planned(&[Some(fault)]));
        assert_eq!(block(bucket.put_if_absent("x", &"ours".into())).unwrap(), Put::Created, "{fault:?}");
        assert_eq!(of(&bucket, "x").unwrap(), "ours");
        assert_eq!(block(bucket.put_if_absent("x", &"other".into())).unwrap(), Put::Exists);
        assert_eq!(of(&bucket, "x").unwrap(), "ours");
    }
}

#[test]
fn a_put_that_is_given_up_is_looked_for_first() {
    let (_, mut bucket) = bucket(Faulty::planned(&[Some(Fault::Lost)]));
    // No time for a second attempt.
    bucket.policy.pause = Duration::from_secs(60);
    assert_eq!(block(bucket.put_if_absent("x", &"ours".into())).unwrap(), Put::Created);
    let (_, mut other) = self::bucket(Faulty::planned(&[Some(Fault::Unsent)]));
    other.policy.pause = Duration::from_secs(60);
    let error = block(other.put_if_absent("x", &"ours".into())).unwrap_err().to_string();
    assert!(error.starts_with("lake s3://b/lake/x: cannot be written: http://here "), "{error}");
    assert_eq!(of(&other, "x"), None);
}

#[test]
fn large_objects_are_whole_or_not_there() {
    let large = Bytes::from((0..100u8).collect::<Vec<_>>());
    for seed in 0..300 {
        let (store, bucket) = bucket(Faulty::by_chance(seed, 0.3));
        let files = vec![("a".to_owned(), large.clone().into()), ("b".to_owned(), Bytes::from("small").into())];
        block(bucket.put_many(files)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        *store.chance.lock().unwrap() = None;
        assert_eq!(of(&bucket, "a").unwrap(), large, "seed {seed}");
        assert_eq!(of(&bucket, "b").unwrap(), "small");
    }
    let (store, bucket) = bucket(Faulty { refused_part: Some(7), ..Faulty::default() });
    let error = block(bucket.put_many(vec![("a".to_owned(), large.clone().into())])).unwrap_err().to_string();
    assert!(error.contains("permission denied") && error.contains("s3:PutObject"), "{error}");
    assert_eq!(of(&bucket, "a"), None);
    assert_eq!(*store.aborted.lock().unwrap(), ["0"]);
    assert!(store.uploads.lock().unwrap().is_empty());
}

#[test]
fn an_upload_whose_answer_was_lost_is_not_repeated() {
    let large = Bytes::from((0..20u8).collect::<Vec<_>>());
    // Created, three parts, completed with its answer lost.
    let (store, bucket) = bucket(Faulty::planned(&[None, None, None, None, Some(Fault::Lost)]));
    block(bucket.put_many(vec![("a".to_owned(), large.clone().into())])).unwrap();
    assert_eq!(of(&bucket, "a").unwrap(), large);
    assert!(store.aborted.lock().unwrap().is_empty());
}

#[test]
fn objects_of_every_size_are_read_whole() {
    for seed in 0..100 {
        let (store, bucket) = bucket(Faulty::by_chance(seed, 0.3));
        for size in [0, 1, 7, 8, 9, 15, 16, 17, 64, 100] {
            let bytes = Bytes::from(vec![7; size]);
            block(store.inner.put(&Path::from("lake/x"), bytes.clone().into())).unwrap();
            assert_eq!(of(&bucket, "x").unwrap(), bytes, "seed {seed}, {size} bytes");
        }
        assert_eq!(of(&bucket, "none"), None);
        for (range, length) in [(3..5, 2), (0..100, 100), (90..200, 10), (50..77, 27)] {
            assert_eq!(block(bucket.get_range("x", range)).unwrap().unwrap().len(), length);
        }
        assert!(block(bucket.get_range("x", 100..101)).is_err());
        assert_eq!(block(bucket.get_range("none", 0..1)).unwrap(), None);
        assert_eq!(block(bucket.head("x")).unwrap().unwrap().size, 100);
        assert!(block(bucket.head("none")).unwrap().is_none());
    }
}

#[test]
fn a_list_that_breaks_off_goes_on() {
    for seed in 0..100 {
        let (store, bucket) = bucket(Faulty::by_chance(seed, 0.5));
        let names: Vec<String> = (0..40).map(|n| format!("epochs/{n:04}.commit")).collect();
        for name in &names {
            block(store.inner.put(&Path::from(format!("lake/{name}")), "x".into())).unwrap();
        }
        let listed = |after| {
            let found = block(bucket.list("epochs", after)).unwrap();
            found.into_iter().map(|m| m.path).collect::<Vec<_>>()
        };
        assert_eq!(listed(None), names, "seed {seed}");
        assert_eq!(listed(Some("epochs/0030.commit")), names[31..], "seed {seed}");
    }
}

#[test]
fn what_is_moved_or_removed_may_be_gone_already() {
    for seed in 0..100 {
        let (store, bucket) = bucket(Faulty::by_chance(seed, 0.4));
        block(store.inner.put(&Path::from("lake/x"), "1".into())).unwrap();
        block(bucket.rename("x", "trash/x")).unwrap();
        block(bucket.rename("x", "trash/x")).unwrap();
        *store.chance.lock().unwrap() = None;
        assert_eq!(of(&bucket, "x"), None);
        assert_eq!(of(&bucket, "trash/x").unwrap(), "1");
        block(bucket.delete("trash/x")).unwrap();
        block(bucket.delete("trash/x")).unwrap();
        assert_eq!(of(&bucket, "trash/x"), None);
    }
}

#[test]
fn a_bucket_that_is_not_there_is_not_an_empty_one() {
    let not_found = |code: &str| StoreError::NotFound {
        path: "x".into(),
        source: Box::new(Said(format!("status code: 404 Not Found: <Code>{code}</Code>"))),
    };
    assert!(absent(&not_found("NoSuchKey")));
    for code in ["NoSuchBucket", "XAdminUserNotFound"] {
        assert!(!absent(&not_found(code)));
    }
    let (_, bucket) = bucket(Faulty::default());
    let said = |code: &str, doing| {
        let failure = Failure { error: Some(not_found(code)), attempts: 1, elapsed: Duration::ZERO };
        bucket.error("x", doing, &failure).to_string()
    };
    assert!(said("NoSuchBucket", Doing::Read).contains("there is no bucket 'b' at http://here"));
    assert!(said("XAdminUserNotFound", Doing::List).contains("does not know the access key"));
}
