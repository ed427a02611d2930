//! DSSE envelopes and Sigstore bundles (v0.3) around a statement: signed and verified.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Attested, attested,
    key::{PrivateKey, PublicKey},
};

/// What a payload is that holds a statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// What a bundle is.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Bytes of an attestation that is looked at.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Signatures that are tried; one is what there is.
const SIGNATURES_MAX: usize = 16;

/// Why an attestation is not believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// Neither a bundle nor an envelope.
    #[error("is neither a Sigstore bundle nor a DSSE envelope; give the file that `staghound attest sign` wrote")]
    NoEnvelope,
    /// Too large.
    #[error("is larger than {BYTES_MAX} bytes, so it was not read")]
    TooLarge,
    /// The envelope holds something else.
    #[error("holds a payload that is no in-toto statement")]
    PayloadType,
    /// Nobody signed it, or somebody else did, or it was changed.
    #[error("has no valid signature of this key: it was changed, or somebody else signed it")]
    Signature,
    /// The payload is no statement.
    #[error("is signed, but is no in-toto statement (v1)")]
    NoStatement,
    /// A statement of something else.
    #[error("is signed, but its predicate is `{0}`, and not a runtime trace (v0.1)")]
    Predicate(String),
}

/// The envelope as JSON, ending with a line feed.
#[must_use]
pub fn envelope(statement: &str, key: &PrivateKey) -> String {
    format!("{}\n", signed(statement, key))
}

/// The bundle as JSON, ending with a line feed: what `cosign verify-blob-attestation --bundle` takes.
#[must_use]
pub fn bundle(statement: &str, key: &PrivateKey) -> String {
    let bundle = json!({
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public().hint()}},
        "dsseEnvelope": signed(statement, key),
    });
    format!("{bundle}\n")
}

fn signed(statement: &str, key: &PrivateKey) -> Value {
    let signature = key.sign(&authenticated(PAYLOAD_TYPE, statement.as_bytes()));
    // Without a `keyid`: verifiers compare it with names of keys of their own making, and skip what differs.
    json!({
        "payload": STANDARD.encode(statement),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
    })
}

/// What is signed: type and payload, each with its length (DSSE's pre-authentication encoding).
fn authenticated(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

/// Verifies a bundle or an envelope with a key.
///
/// # Errors
/// It is not what this key signed, or not a runtime trace.
pub fn verify(text: &str, key: &PublicKey) -> Result<Attested, Refused> {
    if text.len() > BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let value: Value = serde_json::from_str(text).map_err(|_| Refused::NoEnvelope)?;
    let envelope = match value.get("dsseEnvelope") {
        Some(envelope) if value["mediaType"] == BUNDLE_TYPE => envelope,
        Some(_) => return Err(Refused::NoEnvelope),
        None => &value,
    };
    let decode = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok());
    let payload = decode(&envelope["payload"]).ok_or(Refused::NoEnvelope)?;
    if envelope["payloadType"] != PAYLOAD_TYPE {
        return Err(Refused::PayloadType);
    }
    let message = authenticated(PAYLOAD_TYPE, &payload);
    let signatures = envelope["signatures"].as_array().map_or(&[][..], Vec::as_slice);
    let is_signed = signatures
        .iter()
        .take(SIGNATURES_MAX)
        .filter_map(|signature| decode(&signature["sig"]))
        .any(|signature| key.verifies(&message, &signature));
    if !is_signed {
        return Err(Refused::Signature);
    }
    // Only what was signed is looked at from here on.
    attested(std::str::from_utf8(&payload).map_err(|_| Refused::NoStatement)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::{PREDICATE_TYPE, STATEMENT_TYPE};

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::generate(&[byte; 32]).unwrap()
    }

    fn statement() -> String {
        json!({
            "_type": STATEMENT_TYPE,
            "predicateType": PREDICATE_TYPE,
            "subject": [{"name": "a", "digest": {"sha256": "ab"}}],
            "predicate": {"staghound_verdict": {"verdict": "pass"}},
        })
        .to_string()
    }

    #[test]
    fn what_is_authenticated_is_as_the_protocol_says() {
        // The example of the DSSE protocol.
        assert_eq!(
            authenticated("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn what_was_signed_is_verified() {
        for text in [bundle(&statement(), &key(7)), envelope(&statement(), &key(7))] {
            let attested = verify(&text, &key(7).public()).unwrap();
            assert_eq!((attested.verdict.as_str(), attested.covers("ab")), ("pass", true));
            assert!(!attested.covers("") && !attested.covers("cd"));
            assert_eq!(verify(&text, &key(8).public()).err(), Some(Refused::Signature));
        }
    }

    #[test]
    fn what_was_changed_is_refused() {
        let value: Value = serde_json::from_str(&bundle(&statement(), &key(7))).unwrap();
        let changed = |pointer: &str, new: Value| {
            let mut value = value.clone();
            *value.pointer_mut(pointer).unwrap() = new;
            verify(&value.to_string(), &key(7).public()).err()
        };
        let other = STANDARD.encode(statement().replace("pass", "fail"));
        for (pointer, new, expected) in [
            ("/dsseEnvelope/payload", json!(other), Refused::Signature),
            ("/dsseEnvelope/payload", json!("%"), Refused::NoEnvelope),
            ("/dsseEnvelope/payloadType", json!("text/plain"), Refused::PayloadType),
            ("/dsseEnvelope/signatures", json!([]), Refused::Signature),
            ("/dsseEnvelope/signatures/0/sig", json!("AAAA"), Refused::Signature),
            ("/dsseEnvelope/signatures/0/sig", json!(null), Refused::Signature),
            ("/mediaType", json!("x"), Refused::NoEnvelope),
        ] {
            assert_eq!(changed(pointer, new), Some(expected), "{pointer}");
        }
        // Only what is signed counts.
        assert_eq!(changed("/dsseEnvelope/signatures/0/keyid", json!("x")), None);
        for text in ["", "[]", "{}", "null", "{\"dsseEnvelope\":1}"] {
            assert_eq!(
                verify(text, &key(7).public()).err(),
                Some(Refused::NoEnvelope),
                "{text}"
            );
        }
    }

    #[test]
    fn statements_of_something_else_are_refused() {
        for (statement, expected) in [
            ("{}".to_owned(), Refused::NoStatement),
            ("x".to_owned(), Refused::NoStatement),
            (
                statement().replace("runtime-trace/v0.1", "\\u001b[2J"),
                Refused::Predicate(r"https://in-toto.io/attestation/\u{1b}[2J".to_owned()),
            ),
        ] {
            assert_eq!(
                verify(&envelope(&statement, &key(7)), &key(7).public()).err(),
                Some(expected)
            );
        }
    }
}
