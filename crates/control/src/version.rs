//! Which program is this: its version, and a hash of its executable.
//!
//! Two builds of one version differ, and a client must not talk to a daemon of another build than its own for longer
//! than needed. Hashing a large executable takes a while, so the hash is remembered under the file's identity.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// `0.1.0+1a2b3c4d5e6f`: the version and the first digits of the hash of `program`. `cache` is a folder of ours.
#[must_use]
pub fn of_program(program: &Path, cache: &Path) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match hash(program, cache) {
        Ok(hash) => format!("{version}+{}", &hash[..12]),
        // Not worth a failure: the versions still differ where it matters most.
        Err(_) => version.to_owned(),
    }
}

fn hash(program: &Path, cache: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(program)?;
    let identity =
        format!("{}-{}-{}-{}-{}", metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    let known = cache.join("programs").join(identity);
    if let Ok(hash) = std::fs::read_to_string(&known)
        && hash.len() == 64
    {
        return Ok(hash);
    }
    let mut hasher = Sha256::new();
    std::io::copy(&mut std::fs::File::open(program)?, &mut hasher)?;
    let hash = hex::encode(hasher.finalize());
    std::fs::create_dir_all(cache.join("programs"))?;
    let _ = crate::config::replace_file(&known, hash.as_bytes());
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_and_not_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, cache) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("cache"));
        std::fs::write(&a, "one").unwrap();
        std::fs::write(&b, "one").unwrap();
        let first = of_program(&a, &cache);
        assert_eq!(first, of_program(&b, &cache));
        assert_eq!(first, of_program(&a, &cache));
        std::fs::write(&b, "two!").unwrap();
        assert_ne!(first, of_program(&b, &cache));
        assert_eq!(of_program(&dir.path().join("none"), &cache), env!("CARGO_PKG_VERSION"));
    }
}
