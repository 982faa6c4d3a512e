//! Secrets as they travel: encrypted by the client for the worker, in hex.

use serde::{Deserialize, Serialize};

/// A public key of the worker, for one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecretKey {
    /// Which one.
    pub key: u64,
    /// X25519, in hex.
    pub public: String,
}

/// Values by parameter, as JSON, that only the worker can read: X25519, HKDF-SHA256, ChaCha20-Poly1305.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sealed {
    /// The worker's key.
    pub key: u64,
    /// The client's public key, in hex.
    pub public: String,
    /// In hex.
    pub ciphertext: String,
}
