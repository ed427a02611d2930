//! Canonical proto3 JSON of the messages of this package.

use crate::FILE_DESCRIPTOR_SET;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use std::sync::LazyLock;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script encoded a valid descriptor set")
});

/// One line of canonical proto3 JSON, without a line feed.
pub fn to_string<M: Message + Name>(message: &M) -> String {
    let descriptor = POOL.get_message_by_name(&M::full_name()).expect("the pool holds every message of the package");
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes as its own type");
    let mut line = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::new(&mut line);
    dynamic
        .serialize_with_options(&mut serializer, &SerializeOptions::new())
        .expect("a valid message serialises into memory");
    String::from_utf8(line).expect("JSON is UTF-8")
}

/// Parses canonical proto3 JSON.
///
/// # Errors
/// The text is no JSON, or names a field that the message does not have, or gives a value of another type.
pub fn from_str<M: Message + Name + Default>(text: &str) -> Result<M, serde_json::Error> {
    let descriptor = POOL.get_message_by_name(&M::full_name()).expect("the pool holds every message of the package");
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer)?;
    deserializer.end()?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice()).expect("a dynamic message encodes as its own type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Alert, Severity};

    #[test]
    fn json_is_canonical_and_round_trips() {
        let alert = Alert {
            fingerprint: "f\u{1b}".to_owned(),
            boot_time_ns: u64::MAX,
            severity: Severity::High.into(),
            ..Alert::default()
        };
        let text = to_string(&alert);
        assert_eq!(text, r#"{"fingerprint":"f\u001b","bootTimeNs":"18446744073709551615","severity":"SEVERITY_HIGH"}"#);
        assert_eq!(from_str::<Alert>(&text).unwrap(), alert);
        assert!(from_str::<Alert>("{\"nope\":1}").is_err());
    }
}
