//! Numbers, times and cells as people read them.

use chrono::{DateTime, Local, Utc};

/// `1234567` as `1,234,567`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 row`, `2 rows`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes in decimal units with three digits: `0 B`, `999 B`, `24.1 MB`, `1.00 GB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Seconds: `4 ms`, `0.31 s`, `12.3 s`, `2 min 05 s`, `1 h 02 min`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "0 ms".to_owned();
    }
    if seconds < 0.0995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be finite and positive; `as` saturates"
    )]
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole % 3600 / 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes:02} min") } else { format!("{minutes} min {rest:02} s") }
}

/// The first twelve digits of a hash.
#[must_use]
pub fn short_hash(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// At most `max` characters; what is cut shows as `…`.
#[must_use]
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// One line that cannot move the cursor: control characters are escaped.
#[must_use]
pub fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// An RFC 3339 time as `2026-11-21 09:12:33`, in local time or UTC; other text stays as it is.
#[must_use]
pub fn time(rfc3339: &str, utc: bool) -> String {
    let Ok(time) = DateTime::parse_from_rfc3339(rfc3339) else {
        return rfc3339.to_owned();
    };
    if utc {
        time.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%SZ").to_string()
    } else {
        time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
    }
}

/// Seconds between two RFC 3339 times.
#[must_use]
pub fn seconds_between(start: &str, end: &str) -> Option<f64> {
    let (start, end) = (DateTime::parse_from_rfc3339(start).ok()?, DateTime::parse_from_rfc3339(end).ok()?);
    #[expect(clippy::cast_precision_loss, reason = "durations of jobs fit")]
    Some(end.signed_duration_since(start).num_milliseconds() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (336_776, "336,776"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(0, "row"), "0 rows");
    }

    #[test]
    fn bytes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_999, "10.0 kB"),
            (24_060_000, "24.1 MB"),
            (999_400, "999 kB"),
            (999_600, "1.00 MB"),
            (6_000_000_000, "6.00 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text, "{number}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            (0.0, "0 ms"),
            (0.0042, "4 ms"),
            (0.31, "0.31 s"),
            (9.99, "9.99 s"),
            (12.34, "12.3 s"),
            (59.96, "1 min 00 s"),
            (125.0, "2 min 05 s"),
            (3725.0, "1 h 02 min"),
            (f64::NAN, "0 ms"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn cells_are_cut_by_characters() {
        assert_eq!(cut("größe", 5), "größe");
        assert_eq!(cut("größer", 5), "größ…");
        assert_eq!(cut("", 5), "");
        assert_eq!(one_line("a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(one_line("plain"), "plain");
    }

    #[test]
    fn times() {
        assert_eq!(time("2026-11-21T09:12:33.5+01:00", true), "2026-11-21 08:12:33Z");
        assert_eq!(time("yesterday", true), "yesterday");
        assert_eq!(seconds_between("2026-11-21T09:12:33Z", "2026-11-21T09:12:34.5Z"), Some(1.5));
        assert_eq!(short_hash("0123456789abcdef"), "0123456789ab");
        assert_eq!(short_hash("0123"), "0123");
    }
}
