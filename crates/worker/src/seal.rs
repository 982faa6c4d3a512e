//! Secrets on their way from a client to the worker: encrypted to a key that the worker makes for one request and forgets with it.
//!
//! ```text
//! worker   makes an X25519 key pair, gives id and public key
//! client   makes a pair of its own; shared secret --HKDF-SHA256(both public keys)--> key of ChaCha20-Poly1305; seals all values
//! worker   takes its private key out of the list, opens
//! ```
//!
//! Invariants: a key opens once, so what was recorded can neither be opened later nor be sent again; a sealed message says which
//! key it is for, and opens only with the public keys it was made with.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use forebay_types::{Coded, Fault, Report};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SystemRandom;

/// Keys that were given out and not used yet; then the oldest is forgotten.
pub const PENDING_KEYS_MAX: usize = 256;

/// Bytes of a sealed message.
pub const SEALED_BYTES_MAX: usize = 1 << 20;

/// What both sides mix in, so that no other protocol's key can be ours.
const LABEL: &[u8] = b"forebay secrets 1";

/// A key to seal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Which of the worker's keys.
    pub id: u64,
    /// X25519, 32 bytes.
    pub bytes: Vec<u8>,
}

/// Values by name that only the holder of one private key can read.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The worker's key.
    pub key: u64,
    /// The client's public key.
    pub public: Vec<u8>,
    /// ChaCha20-Poly1305 over JSON.
    pub ciphertext: Vec<u8>,
}

/// Nothing of it is worth reading.
impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes for key {})", self.ciphertext.len(), self.key)
    }
}

/// Sealed values that cannot be opened, or values that cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key is not there (any more).
    #[error("could not read the secrets of the run: they were encrypted for a key that is not there any more")]
    UnknownKey,
    /// Not what was sealed with it.
    #[error("could not read the secrets of the run: they were changed on the way")]
    Broken,
    /// The system's randomness, or a key that is none.
    #[error("could not encrypt the secrets of the run")]
    Unsealed,
}

impl Coded for Error {
    fn report(&self) -> Report {
        Report::new("RUN0045", Fault::Platform, self.to_string())
            .with_hint("start the run again; if the background process was replaced meanwhile, that is all it takes")
    }
}

/// The worker's private keys.
#[derive(Default)]
pub struct Keys {
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    next: u64,
    keys: VecDeque<(u64, EphemeralPrivateKey, Vec<u8>)>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Makes a key for one request.
    ///
    /// # Errors
    /// [`Error::Unsealed`] if the system gives no randomness.
    pub fn make(&self) -> Result<PublicKey, Error> {
        let (private, public) = pair().map_err(|_| Error::Unsealed)?;
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let id = pending.next;
        pending.next += 1;
        if pending.keys.len() == PENDING_KEYS_MAX {
            pending.keys.pop_front();
        }
        pending.keys.push_back((id, private, public.clone()));
        Ok(PublicKey { id, bytes: public })
    }

    /// Opens what was sealed with a key, and forgets the key.
    ///
    /// # Errors
    /// The key is unknown, or the message is not what was sealed.
    pub fn open(&self, sealed: &Sealed) -> Result<BTreeMap<String, String>, Error> {
        let taken = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let at = pending.keys.iter().position(|(id, ..)| *id == sealed.key).ok_or(Error::UnknownKey)?;
            pending.keys.remove(at)
        };
        let (_, private, ours) = taken.ok_or(Error::UnknownKey)?;
        if sealed.ciphertext.len() > SEALED_BYTES_MAX {
            return Err(Error::Broken);
        }
        let mut text = sealed.ciphertext.clone();
        let opened = agree(private, &sealed.public, &ours, &sealed.public)
            .and_then(|key| key.open_in_place(nonce(), Aad::from(LABEL), &mut text).map(|plain| plain.to_vec()));
        let plain = opened.map_err(|_| Error::Broken)?;
        serde_json::from_slice(&plain).map_err(|_| Error::Broken)
    }
}

/// Seals values by name.
///
/// # Errors
/// [`Error::Unsealed`] if the key is none, or the system gives no randomness.
pub fn seal(key: &PublicKey, values: &BTreeMap<String, String>) -> Result<Sealed, Error> {
    let sealed = || {
        let (private, public) = pair()?;
        let aead = agree(private, &key.bytes, &key.bytes, &public)?;
        let mut ciphertext = serde_json::to_vec(values).map_err(|_| Unspecified)?;
        aead.seal_in_place_append_tag(nonce(), Aad::from(LABEL), &mut ciphertext)?;
        Ok::<_, Unspecified>(Sealed { key: key.id, public, ciphertext })
    };
    sealed().map_err(|_| Error::Unsealed)
}

fn pair() -> Result<(EphemeralPrivateKey, Vec<u8>), Unspecified> {
    let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())?;
    let public = private.compute_public_key()?.as_ref().to_vec();
    Ok((private, public))
}

/// The key that both sides come to: from the shared secret and both public keys, the worker's first.
fn agree(private: EphemeralPrivateKey, peer: &[u8], worker: &[u8], client: &[u8]) -> Result<LessSafeKey, Unspecified> {
    let both = [worker, client].concat();
    let key = agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, peer), |shared| {
        let extracted = Salt::new(HKDF_SHA256, &both).extract(shared);
        let info = [LABEL];
        extracted.expand(&info, &CHACHA20_POLY1305).map(UnboundKey::from)
    })??;
    Ok(LessSafeKey::new(key))
}

/// A key seals one message, so every message may have the same.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<String, String> {
        [("token".to_owned(), "hünter2 \u{1F512}".to_owned()), ("other".to_owned(), String::new())].into()
    }

    #[test]
    fn what_was_sealed_opens_once() {
        let keys = Keys::default();
        let sealed = seal(&keys.make().unwrap(), &values()).unwrap();
        assert!(!String::from_utf8_lossy(&sealed.ciphertext).contains("nter2") && !format!("{sealed:?}").contains("nter2"));
        assert_eq!(keys.open(&sealed), Ok(values()));
        assert_eq!(keys.open(&sealed), Err(Error::UnknownKey));
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let changes: [fn(&mut Sealed); 5] = [
            |sealed| sealed.ciphertext[3] ^= 1,
            |sealed| sealed.ciphertext.truncate(10),
            |sealed| sealed.public[0] ^= 1,
            |sealed| sealed.public.clear(),
            |sealed| sealed.ciphertext = vec![0; SEALED_BYTES_MAX + 1],
        ];
        for change in changes {
            let keys = Keys::default();
            let mut sealed = seal(&keys.make().unwrap(), &values()).unwrap();
            change(&mut sealed);
            assert_eq!(keys.open(&sealed), Err(Error::Broken));
        }
        let (one, other) = (Keys::default(), Keys::default());
        let sealed = seal(&one.make().unwrap(), &values()).unwrap();
        other.make().unwrap();
        assert_eq!(other.open(&sealed), Err(Error::Broken));
        assert_eq!(seal(&PublicKey { id: 0, bytes: vec![1; 5] }, &values()), Err(Error::Unsealed));
    }

    #[test]
    fn keys_that_nobody_uses_are_forgotten() {
        let keys = Keys::default();
        let first = seal(&keys.make().unwrap(), &values()).unwrap();
        let mut last = keys.make().unwrap();
        for _ in 1..PENDING_KEYS_MAX {
            last = keys.make().unwrap();
        }
        assert_eq!(keys.open(&first), Err(Error::UnknownKey));
        assert_eq!(keys.open(&seal(&last, &values()).unwrap()), Ok(values()));
        assert_eq!(Error::UnknownKey.report().code.0, "RUN0045");
    }
}
