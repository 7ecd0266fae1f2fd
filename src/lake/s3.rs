//! The client of S3, made of settings, secrets and the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, Certificate, ClientConfigKey, ClientOptions, RetryConfig};

use super::bucket::{Bucket, Parts};
use super::refusal::Where;
use super::retry::{Counters, Policy};
use super::settings::{LONGEST, StorageSecrets, StorageSpec, check_endpoint};
use crate::error::{Error, Result};

/// How long it takes at most until a server has taken a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The variables of the environment that count, by what they set.
fn environment(spec: &StorageSpec, secrets: &StorageSecrets) -> Vec<(AmazonS3ConfigKey, String)> {
    use AmazonS3ConfigKey as Key;
    let given_keys = secrets.access_key_id.is_some() || secrets.secret_access_key.is_some();
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse::<Key>().ok()?, value)))
        .filter(|(key, _)| match key {
            // Keys and token are one thing: those of two places are never mixed.
            Key::AccessKeyId | Key::SecretAccessKey | Key::Token => !given_keys,
            Key::WebIdentityTokenFile
            | Key::RoleArn
            | Key::ContainerCredentialsFullUri
            | Key::ContainerCredentialsRelativeUri => !given_keys,
            Key::Endpoint | Key::S3Endpoint => spec.endpoint.is_none(),
            Key::Region | Key::DefaultRegion => spec.region.is_none(),
            // What the log rests on cannot be switched off; the bucket stands in the lake's address.
            Key::ConditionalPut | Key::CopyIfNotExists | Key::Bucket => false,
            _ => true,
        })
        .collect()
}

/// A bucket by its URL.
pub(super) fn open(url: &str, spec: &StorageSpec, secrets: &StorageSecrets, counters: Arc<Counters>) -> Result<Bucket> {
    use AmazonS3ConfigKey as Key;
    spec.check()?;
    let (bucket, prefix) = parts_of(url)?;
    let total = Duration::from_micros(spec.timeout_us.unwrap_or(LONGEST).unsigned_abs());
    let policy = Policy::within(total);
    let mut client =
        ClientOptions::new().with_timeout(policy.attempt).with_connect_timeout(CONNECT.min(policy.attempt));
    if let Some(file) = &spec.ca_file {
        let unreadable = |e: &dyn std::fmt::Display| Error::settings("storage.ca_file", format!("{file}: {e}"));
        let pem = std::fs::read(file).map_err(|e| unreadable(&e))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| unreadable(&e))?;
        if certificates.is_empty() {
            return Err(unreadable(&"holds no certificate (PEM)"));
        }
        client = certificates.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    // One request is one attempt: `retry` tries again, and knows what was lost.
    let retry = RetryConfig { max_retries: 0, retry_timeout: total, backoff: BackoffConfig::default() };
    let found = environment(spec, secrets);
    let set = |key: Key| found.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    let mut builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry).with_bucket_name(&bucket);
    for (key, value) in &found {
        builder = builder.with_config(*key, value);
    }

    let region = spec.region.clone().or_else(|| set(Key::Region)).or_else(|| set(Key::DefaultRegion));
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    builder = builder.with_region(&region);
    let path_style = spec.path_style.unwrap_or_else(|| {
        let virtual_hosted = set(Key::VirtualHostedStyleRequest).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        !virtual_hosted
    });
    builder = builder.with_virtual_hosted_style_request(!path_style);
    let endpoint = spec.endpoint.clone().or_else(|| set(Key::S3Endpoint)).or_else(|| set(Key::Endpoint));
    let shown = match &endpoint {
        Some(endpoint) => {
            let name = if spec.endpoint.is_some() { "storage.endpoint" } else { "AWS_ENDPOINT_URL" };
            check_endpoint(name, endpoint)?;
            let endpoint = endpoint.trim_end_matches('/');
            let whole =
                if path_style { endpoint.to_owned() } else { endpoint.replacen("://", &format!("://{bucket}."), 1) };
            builder = builder.with_config(Key::S3Endpoint, whole);
            endpoint.to_owned()
        }
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    if let Some(allow) = spec.allow_http {
        builder = builder.with_config(Key::Client(ClientConfigKey::AllowHttp), allow.to_string());
    }
    if let Some(anonymous) = spec.anonymous {
        builder = builder.with_skip_signature(anonymous);
    }
    if let Some(how) = &spec.server_side_encryption {
        let key = "aws_server_side_encryption".parse::<Key>().map_err(|e| Error::Internal(e.to_string()))?;
        builder = builder.with_config(key, how);
    }
    if let Some(id) = &spec.kms_key_id {
        let key = "aws_sse_kms_key_id".parse::<Key>().map_err(|e| Error::Internal(e.to_string()))?;
        builder = builder.with_config(key, id);
    }
    for (name, key, value) in [
        ("access_key_id", Key::AccessKeyId, &secrets.access_key_id),
        ("secret_access_key", Key::SecretAccessKey, &secrets.secret_access_key),
        ("session_token", Key::Token, &secrets.session_token),
    ] {
        match value {
            Some(value) if value.is_empty() => return Err(Error::settings(format!("storage.{name}"), "is empty")),
            Some(value) => builder = builder.with_config(key, value),
            None => {}
        }
    }
    let has_keys = secrets.access_key_id.is_some()
        || [Key::AccessKeyId, Key::WebIdentityTokenFile, Key::ContainerCredentialsFullUri]
            .into_iter()
            .any(|k| set(k).is_some())
        || set(Key::ContainerCredentialsRelativeUri).is_some();
    let place = Where {
        url: url.to_owned(),
        bucket,
        endpoint: shown,
        region,
        has_keys,
        anonymous: spec.anonymous.unwrap_or_default(),
    };
    // The message of the builder holds names of settings, never their values of keys.
    let store = builder.build().map_err(|e| Error::settings("storage", secrets.scrub(e.to_string())))?;
    Ok(Bucket {
        store: Arc::new(store),
        prefix,
        policy,
        parts: Parts::default(),
        counters,
        place,
        secrets: merged(secrets, &found),
    })
}

/// The secrets in use, so that none of them can stand in a message.
fn merged(secrets: &StorageSecrets, found: &[(AmazonS3ConfigKey, String)]) -> StorageSecrets {
    let from = |key: AmazonS3ConfigKey| found.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    StorageSecrets {
        access_key_id: secrets.access_key_id.clone(),
        secret_access_key: secrets.secret_access_key.clone().or_else(|| from(AmazonS3ConfigKey::SecretAccessKey)),
        session_token: secrets.session_token.clone().or_else(|| from(AmazonS3ConfigKey::Token)),
    }
}

/// Bucket and prefix of `s3://bucket/prefix`.
fn parts_of(url: &str) -> Result<(String, String)> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains(['@', ':', '?', '#']) {
        return Err(Error::settings(
            "lake",
            "write it as s3://bucket/prefix; keys and addresses stand under `storage`",
        ));
    }
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return Ok((bucket.to_owned(), String::new()));
    }
    let path = object_store::path::Path::parse(prefix).map_err(|e| Error::settings("lake", e))?;
    Ok((bucket.to_owned(), format!("{path}/")))
}
