//! What a test means for a value, and conditions evaluated node by node.
//!
//! This is the plain reading of the language: slow, and what the compiled ruleset is compared with.

use std::io::Write;

use crate::event::{Event, Value};
use crate::field::{Field, FieldArg, FieldRef, Shape};
use crate::ir::{DatePart, FieldOrder, Graph, Node, NodeId, Operand, Predicate, Test, Transform};

/// Whether `test` accepts some value of the field.
pub(crate) fn any_value<E: Event + ?Sized>(
    event: &E,
    field: &FieldRef,
    test: &mut dyn FnMut(Value<'_>) -> bool,
) -> bool {
    match field.shape() {
        Shape::Single => event.value(field).is_some_and(test),
        Shape::List | Shape::Either => {
            let mut found = false;
            event.each(field, &mut |value| {
                found = test(value);
                !found
            });
            found
        }
    }
}

/// The value as text; numbers are written into `buffer`.
pub(crate) fn text_of<'v>(value: Value<'v>, field: &FieldRef, buffer: &'v mut Vec<u8>) -> &'v [u8] {
    let number = match value {
        Value::Text(text) => return text,
        Value::Flag(true) => return b"true",
        Value::Flag(false) => return b"false",
        Value::Address(address) => {
            buffer.clear();
            write!(buffer, "{address}").expect("writing to memory does not fail");
            return buffer;
        }
        Value::Number(number) => number,
    };
    buffer.clear();
    match (&field.arg, field.field) {
        (FieldArg::Key(key), Field::EvtArg) if &**key == "mode" => write_flags(number, MODE_BITS, "0", buffer),
        (FieldArg::Key(key), Field::EvtArg) if &**key == "flags" => {
            // The two lowest bits are a number, not flags.
            const ACCESS: [&str; 4] = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"];
            let access = usize::try_from(number & 3).map_or("O_RDONLY", |access| ACCESS[access]);
            buffer.extend_from_slice(access.as_bytes());
            let rest = number & !3;
            if rest != 0 {
                buffer.push(b'|');
                write_flags(rest, OPEN_BITS, "0", buffer);
            }
        }
        _ => {
            write!(buffer, "{number}").expect("writing to memory does not fail");
        }
    }
    buffer
}

const MODE_BITS: &[(i64, &str)] = &[
    (0o4000, "S_ISUID"),
    (0o2000, "S_ISGID"),
    (0o1000, "S_ISVTX"),
    (0o400, "S_IRUSR"),
    (0o200, "S_IWUSR"),
    (0o100, "S_IXUSR"),
    (0o040, "S_IRGRP"),
    (0o020, "S_IWGRP"),
    (0o010, "S_IXGRP"),
    (0o004, "S_IROTH"),
    (0o002, "S_IWOTH"),
    (0o001, "S_IXOTH"),
];

/// Open flags as the generic kernel headers number them (x86); `O_SYNC` and `O_TMPFILE` contain bits of others.
const OPEN_BITS: &[(i64, &str)] = &[
    (0o20200000, "O_TMPFILE"),
    (0o4010000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
];

fn write_flags(number: i64, bits: &[(i64, &str)], none: &str, buffer: &mut Vec<u8>) {
    let mut rest = number;
    let start = buffer.len();
    for (bit, name) in bits {
        if rest & bit == *bit {
            if buffer.len() > start {
                buffer.push(b'|');
            }
            buffer.extend_from_slice(name.as_bytes());
            rest &= !bit;
        }
    }
    if buffer.len() == start {
        buffer.extend_from_slice(none.as_bytes());
    }
}

/// The value after the transformers of its operand; `None` when one of them does not apply.
pub(crate) fn transformed<'v>(value: Value<'v>, operand: &Operand, buffer: &'v mut Vec<u8>) -> Option<Value<'v>> {
    if operand.transforms.is_empty() {
        return Some(value);
    }
    if let [Transform::Date(part)] = *operand.transforms {
        let Value::Number(time_ns) = value else { return None };
        return Some(Value::Number(date_part(part, time_ns.div_euclid(1_000_000_000))));
    }
    if let Value::Text(text) = value {
        buffer.clear();
        buffer.extend_from_slice(text);
    } else {
        text_of(value, &operand.field, buffer);
    }
    for transform in &operand.transforms {
        match transform {
            Transform::ToLower => buffer.make_ascii_lowercase(),
            Transform::ToUpper => buffer.make_ascii_uppercase(),
            Transform::Basename => {
                let name = buffer
                    .iter()
                    .rposition(|byte| *byte == b'/')
                    .map_or(0, |slash| slash + 1);
                buffer.drain(..name);
            }
            Transform::Base64 => decode_base64(buffer)?,
            Transform::Length => return Some(Value::Number(i64::try_from(buffer.len()).ok()?)),
            // Only of a number, and only alone.
            Transform::Date(_) => return None,
        }
    }
    Some(Value::Text(buffer))
}

/// A part of the date so many seconds after 1970 began, in UTC.
fn date_part(part: DatePart, seconds: i64) -> i64 {
    let days = seconds.div_euclid(86_400);
    let (year, month, day) = civil(days);
    match part {
        DatePart::Minute => seconds.div_euclid(60).rem_euclid(60),
        DatePart::Hour => seconds.div_euclid(3600).rem_euclid(24),
        DatePart::Day => day,
        DatePart::Month => month,
        DatePart::Year => year,
        DatePart::Week => {
            // The week is the one of its Thursday; 1970 began with one.
            let thursday = days + 3 - (days + 3).rem_euclid(7);
            let (year, ..) = civil(thursday);
            let mut first = thursday;
            while civil(first - 7).0 == year {
                first -= 7;
            }
            (thursday - first) / 7 + 1
        }
    }
}

/// Year, month and day, so many days after 1970 began: counted in eras of 400 years that begin in March, so that the day
/// that leap years have more is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// Decodes in place; `None` when the text is not Base64.
fn decode_base64(bytes: &mut Vec<u8>) -> Option<()> {
    let length = bytes.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    if bytes.len() - length > 2 || length % 4 == 1 {
        return None;
    }
    let mut written = 0;
    let (mut held, mut bits) = (0_u32, 0_u32);
    for at in 0..length {
        let digit = match bytes[at] {
            byte @ b'A'..=b'Z' => byte - b'A',
            byte @ b'a'..=b'z' => byte - b'a' + 26,
            byte @ b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        held = (held << 6) | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes[written] = u8::try_from((held >> bits) & 0xff).ok()?;
            held &= (1 << bits) - 1;
            written += 1;
        }
    }
    bytes.truncate(written);
    Some(())
}

/// Whether `path` is `prefix` or below it.
pub(crate) fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    match prefix {
        b"" => false,
        b"/" => path.starts_with(b"/"),
        _ => path
            .strip_prefix(prefix)
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))),
    }
}

/// Whether two values of fields compare so.
pub(crate) fn compare(order: FieldOrder, left: Value<'_>, right: Value<'_>) -> bool {
    let ordering = match (left, right) {
        (Value::Text(left), Value::Text(right)) => {
            let contains = |left: &[u8], right: &[u8]| memchr::memmem::find(left, right).is_some();
            match order {
                FieldOrder::Contains => return contains(left, right),
                FieldOrder::ContainsFold => return contains(&left.to_ascii_lowercase(), &right.to_ascii_lowercase()),
                FieldOrder::StartsWith => return left.starts_with(right),
                FieldOrder::EndsWith => return left.ends_with(right),
                FieldOrder::Equal | FieldOrder::NotEqual | FieldOrder::Order(_) => left.cmp(right),
            }
        }
        (Value::Number(left), Value::Number(right)) => left.cmp(&right),
        (Value::Flag(left), Value::Flag(right)) => left.cmp(&right),
        (Value::Address(left), Value::Address(right)) => left.to_canonical().cmp(&right.to_canonical()),
        _ => return false,
    };
    match order {
        FieldOrder::Equal => ordering.is_eq(),
        FieldOrder::NotEqual => ordering.is_ne(),
        FieldOrder::Order(order) => order.holds(ordering),
        FieldOrder::Contains | FieldOrder::ContainsFold | FieldOrder::StartsWith | FieldOrder::EndsWith => false,
    }
}

/// Whether a condition holds for an event.
pub(crate) fn holds(graph: &Graph, node: NodeId, event: &dyn Event) -> bool {
    match graph.node(node) {
        Node::Constant(value) => *value,
        Node::Test(predicate) => accepts(graph.predicate(*predicate), event),
        Node::Not(of) => !holds(graph, *of, event),
        Node::And(parts) => parts.iter().all(|part| holds(graph, *part, event)),
        Node::Or(parts) => parts.iter().any(|part| holds(graph, *part, event)),
        Node::ExactlyOne(parts) => parts.iter().filter(|part| holds(graph, **part, event)).count() == 1,
    }
}

/// Whether a test holds for an event.
pub(crate) fn accepts(predicate: &Predicate, event: &dyn Event) -> bool {
    let Predicate { operand, test } = predicate;
    any_value(event, &operand.field, &mut |value| {
        let mut buffer = Vec::new();
        let Some(value) = transformed(value, operand, &mut buffer) else {
            return false;
        };
        if let Test::Field(order, right) = test {
            return any_value(event, &right.field, &mut |other| {
                let (mut transform_buffer, mut left_buffer, mut right_buffer) = (Vec::new(), Vec::new(), Vec::new());
                let Some(other) = transformed(other, right, &mut transform_buffer) else {
                    return false;
                };
                let (left, right) = alike(
                    value,
                    &operand.field,
                    &mut left_buffer,
                    other,
                    &right.field,
                    &mut right_buffer,
                );
                compare(*order, left, right)
            });
        }
        accepts_value(test, value, &operand.field)
    })
}

/// Both values as text when only one of them is.
pub(crate) fn alike<'v>(
    left: Value<'v>,
    left_field: &FieldRef,
    left_buffer: &'v mut Vec<u8>,
    right: Value<'v>,
    right_field: &FieldRef,
    right_buffer: &'v mut Vec<u8>,
) -> (Value<'v>, Value<'v>) {
    match (left, right) {
        (Value::Text(_), Value::Number(_)) | (Value::Number(_), Value::Text(_)) => (
            Value::Text(text_of(left, left_field, left_buffer)),
            Value::Text(text_of(right, right_field, right_buffer)),
        ),
        both => both,
    }
}

/// Whether a test accepts a value. One that compares fields needs the event, so it accepts none.
pub(crate) fn accepts_value(test: &Test, value: Value<'_>, field: &FieldRef) -> bool {
    let mut buffer = Vec::new();
    match test {
        Test::Exists => true,
        Test::TextIn(values) => {
            let text = text_of(value, field, &mut buffer);
            values.iter().any(|wanted| **wanted == *text)
        }
        Test::TextDiffers(other) => text_of(value, field, &mut buffer) != &**other,
        Test::TextOrder(order, other) => order.holds(text_of(value, field, &mut buffer).cmp(other)),
        Test::StartsWith(prefix) => text_of(value, field, &mut buffer).starts_with(prefix),
        Test::EndsWith(suffix) => text_of(value, field, &mut buffer).ends_with(suffix),
        Test::Contains(needle) => text_of(value, field, &mut buffer)
            .windows(needle.len())
            .any(|window| window == &**needle),
        Test::ContainsFold(needle) => {
            let text = text_of(value, field, &mut buffer);
            text.windows(needle.len())
                .any(|window| window.eq_ignore_ascii_case(needle))
        }
        Test::Glob { pattern, fold } => {
            crate::glob::Glob::new(pattern, *fold).is_match(text_of(value, field, &mut buffer))
        }
        Test::Regex(pattern) => {
            let text = text_of(value, field, &mut buffer);
            crate::check::regex(pattern).is_ok_and(|regex| regex.is_match(text))
        }
        Test::PathPrefix(prefixes) => {
            let text = text_of(value, field, &mut buffer);
            prefixes.iter().any(|prefix| is_below(text, prefix))
        }
        Test::NumberIn(numbers) => matches!(value, Value::Number(number) if numbers.contains(&number)),
        Test::NumberDiffers(other) => matches!(value, Value::Number(number) if number != *other),
        Test::NumberOrder(order, other) => matches!(value, Value::Number(number) if order.holds(number.cmp(other))),
        Test::FlagIs(wanted) => matches!(value, Value::Flag(flag) if flag == *wanted),
        Test::AddressIn(networks) => {
            matches!(value, Value::Address(address) if networks.iter().any(|network| network.contains(address)))
        }
        // Needs the event; its caller has seen to it.
        Test::Field(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_names() {
        let text = |key: &str, number: i64| {
            let mut buffer = Vec::new();
            let field = FieldRef::key(Field::EvtArg, key);
            String::from_utf8(text_of(Value::Number(number), &field, &mut buffer).to_vec()).unwrap()
        };
        assert_eq!(
            text("mode", 0o4755),
            "S_ISUID|S_IRUSR|S_IWUSR|S_IXUSR|S_IRGRP|S_IXGRP|S_IROTH|S_IXOTH"
        );
        assert_eq!(text("mode", 0), "0");
        assert_eq!(text("flags", 0), "O_RDONLY");
        assert_eq!(text("flags", 0o2000000 | 0o101), "O_WRONLY|O_CREAT|O_CLOEXEC");
        assert_eq!(text("flags", 0o20200002), "O_RDWR|O_TMPFILE");
        assert_eq!(text("fd", 3), "3");
    }

    #[test]
    fn dates_are_taken_apart() {
        let parts = |seconds| {
            [
                DatePart::Year,
                DatePart::Month,
                DatePart::Day,
                DatePart::Hour,
                DatePart::Minute,
                DatePart::Week,
            ]
            .map(|part| date_part(part, seconds))
        };
        for (seconds, expected) in [
            (0, [1970, 1, 1, 0, 0, 1]),
            (951_782_399, [2000, 2, 28, 23, 59, 9]),
            (951_782_400, [2000, 2, 29, 0, 0, 9]),
            (1_609_459_199, [2020, 12, 31, 23, 59, 53]),
            (1_609_459_200, [2021, 1, 1, 0, 0, 53]),
            (1_767_225_600, [2026, 1, 1, 0, 0, 1]),
            (1_735_603_200, [2024, 12, 31, 0, 0, 1]),
            (-1, [1969, 12, 31, 23, 59, 1]),
        ] {
            assert_eq!(parts(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn base64_is_decoded() {
        for (text, expected) in [
            ("Y2F0", Some("cat")),
            ("Y2E=", Some("ca")),
            ("Yw==", Some("c")),
            ("Yw", Some("c")),
            ("", Some("")),
            ("Y", None),
            ("Y2F0!", None),
            ("Y===", None),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            let decoded = decode_base64(&mut bytes).map(|()| String::from_utf8(bytes).unwrap());
            assert_eq!(decoded.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn path_prefixes_end_at_components() {
        for (path, prefix, expected) in [
            ("/etc", "/etc", true),
            ("/etc/x", "/etc", true),
            ("/etcd", "/etc", false),
            ("/x", "/", true),
            ("x", "/", false),
            ("/x", "", false),
        ] {
            assert_eq!(
                is_below(path.as_bytes(), prefix.as_bytes()),
                expected,
                "{path} {prefix}"
            );
        }
    }
}
