//! Who a certificate says its holder is: one URI among its alternative names.
//!
//! The certificate has been verified before; here it is only read, and a certificate that is not what it should be
//! makes its holder nobody.

use std::fmt;

const AGENT: &str = "staghound://agent/";
const CONSUMER: &str = "staghound://consumer/";
const NAME_BYTES_MAX: usize = 253;
/// 2.5.29.17, subjectAltName.
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// [3], explicit: the extensions of a certificate.
const EXTENSIONS: u8 = 0xa3;
/// [6], implicit: a URI among general names.
const URI: u8 = 0x86;

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// May deliver, as this agent.
    Agent(String),
    /// May read, as this consumer.
    Consumer(String),
    /// May do neither, and why.
    Nobody(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id) => write!(f, "agent {id:?}"),
            Self::Consumer(name) => write!(f, "consumer {name:?}"),
            Self::Nobody(why) => write!(f, "the holder of a certificate {why}"),
        }
    }
}

impl Identity {
    /// Reads a certificate in DER.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let Some(uris) = uris(certificate) else {
            return Self::Nobody("whose alternative names cannot be read".to_owned());
        };
        let mut ours = uris.iter().filter_map(|uri| Self::parse(uri));
        match (ours.next(), ours.next()) {
            (Some(identity), None) => identity,
            (None, _) => Self::Nobody("that names neither an agent nor a consumer".to_owned()),
            (Some(_), Some(_)) => Self::Nobody("that names more than one agent or consumer".to_owned()),
        }
    }

    fn parse(uri: &[u8]) -> Option<Self> {
        let uri = std::str::from_utf8(uri).ok()?;
        let valid = |name: &&str| {
            let charset = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(charset)
        };
        let named = |prefix: &str| uri.strip_prefix(prefix).filter(valid).map(str::to_owned);
        named(AGENT)
            .map(Self::Agent)
            .or_else(|| named(CONSUMER).map(Self::Consumer))
    }
}

/// The URI that names an agent or a consumer.
pub(crate) fn uri(identity: &Identity) -> Option<String> {
    match identity {
        Identity::Agent(id) => Some(format!("{AGENT}{id}")),
        Identity::Consumer(name) => Some(format!("{CONSUMER}{name}")),
        Identity::Nobody(_) => None,
    }
}

/// One value of DER and what follows it.
struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

fn value(bytes: &[u8]) -> Option<Value<'_>> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (length, bytes) = match first {
        0..0x80 => (usize::from(first), bytes),
        // Up to four bytes of length; certificates are far smaller.
        0x81..=0x84 => {
            let (digits, bytes) = bytes.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            (length, bytes)
        }
        0x80 | 0x85.. => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some(Value { tag, content, rest })
}

fn expect(bytes: &[u8], tag: u8) -> Option<Value<'_>> {
    value(bytes).filter(|value| value.tag == tag)
}

/// All URIs among the alternative names; none if there is no such extension.
fn uris(certificate: &[u8]) -> Option<Vec<&[u8]>> {
    let mut fields = expect(expect(certificate, SEQUENCE)?.content, SEQUENCE)?.content;
    let mut extensions = loop {
        if fields.is_empty() {
            return Some(Vec::new());
        }
        let field = value(fields)?;
        if field.tag == EXTENSIONS {
            break expect(field.content, SEQUENCE)?.content;
        }
        fields = field.rest;
    };
    let mut uris = Vec::new();
    while !extensions.is_empty() {
        let extension = expect(extensions, SEQUENCE)?;
        extensions = extension.rest;
        let id = expect(extension.content, OBJECT_IDENTIFIER)?;
        if id.content != ALTERNATIVE_NAMES {
            continue;
        }
        // Whether it is critical may stand before the value.
        let mut parts = id.rest;
        let names = loop {
            let part = value(parts)?;
            if part.tag == OCTET_STRING {
                break part.content;
            }
            parts = part.rest;
        };
        let mut names = expect(names, SEQUENCE)?.content;
        while !names.is_empty() {
            let name = value(names)?;
            if name.tag == URI {
                uris.push(name.content);
            }
            names = name.rest;
        }
    }
    Some(uris)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(names);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn identities() {
        let of = |uris: &[&str]| Identity::of(&certificate(uris));
        assert_eq!(
            of(&["staghound://agent/node-1.example"]),
            Identity::Agent("node-1.example".to_owned())
        );
        assert_eq!(
            of(&["https://x/", "staghound://consumer/siem"]),
            Identity::Consumer("siem".to_owned())
        );
        for bad in [
            &[][..],
            &["staghound://agent/"],
            &["staghound://agent/a/b"],
            &["staghound://agent/a%20b"],
            &["https://staghound://agent/a"],
            &["staghound://root/a"],
            &["staghound://agent/a", "staghound://agent/b"],
            &["staghound://agent/a", "staghound://consumer/a"],
        ] {
            assert!(matches!(of(bad), Identity::Nobody(_)), "{bad:?}");
        }
        // A name that looks like the extension is no extension.
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let hostile = "\u{6}\u{3}U\u{1d}\u{11}\u{4}\u{15}staghound://agent/root";
        params.distinguished_name.push(rcgen::DnType::CommonName, hostile);
        let der = params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec();
        assert!(matches!(Identity::of(&der), Identity::Nobody(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_somebody_or_nobody(bytes in prop::collection::vec(any::<u8>(), 0..300), place in 0_usize..2000, with in any::<u8>()) {
            Identity::of(&bytes);
            static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| certificate(&["staghound://agent/a"]));
            let mut certificate = CERTIFICATE.clone();
            let place = place % certificate.len();
            certificate[place] = with;
            Identity::of(&certificate);
        }
    }
}
