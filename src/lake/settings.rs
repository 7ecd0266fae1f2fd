//! How a bucket is reached: `storage` of the pipeline file, and the secrets that travel beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest that a request may live, in microseconds: what is younger than ten minutes is never swept, so whatever
/// a request that was given up still does comes long before that.
pub const LONGEST: i64 = 60_000_000;

/// `storage`: how a bucket is reached. Nothing in it is secret. What is not set is taken from the environment
/// (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, …).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSpec {
    /// The server's address; that of AWS when not set.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region that requests are signed for; `us-east-1` when not set anywhere.
    #[serde(default)]
    pub region: Option<String>,
    /// Whether the bucket stands in the path (`https://host/bucket/…`, the default) or before the host.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Whether an endpoint with `http://` is taken.
    #[serde(default)]
    pub allow_http: Option<bool>,
    /// A file with certificates (PEM) to trust beside those of the system.
    #[serde(default)]
    pub ca_file: Option<String>,
    /// Requests are not signed: for buckets that everybody may read.
    #[serde(default)]
    pub anonymous: Option<bool>,
    /// `AES256` or `aws:kms`: how the server is asked to encrypt.
    #[serde(default)]
    pub server_side_encryption: Option<String>,
    /// The key of `aws:kms`.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// How long a request may take with all its retries, in microseconds; [`LONGEST`] at most and when not set.
    #[serde(default)]
    pub timeout_us: Option<i64>,
}

impl StorageSpec {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Error::Settings`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if let Some(endpoint) = &self.endpoint {
            check_endpoint("storage.endpoint", endpoint)?;
        }
        if self.timeout_us.is_some_and(|t| t <= 0 || t > LONGEST) {
            return Err(Error::settings("storage.timeout", "must be more than nothing, and 60s at most"));
        }
        Ok(())
    }
}

/// Refuses an address that is none, or that holds a password: addresses are shown in messages.
pub(super) fn check_endpoint(name: &str, endpoint: &str) -> Result<()> {
    let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let Some(host) = host else {
        return Err(Error::settings(name, "must begin with https:// (or http://, with storage.allow_http: true)"));
    };
    let host = host.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(Error::settings(
            name,
            "must not hold a user or password; give storage.access_key_id and storage.secret_access_key",
        ));
    }
    if host.is_empty() {
        return Err(Error::settings(name, "names no host"));
    }
    Ok(())
}

/// Who asks. Never written, never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageSecrets {
    /// The name of the key.
    pub access_key_id: Option<String>,
    /// The key.
    pub secret_access_key: Option<String>,
    /// What temporary keys need besides.
    pub session_token: Option<String>,
}

impl StorageSecrets {
    /// Sets one by its name in `storage`.
    ///
    /// # Errors
    /// [`Error::Settings`] when there is none of that name.
    pub fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "access_key_id" => self.access_key_id = Some(value),
            "secret_access_key" => self.secret_access_key = Some(value),
            "session_token" => self.session_token = Some(value),
            _ => return Err(Error::settings(format!("storage.{name}"), "is no secret of a storage")),
        }
        Ok(())
    }

    /// Takes out of a text what must not be shown.
    #[cfg(any(feature = "s3", test))]
    pub(super) fn scrub(&self, text: String) -> String {
        [&self.secret_access_key, &self.session_token]
            .into_iter()
            .flatten()
            // Of a few letters it is no secret, and would tear words apart.
            .filter(|secret| secret.len() >= 8)
            .fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}

impl fmt::Debug for StorageSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = [
            ("access_key_id", self.access_key_id.is_some()),
            ("secret_access_key", self.secret_access_key.is_some()),
            ("session_token", self.session_token.is_some()),
        ];
        f.debug_set().entries(given.iter().filter(|(_, given)| *given).map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_that_cannot_work_are_refused() {
        let spec = |endpoint: &str| StorageSpec { endpoint: Some(endpoint.into()), ..StorageSpec::default() };
        assert!(spec("https://s3.example.org:9000/").check().is_ok());
        for (endpoint, words) in
            [("s3.example.org", "https://"), ("https://", "no host"), ("https://me:pw@host", "user or password")]
        {
            let error = spec(endpoint).check().unwrap_err().to_string();
            assert!(error.starts_with("storage.endpoint: ") && error.contains(words), "{error}");
            assert!(!error.contains("pw"), "{error}");
        }
        for timeout in [0, -1, LONGEST + 1] {
            assert!(StorageSpec { timeout_us: Some(timeout), ..StorageSpec::default() }.check().is_err());
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut secrets = StorageSecrets::default();
        for name in ["access_key_id", "secret_access_key", "session_token"] {
            secrets.set(name, format!("hidden-{name}")).unwrap();
        }
        assert!(!format!("{secrets:?}").contains("hidden"));
        assert_eq!(secrets.scrub("a hidden-secret_access_key b".into()), "a *** b");
        assert!(secrets.set("password", "x".into()).is_err());
    }
}
