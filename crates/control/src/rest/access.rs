//! Who may use the catalog: those who hold its token or, where it is open, programs on this machine.
//!
//! The token is static. The OAuth form that clients know (client credentials) is an exchange of the token for itself, so
//! that PyIceberg's `credential` and DuckDB's client id and secret work: the secret is the token, the id is not looked at.

use base64::Engine as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::route::fields;

/// How long a token that was exchanged is said to hold, in seconds. It holds as long as the server has it.
const EXPIRES_SECONDS: u64 = 24 * 3600;

/// Who is let in.
#[derive(Clone)]
pub enum Access {
    /// Whoever sends this token.
    Token(String),
    /// Every program on this machine: anybody who can connect, but no web page in a browser.
    Open,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Open) { "open" } else { "by token" })
    }
}

/// What a request says of where it comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Headers<'a> {
    pub(crate) authorization: Option<&'a str>,
    /// Browsers send it.
    pub(crate) origin: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
}

impl Access {
    /// Lets a request in, or not.
    pub(crate) fn check(&self, headers: &Headers<'_>) -> Result<(), Error> {
        match self {
            Self::Token(token) => {
                let given = headers.authorization.and_then(|value| after_word(value, "bearer"));
                if given.is_some_and(|given| same(given, token)) { Ok(()) } else { Err(Error::Unauthorized) }
            }
            Self::Open => check_local(headers),
        }
    }

    /// Answers `oauth/tokens` (RFC 6749, 4.4): the secret in the form or in HTTP Basic.
    pub(crate) fn exchange(&self, headers: &Headers<'_>, form: &str) -> (u16, String) {
        let refused = |status, error: &str, why: &str| (status, json!({ "error": error, "error_description": why }).to_string());
        let Ok(mut fields) = fields(form) else { return refused(400, "invalid_request", "the form cannot be read") };
        if fields.get("grant_type").is_none_or(|grant| grant != "client_credentials") {
            return refused(400, "unsupported_grant_type", "only client_credentials are taken");
        }
        let basic = headers.authorization.and_then(|value| after_word(value, "basic")).and_then(basic_secret);
        let secret = fields.remove("client_secret").or(basic).unwrap_or_default();
        let token = match self {
            Self::Token(token) if same(&secret, token) => token,
            Self::Token(_) => return refused(401, "invalid_client", "the client secret is the token `forebay serve` prints"),
            Self::Open if check_local(headers).is_ok() => "open",
            Self::Open => return refused(401, "invalid_client", "only programs on this machine are served without a token"),
        };
        let answer = json!({ "access_token": token, "token_type": "bearer", "expires_in": EXPIRES_SECONDS,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token" });
        (200, answer.to_string())
    }
}

/// Without a token, what web pages can do to a server on this machine must be kept out: requests of other sites carry an
/// `Origin`, and a site whose name was pointed here carries that name.
fn check_local(headers: &Headers<'_>) -> Result<(), Error> {
    if headers.origin.is_some() {
        return Err(Error::Foreign { why: "it comes from a web page" });
    }
    let host = headers.host.unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_local =
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_local { Ok(()) } else { Err(Error::Foreign { why: "its `Host` is not this machine" }) }
}

fn after_word<'a>(value: &'a str, word: &str) -> Option<&'a str> {
    let (first, rest) = value.split_once(' ')?;
    first.eq_ignore_ascii_case(word).then(|| rest.trim())
}

fn basic_secret(encoded: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let (_, secret) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some(secret.to_owned())
}

/// Compares digests, so that the time it takes tells nothing of the token.
fn same(given: &str, token: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(value: &str) -> Headers<'_> {
        Headers { authorization: Some(value), ..Headers::default() }
    }

    #[test]
    fn the_token_lets_in() {
        let access = Access::Token("t0ken".into());
        for good in ["Bearer t0ken", "bearer t0ken", "BEARER  t0ken "] {
            access.check(&bearer(good)).unwrap();
        }
        for bad in ["Bearer t0ke", "Bearer t0kenn", "Bearer None", "Bearer ", "Basic t0ken", "t0ken", ""] {
            assert_eq!(access.check(&bearer(bad)).unwrap_err().status().0, 401, "{bad}");
        }
        assert_eq!(access.check(&Headers::default()).unwrap_err().status().0, 401);
        assert_eq!(format!("{access:?}"), "by token", "a token is in no log");
    }

    #[test]
    fn an_open_server_is_for_this_machine() {
        let access = Access::Open;
        for host in ["localhost:8181", "127.0.0.1:1", "127.9.9.9", "[::1]:8181", "LOCALHOST"] {
            access.check(&Headers { host: Some(host), authorization: Some("Bearer None"), origin: None }).unwrap();
        }
        for host in ["evil.example:8181", "10.0.0.1", "", "[::2]", "localhost.evil.example"] {
            let error = access.check(&Headers { host: Some(host), ..Headers::default() }).unwrap_err();
            assert_eq!((error.status().0, forebay_types::Coded::report(&error).code.0.as_str()), (403, "RST0009"), "{host}");
        }
        let page = Headers { host: Some("localhost"), origin: Some("http://localhost:3000"), authorization: None };
        assert_eq!(access.check(&page).unwrap_err().status().0, 403);
    }

    #[test]
    fn both_forms_of_client_credentials() {
        let access = Access::Token("a secret+".into());
        let none = Headers::default();
        let (status, body) =
            access.exchange(&none, "grant_type=client_credentials&client_id=x&client_secret=a+secret%2B&scope=catalog");
        assert_eq!((status, body.contains(r#""access_token":"a secret+""#)), (200, true), "{body}");
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("x:a secret+"));
        let basic = bearer(&basic);
        assert_eq!(access.exchange(&basic, "grant_type=client_credentials&scope=PRINCIPAL_ROLE%3AALL").0, 200);
        for (headers, form, status) in [
            (none, "grant_type=client_credentials&client_secret=wrong", 401),
            (none, "grant_type=client_credentials", 401),
            (bearer("Basic !!"), "grant_type=client_credentials", 401),
            (none, "grant_type=password&client_secret=a+secret%2B", 400),
            (none, "", 400),
            (none, "grant_type=%zz", 400),
        ] {
            assert_eq!(access.exchange(&headers, form).0, status, "{form}");
        }
    }
}
