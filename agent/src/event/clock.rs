//! Moments as text for people, in UTC.

const SECOND_NS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// One moment in each of the ways that rules may ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Texts {
    /// `15:04:05`
    pub(super) time_of_day: String,
    /// `2026-01-02T15:04:05.000000007+0000`
    pub(super) iso8601: String,
    /// `2026-01-02 15:04:05.000000007`
    pub(super) date_and_time: String,
    /// `2026-01-02 15:04:05`
    pub(super) date_and_second: String,
}

/// The texts of a moment given in nanoseconds since 1970.
pub(super) fn texts(wall_ns: i64) -> Texts {
    let (seconds, nanoseconds) = (wall_ns.div_euclid(SECOND_NS), wall_ns.rem_euclid(SECOND_NS));
    let (year, month, day) = date(seconds.div_euclid(DAY_SECONDS));
    let second = seconds.rem_euclid(DAY_SECONDS);
    let date = format!("{year:04}-{month:02}-{day:02}");
    let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    Texts {
        iso8601: format!("{date}T{time}.{nanoseconds:09}+0000"),
        date_and_time: format!("{date} {time}.{nanoseconds:09}"),
        date_and_second: format!("{date} {time}"),
        time_of_day: time,
    }
}

/// Year, month and day of a day counted from 1970, by the proleptic Gregorian calendar. Years begin in March here, so
/// that the leap day is the last of its year.
fn date(day: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    /// From 1 March of the year 0 to 1970.
    const BEFORE_1970: i64 = 719_468;
    let day = day + BEFORE_1970;
    let era = day.div_euclid(DAYS_OF_400_YEARS);
    let of_era = day.rem_euclid(DAYS_OF_400_YEARS);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (1_735_689_599, "2024-12-31 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(texts(seconds * SECOND_NS).date_and_second, expected);
        }
        let told = texts(1_735_689_599 * SECOND_NS + 7);
        assert_eq!(told.time_of_day, "23:59:59");
        assert_eq!(told.iso8601, "2024-12-31T23:59:59.000000007+0000");
        assert_eq!(told.date_and_time, "2024-12-31 23:59:59.000000007");
        texts(i64::MIN);
        texts(i64::MAX);
    }
}
