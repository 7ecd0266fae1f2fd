//! What a failed request means, and when it is sent again.
//!
//! `object_store` has retries of its own. They are switched off: they do not tell whether a conditional put that was
//! refused had been refused to its own first attempt, and they may live twice as long as they are told. Here one
//! request is one attempt; an operation, with all its attempts, lives [`Policy::total`] at most.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::Error as StoreError;
use tokio::time::{Instant, sleep, timeout_at};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// An operation with all its attempts.
    pub(super) total: Duration,
    /// One attempt.
    pub(super) attempt: Duration,
    /// An operation on a server that never answered this process: a mistyped address is told soon.
    pub(super) first_contact: Duration,
    /// The pause after the first attempt; each next one is twice as long, up to `longest`.
    pub(super) pause: Duration,
    /// The longest pause.
    pub(super) longest: Duration,
}

impl Policy {
    /// A policy whose operations live so long at most.
    pub(super) fn within(total: Duration) -> Self {
        Self {
            total,
            attempt: total / 2,
            first_contact: total.min(Duration::from_secs(10)),
            pause: Duration::from_millis(50),
            longest: Duration::from_secs(3),
        }
    }
}

/// What was counted since the lake was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Whether the server ever answered.
    pub(super) reached: AtomicBool,
    pub(super) requests: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) read_back: AtomicU64,
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The error of the last attempt that was given its time; none when it did not answer in that.
    pub(super) error: Option<StoreError>,
    pub(super) attempts: u32,
    pub(super) elapsed: Duration,
}

/// What the error of one attempt means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The server was not reached, or said that it is busy, or its answer was lost: trying again may help.
    Passing,
    /// The answer of the server; it would say the same again.
    Final,
}

/// The time that is left to one operation.
pub(super) struct Tries<'a> {
    policy: Policy,
    counters: &'a Counters,
    began: Instant,
    pause: Duration,
    attempts: u32,
    /// The error of the attempt before.
    before: Option<StoreError>,
}

impl<'a> Tries<'a> {
    pub(super) fn new(policy: Policy, counters: &'a Counters) -> Self {
        Self { policy, counters, began: Instant::now(), pause: policy.pause, attempts: 0, before: None }
    }

    fn deadline(&self) -> Instant {
        let reached = self.counters.reached.load(Ordering::Relaxed);
        self.began + if reached { self.policy.total } else { self.policy.first_contact }
    }

    /// Makes one attempt. `Ok(Err(…))` is an answer of the server, `Err` that none came in time.
    pub(super) async fn attempt<T>(
        &mut self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>, Failure> {
        self.attempts += 1;
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let given = Instant::now() + self.policy.attempt;
        let until = self.deadline().min(given);
        match timeout_at(until, call).await {
            Ok(answer) => {
                if answer.as_ref().err().is_none_or(|e| meaning(e) == Meaning::Final) {
                    self.counters.reached.store(true, Ordering::Relaxed);
                }
                Ok(answer)
            }
            // Cut short, it says nothing; the one before does.
            Err(_) => {
                let error = self.before.take_if(|_| until < given);
                Err(self.failure(error))
            }
        }
    }

    /// Waits before the next attempt, or gives up when there is no time for one.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        // A part of the pause is left to chance, so that those who failed together do not come back together.
        let pause = self.pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        if Instant::now() + pause >= self.deadline() {
            return Err(failure);
        }
        self.pause = (self.pause * 2).min(self.policy.longest);
        self.before = failure.error;
        self.counters.retries.fetch_add(1, Ordering::Relaxed);
        sleep(pause).await;
        Ok(())
    }

    /// What happened, as an error.
    pub(super) fn failure(&self, error: Option<StoreError>) -> Failure {
        Failure { error, attempts: self.attempts, elapsed: self.began.elapsed() }
    }

    /// Sends the same until the server answers: for requests that may be done twice.
    pub(super) async fn until_answered<T, F, Fut>(&mut self, mut call: F) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        loop {
            let failure = match self.attempt(call()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(e)) if meaning(&e) == Meaning::Final => return Err(self.failure(Some(e))),
                Ok(Err(e)) => self.failure(Some(e)),
                Err(late) => late,
            };
            self.again(failure).await?;
        }
    }
}

/// Reads an error of `object_store`, whose own kinds do not tell.
pub(super) fn meaning(error: &StoreError) -> Meaning {
    // 409 comes as `AlreadyExists`, whatever it is about.
    if !matches!(error, StoreError::Generic { .. } | StoreError::JoinError { .. } | StoreError::AlreadyExists { .. }) {
        return Meaning::Final;
    }
    let answer = Answer::of(error);
    if let Some(code) = answer.code.as_deref() {
        let passing = [
            "InternalError",
            "SlowDown",
            "ServiceUnavailable",
            "RequestTimeout",
            "IncompleteBody",
            "BadDigest",
            "OperationAborted",
            "ConditionalRequestConflict",
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
        ];
        if passing.contains(&code) {
            return Meaning::Passing;
        }
    }
    match answer.status {
        Some(501 | 505 | 507) => Meaning::Final,
        Some(408 | 429 | 500..) => Meaning::Passing,
        Some(_) => Meaning::Final,
        None if matches!(error, StoreError::AlreadyExists { .. }) => Meaning::Final,
        None => {
            let text = chain(error).to_lowercase();
            let settled = [
                "certificate",
                "url scheme is not allowed",
                "builder error",
                "redirect without location",
                "range start too large",
                "wanted range starting at",
            ];
            let settled = settled.iter().any(|words| text.contains(words));
            if settled { Meaning::Final } else { Meaning::Passing }
        }
    }
}

/// The texts of an error and of those that caused it.
pub(super) fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

/// What the server answered, as far as the error tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status of HTTP.
    pub(super) status: Option<u16>,
    /// The code of S3 (`NoSuchBucket`).
    pub(super) code: Option<String>,
    /// Its words.
    pub(super) message: Option<String>,
    /// The region that the bucket is in, where the answer names it.
    pub(super) region: Option<String>,
}

impl Answer {
    pub(super) fn of(error: &StoreError) -> Self {
        let text = chain(error);
        let status = text
            .split_once("status code: ")
            .and_then(|(_, rest)| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .or(match error {
                StoreError::NotFound { .. } => Some(404),
                StoreError::PermissionDenied { .. } => Some(403),
                StoreError::Unauthenticated { .. } => Some(401),
                _ => None,
            });
        let tag = |name: &str| {
            let inside = text.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>"))?.0;
            Some(inside.replace("&#34;", "'").replace("&quot;", "'").chars().take(200).collect::<String>())
        };
        let of_a_list = || Some(text.split_once("(code: ")?.1.split_once(')')?.0.to_owned());
        Self { status, code: tag("Code").or_else(of_a_list), message: tag("Message"), region: tag("Region") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    fn generic(text: &'static str) -> StoreError {
        StoreError::Generic { store: "S3", source: Box::new(Said(text)) }
    }

    #[test]
    fn answers_are_read() {
        let error = generic(
            "Server returned non-2xx status code: 400 Bad Request: <Error><Code>AuthorizationHeaderMalformed</Code>\
             <Message>the region &#34;a&#34; is wrong</Message><Region>eu-central-1</Region></Error>",
        );
        let answer = Answer::of(&error);
        assert_eq!(answer.status, Some(400));
        assert_eq!(answer.code.as_deref(), Some("AuthorizationHeaderMalformed"));
        assert_eq!(answer.message.as_deref(), Some("the region 'a' is wrong"));
        assert_eq!(answer.region.as_deref(), Some("eu-central-1"));
        assert_eq!(meaning(&error), Meaning::Final);
        let deleted = generic("DeleteObjects request failed for key x: no (code: AccessDenied)");
        assert_eq!(Answer::of(&deleted).code.as_deref(), Some("AccessDenied"));
    }

    #[test]
    fn what_passes_is_tried_again() {
        for text in [
            "Server returned non-2xx status code: 503 Service Unavailable: <Code>SlowDown</Code>",
            "Server returned non-2xx status code: 500 Internal Server Error: ",
            "Server returned non-2xx status code: 400 Bad Request: <Code>RequestTimeout</Code>",
            "Server returned error response: <Error><Code>InternalError</Code></Error>",
            "HTTP error: connection closed before message completed",
        ] {
            assert_eq!(meaning(&generic(text)), Meaning::Passing, "{text}");
        }
        for text in [
            "Server returned non-2xx status code: 501 Not Implemented: ",
            "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
            "invalid peer certificate: UnknownIssuer",
            "Server returned non-2xx status code: 400 Bad Request: <Code>InvalidArgument</Code>",
        ] {
            assert_eq!(meaning(&generic(text)), Meaning::Final, "{text}");
        }
    }

    #[test]
    fn an_operation_ends_in_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let policy = Policy::within(Duration::from_millis(200));
        let counters = Counters::default();
        let never = || std::future::pending::<Result<(), StoreError>>();
        let failed = runtime.block_on(Tries::new(policy, &counters).until_answered(never)).unwrap_err();
        assert!(failed.error.is_none() && failed.attempts >= 1);
        assert!(!counters.reached.load(Ordering::Relaxed));
        let cut = || async { Err::<(), _>(generic("cut")) };
        let failed = runtime.block_on(Tries::new(policy, &counters).until_answered(cut)).unwrap_err();
        assert!(failed.attempts > 1 && failed.error.is_some());
        assert!(counters.retries.load(Ordering::Relaxed) >= 1);
        // The last one is cut short: what the one before was told counts.
        let policy = Policy { attempt: Duration::from_secs(60), ..policy };
        let mut calls = 0;
        let away = || {
            calls += 1;
            let first = calls == 1;
            async move { if first { Err::<(), _>(generic("cut")) } else { std::future::pending().await } }
        };
        let failed = runtime.block_on(Tries::new(policy, &counters).until_answered(away)).unwrap_err();
        assert!(failed.attempts == 2 && failed.error.is_some());
        let refused =
            || async { Err::<(), _>(StoreError::NotFound { path: "x".into(), source: Box::new(Said("no")) }) };
        let failed = runtime.block_on(Tries::new(policy, &counters).until_answered(refused)).unwrap_err();
        assert_eq!(failed.attempts, 1);
        assert!(counters.reached.load(Ordering::Relaxed));
    }
}
