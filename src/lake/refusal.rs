//! What a bucket refused, said so that somebody can do something about it.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::retry::{Answer, Failure, chain};
use super::settings::StorageSecrets;
use crate::error::Error;

/// Where the bucket is: for messages.
#[derive(Debug, Clone)]
pub(super) struct Where {
    /// `s3://bucket/prefix`, as it was given.
    pub(super) url: String,
    /// The bucket.
    pub(super) bucket: String,
    /// The server.
    pub(super) endpoint: String,
    /// The region that requests are signed for.
    pub(super) region: String,
    /// Whether keys stand in the settings or the environment, and not only, perhaps, with the machine.
    pub(super) has_keys: bool,
    /// Whether requests are not signed.
    pub(super) anonymous: bool,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Read,
    List,
    Write,
    /// A put-if-absent.
    Claim,
    Remove,
}

impl Doing {
    fn cannot(self) -> &'static str {
        match self {
            Self::Read => "cannot be read",
            Self::List => "cannot be listed",
            Self::Write | Self::Claim => "cannot be written",
            Self::Remove => "cannot be removed",
        }
    }

    fn right(self) -> &'static str {
        match self {
            // AWS says so of an object that is not there, too, to whoever may not list.
            Self::Read => "s3:GetObject and s3:ListBucket",
            Self::List => "s3:ListBucket",
            Self::Write | Self::Claim => "s3:PutObject and s3:AbortMultipartUpload",
            Self::Remove => "s3:DeleteObject",
        }
    }
}

/// The failure of an operation on `path`, as one of our errors.
pub(super) fn explain(place: &Where, secrets: &StorageSecrets, path: &str, doing: Doing, failure: &Failure) -> Error {
    let shown = format!("{}/{path}", place.url.trim_end_matches('/'));
    let shown = shown.trim_end_matches('/');
    let reason = reason(place, doing, failure);
    Error::lake(shown, secrets.scrub(format!("{}: {reason}", doing.cannot())))
}

fn reason(place: &Where, doing: Doing, failure: &Failure) -> String {
    let tried = format!("{} tries in {:.0} s", failure.attempts, failure.elapsed.as_secs_f64());
    let Where { bucket, endpoint, region, .. } = place;
    // An attempt has a time-out of its own, which says no more than that nothing came.
    let answer = failure.error.as_ref().filter(|error| kind(error) != Some(HttpErrorKind::Timeout));
    let Some(error) = answer else {
        return format!(
            "{endpoint} did not answer in time ({tried}). It is slow or out of reach; what was committed stays, run again"
        );
    };
    let answer = Answer::of(error);
    let code = answer.code.as_deref().unwrap_or_default();
    match code {
        "NoSuchBucket" => {
            return format!("there is no bucket '{bucket}' at {endpoint}; make it, or name another one in `lake`");
        }
        "InvalidBucketName" => return format!("'{bucket}' cannot be a bucket's name; see `lake`"),
        "InvalidAccessKeyId" | "XAdminUserNotFound" | "InvalidClientTokenId" => {
            return format!(
                "{endpoint} does not know the access key; check storage.access_key_id, or AWS_ACCESS_KEY_ID where it \
                 is not set"
            );
        }
        "SignatureDoesNotMatch" => {
            return "the secret access key does not belong to the access key; check storage.secret_access_key, or \
                    AWS_SECRET_ACCESS_KEY where it is not set"
                .to_owned();
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            return "the temporary keys have expired; get new ones and run again: it goes on from the last commit"
                .to_owned();
        }
        "InvalidToken" => {
            return "the session token does not belong to the keys; give all three of one set".to_owned();
        }
        "RequestTimeTooSkewed" | "RequestExpired" => {
            let now = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S");
            return format!(
                "the clock of this machine and that of {endpoint} are too far apart (here it is {now} UTC); set this \
                 machine's clock right"
            );
        }
        "AuthorizationHeaderMalformed"
        | "PermanentRedirect"
        | "TemporaryRedirect"
        | "IllegalLocationConstraintException"
        | "IncorrectEndpoint" => return wrong_region(place, answer.region.as_deref()),
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "StorageFull" => return full(place),
        "EntityTooLarge" => return "it is larger than the server takes".to_owned(),
        "InvalidObjectState" => {
            return "it was moved to an archive; bring it back, and keep the lake out of such lifecycle rules"
                .to_owned();
        }
        _ => {}
    }
    let said = match (code, answer.message.as_deref()) {
        ("", None) => String::new(),
        (code, None) => format!(" ({code})"),
        (code, Some(message)) => format!(" ({code}: {message})"),
    };
    match answer.status {
        Some(401 | 403) => {
            let who = if place.anonymous { "without keys (storage.anonymous) nobody has" } else { "these keys need" };
            format!("permission denied{said}: {who} {} on the bucket '{bucket}' at {endpoint}", doing.right())
        }
        Some(301 | 307 | 308) => wrong_region(place, answer.region.as_deref()),
        Some(501) if doing == Doing::Claim => format!(
            "{endpoint} does not take `If-None-Match`, which the log needs; use a server that knows conditional writes"
        ),
        Some(507) => full(place),
        Some(429 | 503) => {
            format!("{endpoint} is too busy{said}, also after {tried}; what was committed stays, run again later")
        }
        Some(500..) => {
            format!("{endpoint} has a fault of its own{said}, also after {tried}; run again when it is well")
        }
        Some(status) => format!("{endpoint} answered {status}{said}"),
        None => unanswered(place, error, &tried, region),
    }
}

/// No answer of S3: the way there failed.
fn unanswered(place: &Where, error: &object_store::Error, tried: &str, region: &str) -> String {
    let endpoint = &place.endpoint;
    let text = chain(error);
    let low = text.to_lowercase();
    if low.contains("redirect without location") {
        return wrong_region(place, None);
    }
    if low.contains("url scheme is not allowed") {
        return format!(
            "{endpoint} is not encrypted, so that everybody on the way could read along; use https://, or set \
             storage.allow_http: true where that is fine"
        );
    }
    if low.contains("certificate") {
        return format!(
            "the certificate of {endpoint} is not trusted ({}); set storage.ca_file to the certificates to trust",
            last(&text)
        );
    }
    if low.contains("169.254.169.254") || low.contains("169.254.170") || low.contains("metadata") && !place.has_keys {
        return no_keys();
    }
    if low.contains("dns error") || low.contains("lookup address") {
        return format!("the host of {endpoint} is not known ({tried}); check storage.endpoint");
    }
    let connecting = kind(error) == Some(HttpErrorKind::Connect);
    let what = if connecting { "cannot be reached" } else { "broke off its answers" };
    let region =
        if endpoint.contains("amazonaws.com") { format!(" and storage.region ({region})") } else { String::new() };
    format!(
        "{endpoint} {what} ({tried}; {}); check that it runs, and storage.endpoint{region}. What was committed stays",
        last(&text)
    )
}

fn kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = source {
        if let Some(http) = e.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        source = e.source();
    }
    None
}

/// The innermost cause.
fn last(text: &str) -> String {
    text.rsplit(": ").next().unwrap_or(text).chars().take(160).collect()
}

fn wrong_region(place: &Where, right: Option<&str>) -> String {
    let Where { bucket, region, .. } = place;
    match right {
        Some(right) => format!(
            "requests are signed for the region {region}, and the bucket '{bucket}' is in {right}; set storage.region: \
             {right}"
        ),
        None => format!("the bucket '{bucket}' is not in the region {region}; set storage.region to its own"),
    }
}

fn full(place: &Where) -> String {
    format!("there is no room left at {}. Nothing of it was kept; make room and run again", place.endpoint)
}

fn no_keys() -> String {
    "no keys were found; set storage.access_key_id and storage.secret_access_key (take them from the environment: \
     ${NAME}), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where the machine has a role; for a bucket that \
     everybody may read: storage.anonymous: true"
        .to_owned()
}
