//! Canonical proto3 JSON of the messages of this package.

use crate::FILE_DESCRIPTOR_SET;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, SerializeOptions, Value};
use std::sync::LazyLock;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script encoded a valid descriptor set")
});

/// The first and last second that RFC 3339, and therefore proto3 JSON, can write: years 1 to 9999.
const SECONDS_MIN: i64 = -62_135_596_800;
const SECONDS_MAX: i64 = 253_402_300_799;
const NANOS_MAX: i32 = 999_999_999;

/// One line of canonical proto3 JSON, without a line feed.
///
/// A timestamp that JSON cannot write (a hostile peer can send one) is written as the nearest one it can.
pub fn to_string<M: Message + Name>(message: &M) -> String {
    let descriptor = POOL
        .get_message_by_name(&M::full_name())
        .expect("the pool holds every message of the package");
    let mut dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("a message decodes as its own type");
    // Valid messages, which are nearly all, are serialised once; only a refused one is walked and mended.
    let line = serialise(&dynamic).or_else(|_| {
        clamp_timestamps(&mut dynamic);
        serialise(&dynamic)
    });
    String::from_utf8(line.expect("a message with valid timestamps serialises into memory")).expect("JSON is UTF-8")
}

/// Parses canonical proto3 JSON.
///
/// # Errors
/// The text is no JSON, or names a field that the message does not have, or gives a value of another type.
pub fn from_str<M: Message + Name + Default>(text: &str) -> Result<M, serde_json::Error> {
    let descriptor = POOL
        .get_message_by_name(&M::full_name())
        .expect("the pool holds every message of the package");
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer)?;
    deserializer.end()?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice()).expect("a dynamic message encodes as its own type"))
}

fn serialise(dynamic: &DynamicMessage) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::new(&mut line);
    dynamic.serialize_with_options(&mut serializer, &SerializeOptions::new())?;
    Ok(line)
}

fn clamp_timestamps(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == "google.protobuf.Timestamp" {
        let seconds = message
            .get_field_by_name("seconds")
            .and_then(|value| value.as_i64())
            .unwrap_or(0);
        let nanos = message
            .get_field_by_name("nanos")
            .and_then(|value| value.as_i32())
            .unwrap_or(0);
        message.set_field_by_name("seconds", Value::I64(seconds.clamp(SECONDS_MIN, SECONDS_MAX)));
        message.set_field_by_name("nanos", Value::I32(nanos.clamp(0, NANOS_MAX)));
        return;
    }
    for (_, value) in message.fields_mut() {
        clamp_value(value);
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only messages and lists of them hold timestamps; no field is a map"
)]
fn clamp_value(value: &mut Value) {
    match value {
        Value::Message(message) => clamp_timestamps(message),
        Value::List(values) => values.iter_mut().for_each(clamp_value),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Alert, Process, Severity};
    use prost_types::Timestamp;

    #[test]
    fn json_is_canonical_and_round_trips() {
        let alert = Alert {
            fingerprint: "f\u{1b}".to_owned(),
            boot_time_ns: u64::MAX,
            severity: Severity::High.into(),
            ..Alert::default()
        };
        let text = to_string(&alert);
        assert_eq!(
            text,
            r#"{"fingerprint":"f\u001b","bootTimeNs":"18446744073709551615","severity":"SEVERITY_HIGH"}"#
        );
        assert_eq!(from_str::<Alert>(&text).unwrap(), alert);
        assert!(from_str::<Alert>("{\"nope\":1}").is_err());
    }

    #[test]
    fn a_timestamp_outside_of_json_is_written_as_the_nearest() {
        let ancestor = |seconds, nanos| Process {
            start_time: Some(Timestamp { seconds, nanos }),
            ..Process::default()
        };
        let alert = Alert {
            event_time: Some(Timestamp {
                seconds: i64::MAX,
                nanos: -1,
            }),
            ancestors: vec![ancestor(i64::MIN, i32::MAX), ancestor(0, 0)],
            severity: 99,
            ..Alert::default()
        };
        let text = to_string(&alert);
        assert_eq!(
            text,
            concat!(
                r#"{"eventTime":"9999-12-31T23:59:59Z","severity":99,"ancestors":["#,
                r#"{"startTime":"0001-01-01T00:00:00.999999999Z"},{"startTime":"1970-01-01T00:00:00Z"}]}"#
            )
        );
    }
}
