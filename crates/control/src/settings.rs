//! Settings in environment variables, checked before anything starts: a wrong one is an error, not the default.

use std::env::var;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::DAEMON_IDLE_SECONDS;

/// Sizes that other crates read where they use them.
const SIZES: [&str; 2] = ["FOREBAY_WARM_MAX", "FOREBAY_ENVIRONMENTS_MAX"];

/// How long the daemon stays without a connection and without a job.
///
/// # Errors
/// `FOREBAY_DAEMON_IDLE_SECONDS` is no number.
pub(crate) fn idle_time() -> Result<Duration> {
    const NAME: &str = "FOREBAY_DAEMON_IDLE_SECONDS";
    let Some(text) = set(NAME) else { return Ok(Duration::from_secs(DAEMON_IDLE_SECONDS)) };
    text.parse().map(Duration::from_secs).map_err(|error| Error::BadValue { what: NAME, value: text, why: error.to_string() })
}

/// Whether all of them make sense.
///
/// # Errors
/// The first that makes none.
pub fn check() -> Result<()> {
    idle_time()?;
    for what in SIZES {
        if let Some(value) = set(what).filter(|text| forebay_worker::parse_bytes(text).is_none()) {
            return Err(Error::BadValue { what, value, why: "it is no size like `500M` or `5G`".to_owned() });
        }
    }
    Ok(())
}

/// What is set; nothing is what says nothing.
fn set(name: &str) -> Option<String> {
    var(name).ok().filter(|text| !text.is_empty())
}
