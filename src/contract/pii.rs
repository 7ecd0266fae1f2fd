//! Personal properties: hashed with a secret (HMAC-SHA-256), or hidden behind stars.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::json;
use super::node::Kind;
use super::number::Decimal;

/// What a masked value becomes.
pub const MASK: &[u8] = b"***";

/// The key that personal properties are hashed with.
#[derive(Clone)]
pub struct Secret {
    inner: Arc<(Sha256, Sha256)>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Secret {
    /// Prepares a secret (RFC 2104).
    pub fn new(secret: &[u8]) -> Self {
        let mut block = [0u8; 64];
        if secret.len() > 64 {
            block[..32].copy_from_slice(&Sha256::digest(secret));
        } else {
            block[..secret.len()].copy_from_slice(secret);
        }
        let keyed = |pad: u8| {
            let mut hasher = Sha256::new();
            hasher.update(block.map(|b| b ^ pad));
            hasher
        };
        Self { inner: Arc::new((keyed(0x36), keyed(0x5c))) }
    }

    /// Appends the hash of a text, as 64 hexadecimal digits.
    pub fn hash_into(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut inner = self.inner.0.clone();
        inner.update(text);
        let mut outer = self.inner.1.clone();
        outer.update(inner.finalize());
        out.extend_from_slice(hex(&outer.finalize()).as_bytes());
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from_digit(u32::from(n), 16).unwrap_or('0')).collect()
}

/// Appends what of a scalar is hashed: the meaning of a string, one text for each number. `text` is that of a string
/// without its quotes.
pub fn plain_into(kind: Kind, text: &[u8], out: &mut Vec<u8>) {
    match kind {
        Kind::Escaped => json::unescape_into(text, out),
        // What is written as a plain integer is its own canonical text.
        Kind::Integer if text.len() <= 40 && text != b"-0" => out.extend_from_slice(text),
        Kind::Integer | Kind::Number => out.extend_from_slice(Decimal::parse(text).canonical().as_bytes()),
        _ => out.extend_from_slice(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_rfc_4231() {
        let hash = |key: &[u8], text: &[u8]| {
            let mut out = Vec::new();
            Secret::new(key).hash_into(text, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            hash(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hash(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert_eq!(format!("{:?}", Secret::new(b"topsecret")), "Secret(***)");
    }
}
