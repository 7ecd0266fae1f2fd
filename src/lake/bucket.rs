//! What a lake does with a bucket: each operation whole or not at all, tried again while that may help, and never
//! taken for lost, or for somebody else's, before it was read back.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};

use super::refusal::{Doing, Where, explain};
use super::retry::{Answer, Counters, Failure, Meaning, Policy, Tries, meaning};
use super::settings::StorageSecrets;
use super::{ObjectMeta, Put};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::failpoint;

/// Objects put or removed at a time.
const AT_ONCE: usize = 8;
/// Parts of one object put or read at a time.
const PARTS_AT_ONCE: usize = 4;
/// How often an upload of parts is begun anew when the server has forgotten it.
const UPLOADS: usize = 3;

/// A store of objects that takes large ones in parts.
pub(super) trait Objects: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Objects for T {}

/// When an object is put in parts, and how large they are; larger ones are read in parts too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub(super) above: usize,
    pub(super) each: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { above: 16 << 20, each: 8 << 20 }
    }
}

/// A prefix of a bucket.
pub(super) struct Bucket {
    pub(super) store: Arc<dyn Objects>,
    /// What all paths begin with: empty, or with a slash at the end.
    pub(super) prefix: String,
    pub(super) policy: Policy,
    pub(super) parts: Parts,
    pub(super) counters: Arc<Counters>,
    pub(super) place: Where,
    pub(super) secrets: StorageSecrets,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What stands under a name, beside what was to be put there.
enum Standing {
    Ours,
    Another,
    Nothing,
}

impl Bucket {
    fn at(&self, path: &str) -> Result<Path> {
        let whole = format!("{}{path}", self.prefix);
        Path::parse(whole.trim_end_matches('/')).map_err(|e| Error::lake(path, e))
    }

    fn tries(&self) -> Tries<'_> {
        Tries::new(self.policy, &self.counters)
    }

    fn error(&self, path: &str, doing: Doing, failure: &Failure) -> Error {
        explain(&self.place, &self.secrets, path, doing, failure)
    }

    /// Puts an object unless there is one of that name. A refusal is believed only after what stands there was read:
    /// an earlier attempt of ours may have come through though its answer was lost, or a proxy may have sent it twice.
    pub(super) async fn put_if_absent(&self, path: &str, bytes: &Bytes) -> Result<Put> {
        let at = self.at(path)?;
        let mut tries = self.tries();
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = tries.attempt(self.store.put_opts(&at, bytes.clone().into(), options)).await;
            let failure = match put {
                Ok(Ok(_)) => return Ok(Put::Created),
                Ok(Err(e @ (StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }))) => {
                    self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                    match self.standing(path, bytes).await? {
                        Standing::Ours => return Ok(Put::Created),
                        Standing::Another => return Ok(Put::Exists),
                        // Two puts met and the server refused both, or it was removed meanwhile.
                        Standing::Nothing => tries.failure(Some(e)),
                    }
                }
                Ok(Err(e)) if meaning(&e) == Meaning::Final => {
                    return Err(self.error(path, Doing::Claim, &tries.failure(Some(e))));
                }
                Ok(Err(e)) => tries.failure(Some(e)),
                Err(late) => late,
            };
            if let Err(failure) = tries.again(failure).await {
                // Before it is called lost it is looked for once more.
                return match self.standing(path, bytes).await {
                    Ok(Standing::Ours) => Ok(Put::Created),
                    Ok(Standing::Another) => Ok(Put::Exists),
                    Ok(Standing::Nothing) | Err(_) => Err(self.error(path, Doing::Claim, &failure)),
                };
            }
        }
    }

    async fn standing(&self, path: &str, bytes: &Bytes) -> Result<Standing> {
        self.counters.read_back.fetch_add(1, Ordering::Relaxed);
        Ok(match self.get(path).await? {
            Some(found) if found == *bytes => Standing::Ours,
            Some(_) => Standing::Another,
            None => Standing::Nothing,
        })
    }

    /// Puts objects, several at a time. After a failure no further one is begun; those that were begun are ended in
    /// good order.
    pub(super) async fn put_many(&self, files: Vec<(String, Content)>) -> Result<()> {
        let failed = AtomicBool::new(false);
        let puts = files.into_iter().map(|(path, content)| {
            let failed = &failed;
            async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let put = self.put(&path, content.into_whole()).await;
                failed.fetch_or(put.is_err(), Ordering::Relaxed);
                put
            }
        });
        let done: Vec<Result<()>> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
        done.into_iter().collect()
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        if bytes.len() > self.parts.above {
            return self.put_in_parts(path, bytes).await;
        }
        let at = self.at(path)?;
        let put = || self.store.put_opts(&at, bytes.clone().into(), PutOptions::default());
        self.tries().until_answered(put).await.map(|_| ()).map_err(|f| self.error(path, Doing::Write, &f))
    }

    /// Puts a large object in parts: it is there, whole, when the upload is completed, and never in between.
    async fn put_in_parts(&self, path: &str, bytes: Bytes) -> Result<()> {
        let at = self.at(path)?;
        let broken = |f: Failure| self.error(path, Doing::Write, &f);
        let mut uploads = 1;
        loop {
            let id = self.tries().until_answered(|| self.store.create_multipart(&at)).await.map_err(broken)?;
            let put = async {
                let parts = self.put_parts(&at, &id, &bytes).await.map_err(broken)?;
                failpoint::pass("upload.complete")?;
                self.complete(path, &at, &id, parts, &bytes).await
            };
            match put.await {
                Ok(true) => return Ok(()),
                // The server knows nothing of this upload any more, and the object is not there.
                Ok(false) if uploads < UPLOADS => uploads += 1,
                Ok(false) => {
                    let reason = "the server has lost the parts that it had taken, again and again";
                    return Err(Error::lake(path, format!("cannot be written: {reason}")));
                }
                Err(error) => {
                    self.abort(&at, &id).await;
                    return Err(error);
                }
            }
        }
    }

    async fn put_parts(&self, at: &Path, id: &str, bytes: &Bytes) -> Result<Vec<PartId>, Failure> {
        let id = &id.to_owned();
        let ranges = (0..bytes.len()).step_by(self.parts.each);
        let parts = ranges.enumerate().map(|(index, start)| {
            let part = bytes.slice(start..bytes.len().min(start + self.parts.each));
            async move {
                let put = || self.store.put_part(at, id, index, PutPayload::from(part.clone()));
                let put = self.tries().until_answered(put).await?;
                failpoint::pass("upload.part").map_err(|e| Failure {
                    error: Some(StoreError::Generic { store: "upload", source: Box::new(e) }),
                    attempts: 1,
                    elapsed: std::time::Duration::ZERO,
                })?;
                Ok(put)
            }
        });
        stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await
    }

    /// Completes an upload. False when the server does not know it and the object is not there.
    async fn complete(&self, path: &str, at: &Path, id: &str, parts: Vec<PartId>, bytes: &Bytes) -> Result<bool> {
        let id = &id.to_owned();
        let mut tries = self.tries();
        loop {
            let failure = match tries.attempt(self.store.complete_multipart(at, id, parts.clone())).await {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(StoreError::NotFound { .. })) => {
                    // A first attempt may have completed it, and its answer was lost.
                    return Ok(matches!(self.standing(path, bytes).await?, Standing::Ours));
                }
                Ok(Err(e)) if meaning(&e) == Meaning::Final => {
                    return Err(self.error(path, Doing::Write, &tries.failure(Some(e))));
                }
                Ok(Err(e)) => tries.failure(Some(e)),
                Err(late) => late,
            };
            if let Err(failure) = tries.again(failure).await {
                return match self.standing(path, bytes).await {
                    Ok(Standing::Ours) => Ok(true),
                    _ => Err(self.error(path, Doing::Write, &failure)),
                };
            }
        }
    }

    /// Gives the parts of an upload back. What cannot be given back now is left to the bucket's own rules.
    async fn abort(&self, at: &Path, id: &str) {
        let id = &id.to_owned();
        let policy = Policy { total: self.policy.total.min(std::time::Duration::from_secs(5)), ..self.policy };
        let _ = Tries::new(policy, &self.counters).until_answered(|| self.store.abort_multipart(at, id)).await;
    }

    /// Reads an object; none when there is none.
    pub(super) async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        match self.stretch(path, 0..u64::MAX).await {
            // An empty object has no first byte.
            Err(f) if f.error.as_ref().is_some_and(no_such_range) => {
                let at = self.at(path)?;
                let read = self.tries().until_answered(|| self.read(&at, None, None)).await;
                read.map(|(_, _, bytes)| Some(bytes)).map_err(|f| self.error(path, Doing::Read, &f))
            }
            read => self.found(path, read),
        }
    }

    /// Reads a stretch of an object, or what there is of it; none when there is no such object.
    pub(super) async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let read = self.stretch(path, range).await;
        self.found(path, read)
    }

    fn found(&self, path: &str, read: Result<Bytes, Failure>) -> Result<Option<Bytes>> {
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(f) if f.error.as_ref().is_some_and(absent) => Ok(None),
            Err(f) => Err(self.error(path, Doing::Read, &f)),
        }
    }

    /// Reads a stretch in parts, all of one and the same object.
    async fn stretch(&self, path: &str, range: Range<u64>) -> Result<Bytes, Failure> {
        let invalid = |e: Error| self.tries().failure(Some(StoreError::Generic { store: "S3", source: Box::new(e) }));
        let at = &self.at(path).map_err(invalid)?;
        let each = self.parts.each as u64;
        let mut replaced = 0;
        loop {
            let head = range.start..range.end.min(range.start.saturating_add(each));
            let (size, tag, first) = self.tries().until_answered(|| self.read(at, Some(head.clone()), None)).await?;
            let (begun, end) = (range.start + first.len() as u64, range.end.min(size));
            if begun >= end {
                return Ok(first);
            }
            let rest = (begun..end).step_by(self.parts.each).map(|start| {
                let (part, tag) = (start..end.min(start + each), tag.clone());
                async move { self.tries().until_answered(|| self.read(at, Some(part.clone()), tag.clone())).await }
            });
            match stream::iter(rest).buffered(PARTS_AT_ONCE).try_collect::<Vec<_>>().await {
                Ok(rest) => {
                    let mut whole = BytesMut::with_capacity(usize::try_from(end - range.start).unwrap_or_default());
                    whole.extend_from_slice(&first);
                    rest.iter().for_each(|(_, _, part)| whole.extend_from_slice(part));
                    return Ok(whole.freeze());
                }
                // Another object stands there now.
                Err(f) if matches!(f.error, Some(StoreError::Precondition { .. })) && replaced < UPLOADS => {
                    replaced += 1
                }
                Err(f) => return Err(f),
            }
        }
    }

    async fn read(
        &self,
        at: &Path,
        range: Option<Range<u64>>,
        tag: Option<String>,
    ) -> Result<(u64, Option<String>, Bytes), StoreError> {
        let wanted = range.as_ref().map(|r| r.end - r.start);
        let options = GetOptions { range: range.map(GetRange::Bounded), if_match: tag, ..GetOptions::default() };
        let answer = self.store.get_opts(at, options).await?;
        let (size, tag, promised) = (answer.meta.size, answer.meta.e_tag.clone(), answer.range.clone());
        let bytes = answer.bytes().await?;
        if bytes.len() as u64 != promised.end - promised.start || wanted.is_some_and(|w| bytes.len() as u64 > w) {
            return Err(StoreError::Generic { store: "S3", source: "the answer was cut short".into() });
        }
        Ok((size, tag, bytes))
    }

    /// Size and time of an object; none when there is none. The answer to a `HEAD` has no body, and so could not tell a
    /// wrong key from a missing right: the first byte is asked for instead.
    pub(super) async fn head(&self, path: &str) -> Result<Option<ObjectMeta>> {
        let at = self.at(path)?;
        let first = || async {
            let range = Some(GetRange::Bounded(0..1));
            self.store.get_opts(&at, GetOptions { range, ..GetOptions::default() }).await.map(|answer| answer.meta)
        };
        let found = match self.tries().until_answered(first).await {
            Err(f) if f.error.as_ref().is_some_and(no_such_range) => {
                self.tries().until_answered(|| self.store.head(&at)).await
            }
            found => found,
        };
        match found {
            Ok(meta) => Ok(Some(self.meta(&meta))),
            Err(f) if f.error.as_ref().is_some_and(absent) => Ok(None),
            Err(f) => Err(self.error(path, Doing::Read, &f)),
        }
    }

    fn meta(&self, meta: &object_store::ObjectMeta) -> ObjectMeta {
        let path = meta.location.as_ref();
        ObjectMeta {
            path: path.strip_prefix(&self.prefix).unwrap_or(path).to_owned(),
            size: meta.size,
            modified_us: meta.last_modified.timestamp_micros(),
        }
    }

    /// The objects below a prefix, page by page: after a page that failed it goes on from the last name that came.
    pub(super) async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>> {
        let folder = self.at(prefix)?;
        let folder = (!folder.as_ref().is_empty()).then_some(folder);
        let from = after.map(|path| self.at(path)).transpose()?;
        let mut found: Vec<object_store::ObjectMeta> = vec![];
        let mut tries = self.tries();
        loop {
            let sorted = found.is_sorted_by(|a, b| a.location < b.location);
            if !sorted {
                found.clear();
            }
            let offset = found.last().map(|m| m.location.clone()).or_else(|| from.clone());
            let mut page = match &offset {
                Some(offset) => self.store.list_with_offset(folder.as_ref(), offset),
                None => self.store.list(folder.as_ref()),
            };
            let before = found.len();
            let failure = loop {
                match tries.attempt(page.try_next()).await {
                    Ok(Ok(Some(meta))) => found.push(meta),
                    Ok(Ok(None)) => {
                        return Ok(found.iter().map(|m| self.meta(m)).collect());
                    }
                    Ok(Err(e)) if meaning(&e) == Meaning::Final => {
                        return Err(self.error(prefix, Doing::List, &tries.failure(Some(e))));
                    }
                    Ok(Err(e)) => break tries.failure(Some(e)),
                    Err(late) => break late,
                }
            };
            drop(page);
            if found.len() > before && sorted {
                // It moved on: the time begins anew.
                tries = self.tries();
            }
            tries.again(failure).await.map_err(|f| self.error(prefix, Doing::List, &f))?;
        }
    }

    /// Removes an object; it is no error if it is not there.
    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        let at = self.at(path)?;
        match self.tries().until_answered(|| self.store.delete(&at)).await {
            Ok(()) => Ok(()),
            Err(f) if f.error.as_ref().is_some_and(absent) => Ok(()),
            Err(f) => Err(self.error(path, Doing::Remove, &f)),
        }
    }

    /// Moves an object; it is no error if it is not there (any more).
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (old, new) = (self.at(from)?, self.at(to)?);
        match self.tries().until_answered(|| self.store.copy(&old, &new)).await {
            Ok(()) => self.delete(from).await,
            Err(f) if f.error.as_ref().is_some_and(absent) => Ok(()),
            Err(f) => Err(self.error(to, Doing::Write, &f)),
        }
    }
}

/// Whether the answer is that there is no such object; a bucket or a user that is not there is another matter.
fn absent(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. })
        && Answer::of(error).code.is_none_or(|code| matches!(code.as_str(), "NoSuchKey" | "NotFound" | "NoSuchVersion"))
}

fn no_such_range(error: &StoreError) -> bool {
    let answer = Answer::of(error);
    answer.status == Some(416)
        || answer.code.as_deref() == Some("InvalidRange")
        || error.to_string().contains("Wanted range starting at")
        || error.to_string().contains("Range started at")
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
