//! What a user may write where a state of the lake is wanted.
//!
//! ```text
//! ref   = start step*
//! start = name | name@hash | @hash          hash: 4 to 64 lower-case hex digits
//! step  = ~n      n commits back, always to the first parent (`~` is `~1`)
//!       | ^n      the n-th parent (`^` is `^1`; `^2` of a merge is what was merged)
//!       | @time   the newest commit, going back along first parents, that is not younger (also written `*time`)
//! time  = 2026-11-01 | 2026-11-01T09:30 | 2026-11-01T09:30:05 | 2026-11-01T09:30:05.250, then nothing (UTC), Z or +01:00
//! ```
//!
//! A time has dashes and a hash has none, so the two never mix. Names hold none of `@ ~ ^ *`.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};

use crate::names::{BranchName, InvalidName, invalid};

/// Most steps in a ref.
pub const REF_STEPS_MAX: usize = 16;

/// A ref as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefSpec {
    /// `main`: the head of a branch, or a tag.
    Name(BranchName),
    /// `main@1a2b…` or `@1a2b…`: a commit, with the name it was seen under if given.
    Commit {
        /// The name before the `@`.
        name: Option<BranchName>,
        /// The hash or its prefix.
        hash: String,
    },
    /// `main~2`, `v1^`, `main@2026-11-01T00:00`: a commit found by walking back from another ref.
    Relative {
        /// Where the walk begins: one of the other two forms.
        start: Box<RefSpec>,
        /// The walk; at least one step.
        steps: Vec<RefStep>,
    },
}

/// A step back in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefStep {
    /// `~n`: so many first parents back.
    Back(u32),
    /// `^n`: the n-th parent, from 1; `^0` is the commit itself.
    Parent(u32),
    /// `@time`: milliseconds since 1970-01-01T00:00:00Z.
    At(i64),
}

impl FromStr for RefSpec {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| invalid("ref", text, why);
        let end = text.find(['~', '^', '*', '@']).unwrap_or(text.len());
        let (name, mut rest) = text.split_at(end);
        let name: Option<BranchName> = if name.is_empty() && rest.starts_with('@') { None } else { Some(name.parse()?) };
        let mut start = match (name, after_at(rest)) {
            (name, Some((hash, after))) if !hash.contains('-') => {
                check_hash(hash).map_err(bad)?;
                rest = after;
                Self::Commit { name, hash: hash.to_owned() }
            }
            (Some(name), _) => Self::Name(name),
            (None, _) => return Err(bad("a time needs a branch or tag before its `@`")),
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest).map_err(bad)?;
            steps.push(step);
            rest = after;
        }
        if steps.len() > REF_STEPS_MAX {
            return Err(bad("it has more than 16 steps"));
        }
        if !steps.is_empty() {
            start = Self::Relative { start: Box::new(start), steps };
        }
        Ok(start)
    }
}

/// The text after a leading `@`, up to the next step, and what follows.
fn after_at(rest: &str) -> Option<(&str, &str)> {
    let rest = rest.strip_prefix('@')?;
    Some(rest.split_at(rest.find(['~', '^', '*', '@']).unwrap_or(rest.len())))
}

fn check_hash(hash: &str) -> Result<(), &'static str> {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if (4..=64).contains(&hash.len()) && hash.bytes().all(hex) {
        return Ok(());
    }
    Err("after `@` comes a commit hash of 4 to 64 lower-case hex digits, or a time such as `2026-11-01T09:30`")
}

fn step(rest: &str) -> Result<(RefStep, &str), &'static str> {
    let (mark, after) = rest.split_at(1);
    let (words, after) = after.split_at(after.find(['~', '^', '*', '@']).unwrap_or(after.len()));
    let count = || match words {
        "" => Ok(1),
        _ if words.bytes().all(|b| b.is_ascii_digit()) => words.parse().map_err(|_| "the number of a step is too large"),
        _ => Err("after `~` and `^` comes a number, or nothing"),
    };
    let step = match mark {
        "~" => RefStep::Back(count()?),
        "^" => RefStep::Parent(count()?),
        _ => RefStep::At(
            parse_time(words)
                .ok_or("after `@` comes a time such as `2026-11-01`, `2026-11-01T09:30` or `2026-11-01T09:30:05Z`")?,
        ),
    };
    Ok((step, after))
}

/// Reads a time as refs and filters write it, in milliseconds since 1970; without a zone it is UTC, a date alone its
/// first instant.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis());
    }
    // `T` or a blank between date and time, as the log shows them.
    let text = text.replacen(' ', "T", 1);
    let text = text.strip_suffix(['Z', 'z']).map_or(text.clone(), |plain| format!("{plain}+00:00"));
    for form in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(&text, form) {
            return Some(time.and_utc().timestamp_millis());
        }
        if let Ok(time) = DateTime::parse_from_str(&text, &format!("{form}%:z")) {
            return Some(time.timestamp_millis());
        }
    }
    None
}

impl fmt::Display for RefSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Commit { name: Some(name), hash } => write!(f, "{name}@{hash}"),
            Self::Commit { name: None, hash } => write!(f, "@{hash}"),
            Self::Relative { start, steps } => {
                write!(f, "{start}")?;
                steps.iter().try_for_each(|step| write!(f, "{step}"))
            }
        }
    }
}

impl fmt::Display for RefStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back(count) => write!(f, "~{count}"),
            Self::Parent(number) => write!(f, "^{number}"),
            Self::At(millis) => match DateTime::<Utc>::from_timestamp_millis(*millis) {
                Some(time) => write!(f, "@{}", time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
                None => write!(f, "@{millis}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_round_trip() {
        for text in
            ["main", "ann.fix-3", "main@abcd", "@0123456789", "main~2", "v1^1~3", "@abcd^2", "main@abcd~1@2026-11-01T00:00:00Z"]
        {
            assert_eq!(text.parse::<RefSpec>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "a/b",
            "main@",
            "main@xyz1",
            "main@abc",
            "a@b@c",
            "~1",
            "@",
            "main~x",
            "main^-1",
            "main~99999999999",
            "main@2026-13-01",
            "main@yesterday",
            "@2026-11-01",
            "main@2026-11-01T25:00",
            "main*abcd",
            "main@ABCD",
            "main@2026-11",
        ] {
            assert!(bad.parse::<RefSpec>().is_err(), "{bad}");
        }
        assert!(format!("main{}", "~".repeat(REF_STEPS_MAX + 1)).parse::<RefSpec>().is_err());
    }

    #[test]
    fn steps_have_short_forms() {
        for (short, long) in
            [("main~", "main~1"), ("main^", "main^1"), ("main~^2", "main~1^2"), ("v1*2026-11-01", "v1@2026-11-01T00:00:00Z")]
        {
            assert_eq!(short.parse::<RefSpec>().unwrap().to_string(), long);
        }
    }

    #[test]
    fn times_without_a_zone_are_utc() {
        let utc = parse_time("2026-11-01T09:30:00Z").unwrap();
        for same in [
            "2026-11-01T09:30",
            "2026-11-01 09:30:00",
            "2026-11-01T09:30Z",
            "2026-11-01T10:30+01:00",
            "2026-11-01T09:30:00.000Z",
            "2026-11-01T04:00:00-05:30",
        ] {
            assert_eq!(parse_time(same), Some(utc), "{same}");
        }
        assert_eq!(parse_time("2026-11-01"), parse_time("2026-11-01T00:00:00"));
        assert_eq!(parse_time("2026-11-01T09:30:00.25"), Some(utc + 250));
        for bad in ["", "now", "2026", "09:30", "2026-11-01T", "2026-11-01T09", "2026-11-01T09:30+01", "2026-02-30"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
