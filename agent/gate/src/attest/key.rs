//! Keys: ECDSA on P-256 with SHA-256, in PEM (PKCS#8 and SPKI), as openssl and cosign write them.
//!
//! Signatures are deterministic (RFC 6979): nothing here needs random numbers but the making of a key, which is given them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::{
    ecdsa::{
        Signature,
        signature::{Signer as _, Verifier as _},
    },
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
};
use sha2::{Digest as _, Sha256};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKey {
    /// A private key in another form.
    #[error("is a key in the older EC form; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    Sec1,
    /// A private key that needs a password.
    #[error("is encrypted; decrypt it first, or make one with `staghound attest keygen`")]
    Encrypted,
    /// Not a private key on P-256.
    #[error("is no ECDSA P-256 private key in PEM (PKCS#8); make one with `staghound attest keygen`")]
    NotPrivate,
    /// Not a public key on P-256.
    #[error("is no ECDSA P-256 public key in PEM; `staghound attest keygen` writes one beside the private key")]
    NotPublic,
    /// Random bytes that are no key.
    #[error("the random bytes are no key; try again")]
    Entropy,
}

/// A private key. It is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct PrivateKey(p256::ecdsa::SigningKey);

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(p256::ecdsa::VerifyingKey);

impl PrivateKey {
    /// The key that these random bytes are.
    ///
    /// # Errors
    /// They are none; of random ones one in 2³² tries fails.
    pub fn generate(random: &[u8; 32]) -> Result<Self, InvalidKey> {
        let key = p256::ecdsa::SigningKey::from_slice(random).map_err(|_| InvalidKey::Entropy)?;
        Ok(Self(key))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// It is no key that can be used here.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidKey> {
        if pem.contains("BEGIN EC PRIVATE KEY") {
            return Err(InvalidKey::Sec1);
        }
        if pem.contains("BEGIN ENCRYPTED") {
            return Err(InvalidKey::Encrypted);
        }
        let key = p256::ecdsa::SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| InvalidKey::NotPrivate)?;
        Ok(Self(key))
    }

    /// The key in PEM. Who has it can sign.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let pem = self
            .0
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a key on P-256 has an encoding");
        pem.to_string()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The signature, in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.to_der().as_bytes().to_vec()
    }
}

impl PublicKey {
    /// Reads a key.
    ///
    /// # Errors
    /// It is no key that can be used here.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidKey> {
        let key = p256::ecdsa::VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| InvalidKey::NotPublic)?;
        Ok(Self(key))
    }

    /// The key in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .expect("a key on P-256 has an encoding")
    }

    /// What names the key: the digest of its encoding.
    #[must_use]
    pub fn hint(&self) -> String {
        let der = self.0.to_public_key_der().expect("a key on P-256 has an encoding");
        STANDARD.encode(Sha256::digest(der.as_bytes()))
    }

    /// Whether the signature, in DER, is this key's of the message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature).is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let key = PrivateKey::generate(&[7; 32]).unwrap();
        let read = PrivateKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(read.public(), key.public());
        let public = PublicKey::from_pem(&key.public().to_pem()).unwrap();
        assert!(public.verifies(b"a", &key.sign(b"a")));
        assert!(!public.verifies(b"b", &key.sign(b"a")));
        assert!(!public.verifies(b"a", b""));
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        let key = PrivateKey::generate(&[7; 32]).unwrap();
        for (pem, expected) in [
            ("-----BEGIN EC PRIVATE KEY-----", InvalidKey::Sec1),
            ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", InvalidKey::Encrypted),
            (&key.public().to_pem(), InvalidKey::NotPrivate),
            ("", InvalidKey::NotPrivate),
        ] {
            assert_eq!(PrivateKey::from_pem(pem).err().unwrap(), expected);
        }
        assert_eq!(PublicKey::from_pem(&key.to_pem()), Err(InvalidKey::NotPublic));
        assert_eq!(PrivateKey::generate(&[0; 32]).err().unwrap(), InvalidKey::Entropy);
    }
}
