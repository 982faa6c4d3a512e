//! The token of a home: made once, kept where only its user can read it, so that clients need to be told only once.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use crate::error::{Error, Result};
use crate::home::Home;

/// The token of `home`, from its file; made if it is not there. 64 hex digits, 256 random bits.
///
/// # Errors
/// [`Error::Storage`] if the file cannot be read or made.
pub fn token_of(home: &Home) -> Result<String> {
    home.prepare()?;
    let path = home.rest_token_file();
    if let Some(token) = read(&path)? {
        return Ok(token);
    }
    let mut bytes = [0; 32];
    let random = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    random.map_err(|_| Error::storage("make a token for", &path)(std::io::Error::other("the system has no random bytes")))?;
    let token = hex::encode(bytes);
    // Whole when it appears: two servers that start at once end up with one token.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let written =
        file.as_mut().map_err(|error| std::io::Error::from(error.kind())).and_then(|file| file.write_all(token.as_bytes()));
    written.map_err(Error::storage("write", &fresh))?;
    let linked = std::fs::hard_link(&fresh, &path);
    let _ = std::fs::remove_file(&fresh);
    match linked {
        Ok(()) => Ok(token),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(read(&path)?.unwrap_or(token)),
        Err(error) => Err(Error::storage("write", &path)(error)),
    }
}

fn read(path: &std::path::Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::storage("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_home_has_one_token_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("a")).unwrap();
        let token = token_of(&home).unwrap();
        assert_eq!((token.len(), token_of(&home).unwrap()), (64, token.clone()));
        assert_eq!(std::fs::metadata(home.rest_token_file()).unwrap().mode() & 0o777, 0o600);
        assert_ne!(token_of(&Home::at(&root.path().join("b")).unwrap()).unwrap(), token);
    }
}
