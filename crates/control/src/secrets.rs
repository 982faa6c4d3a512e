//! Secrets of a run at both ends of the protocol: sealed by the client, opened by the daemon for its worker. Values are hex here,
//! and in no message, record or error in any other way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use forebay_plan::SECRET_VARIABLE_PREFIX;
pub use forebay_worker::SECRET_BYTES_MIN;
use forebay_worker::{PublicKey, SEALED_BYTES_MAX, SealError, Secrets, seal};

use crate::api::{self, SecretKey};
use crate::connection::Answer;
use crate::service::Service;

/// Variables whose values a background process must not inherit.
static WITHHELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Keeps a variable out of the environment of a background process that this process may start.
pub fn withhold(variable: &str) {
    WITHHELD.lock().unwrap_or_else(PoisonError::into_inner).insert(variable.to_owned());
}

/// Takes secrets out of the environment of a background process.
pub(crate) fn clean(command: &mut Command) {
    let named = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in named.filter(|name| name.starts_with(SECRET_VARIABLE_PREFIX)) {
        command.env_remove(name);
    }
    for name in &*WITHHELD.lock().unwrap_or_else(PoisonError::into_inner) {
        command.env_remove(name);
    }
}

/// A new key, for one request.
pub(crate) fn key(service: &Service) -> Result<Answer, api::Error> {
    let key = service.keys.make().map_err(|error| api::Error::of(&error))?;
    Answer::of(SecretKey { key: key.id, public: hex::encode(key.bytes) })
}

/// The values of a run.
pub(crate) fn open(service: &Service, sealed: Option<api::Sealed>) -> Result<Secrets, api::Error> {
    let Some(sealed) = sealed else { return Ok(Secrets::default()) };
    let opened = from_wire(&sealed).and_then(|sealed| service.keys.open(&sealed));
    opened.map(Secrets::new).map_err(|error| api::Error::of(&error))
}

fn from_wire(sealed: &api::Sealed) -> Result<forebay_worker::Sealed, SealError> {
    let bytes = |text: &str| match text.len() {
        length if length > 2 * SEALED_BYTES_MAX => Err(SealError::Broken),
        _ => hex::decode(text).map_err(|_| SealError::Broken),
    };
    Ok(forebay_worker::Sealed { key: sealed.key, public: bytes(&sealed.public)?, ciphertext: bytes(&sealed.ciphertext)? })
}

/// Seals the values of a run with a key that the daemon gave for it.
pub fn sealed(key: &SecretKey, values: &BTreeMap<String, String>) -> Result<api::Sealed, api::Error> {
    let made = || {
        let bytes = hex::decode(&key.public).map_err(|_| SealError::Unsealed)?;
        seal(&PublicKey { id: key.key, bytes }, values)
    };
    let sealed = made().map_err(|error| api::Error::of(&error))?;
    Ok(api::Sealed { key: sealed.key, public: hex::encode(sealed.public), ciphertext: hex::encode(sealed.ciphertext) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_carries_hex_and_nothing_else() {
        let keys = forebay_worker::Keys::default();
        let made = keys.make().unwrap();
        let key = SecretKey { key: made.id, public: hex::encode(made.bytes) };
        let values: BTreeMap<String, String> = [("token".to_owned(), "hunter2".to_owned())].into();
        let sent = sealed(&key, &values).unwrap();
        assert!(!serde_json::to_string(&sent).unwrap().contains("hunter2"));
        assert_eq!(keys.open(&from_wire(&sent).unwrap()), Ok(values.clone()));
        for text in ["x", "zz", &"0".repeat(2 * SEALED_BYTES_MAX + 2)] {
            assert_eq!(from_wire(&api::Sealed { ciphertext: text.to_owned(), ..sent.clone() }), Err(SealError::Broken));
        }
        assert_eq!(sealed(&SecretKey { key: 0, public: "??".to_owned() }, &values).unwrap_err().code, "RUN0045");
    }
}
