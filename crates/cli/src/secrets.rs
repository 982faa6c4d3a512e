//! Secrets of a project on the machine of who starts a run: where each is, its value, and the sealed form in which it leaves.
//!
//! Invariants: a value is read only to be sealed, and printed nowhere; it does not come from the command line, where every user of
//! the machine could read it. A variable that holds one does not get into the environment of a background process started here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forebay_control::api::{Op, Run, Sealed, SecretKey};
use forebay_control::project::PROJECT_FILES;
use forebay_control::secrets::{SECRET_BYTES_MIN, sealed, withhold};
use forebay_plan::{ParameterKind, SecretSource, SourceFile, Sources};

use crate::context::Session;
use crate::error::{Error, Result};

/// Bytes of one secret.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// The secrets a project declares, as one run wants them.
#[derive(Debug, Default)]
pub struct Wanted {
    folder: PathBuf,
    secrets: Vec<Secret>,
}

#[derive(Debug)]
struct Secret {
    parameter: String,
    source: SecretSource,
    /// A run without it is an error.
    needed: bool,
}

impl Wanted {
    /// Those of the project in `folder`; `parameters` says for some where they are. A project file that cannot be read has none
    /// here: the planner says what is wrong with it.
    pub fn of_project(folder: &Path, parameters: &[(String, String)]) -> Result<Self> {
        let read = |name: &&str| {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            Some(SourceFile { path: (*name).to_owned(), text })
        };
        let sources = Sources { files: PROJECT_FILES.iter().filter_map(read).collect() };
        let Ok(project) = forebay_plan::project(&sources) else { return Ok(Self::default()) };
        let mut secrets = Vec::new();
        for parameter in project.parameters.iter().filter(|parameter| parameter.kind == ParameterKind::Secret) {
            let given = parameters.iter().rev().find(|(name, _)| *name == parameter.name);
            let given =
                given.map(|(name, text)| SecretSource::parse(text).ok_or_else(|| Error::SecretInPlain { name: name.clone() }));
            let given = given.transpose()?;
            let needed = parameter.required || given.is_some();
            let declared = || parameter.from.clone().unwrap_or_else(|| SecretSource::default_of(&parameter.name));
            let source = given.unwrap_or_else(declared);
            if let SecretSource::Env(variable) = &source {
                withhold(variable);
            }
            secrets.push(Secret { parameter: parameter.name.clone(), source, needed });
        }
        Ok(Self { folder: folder.to_owned(), secrets })
    }

    /// Takes the secrets out of a run's parameters: what was there says where they are.
    pub fn strip(&self, parameters: &mut BTreeMap<String, String>) {
        for secret in &self.secrets {
            parameters.remove(&secret.parameter);
        }
    }

    /// Reads the values and gives them to a run, sealed.
    pub fn attach(&self, session: &mut Session, run: &mut Run) -> Result<()> {
        run.secrets = self.seal(session, &mut run.parameters)?;
        Ok(())
    }

    /// Takes the secrets out of a run's parameters, and gives their values, sealed.
    pub fn seal(&self, session: &mut Session, parameters: &mut BTreeMap<String, String>) -> Result<Option<Sealed>> {
        self.strip(parameters);
        let mut values = BTreeMap::new();
        for secret in &self.secrets {
            if let Some(value) = self.value(secret)? {
                values.insert(secret.parameter.clone(), value);
            }
        }
        if values.is_empty() {
            return Ok(None);
        }
        let key: SecretKey = session.call(Op::SecretKey)?;
        Ok(Some(sealed(&key, &values)?))
    }

    fn value(&self, secret: &Secret) -> Result<Option<String>> {
        let fail = |why: String| Error::NoSecret { name: secret.parameter.clone(), place: secret.source.to_string(), why };
        let found = match &secret.source {
            SecretSource::Env(variable) => match std::env::var(variable) {
                Ok(value) => Some(value),
                Err(std::env::VarError::NotPresent) => None,
                Err(std::env::VarError::NotUnicode(_)) => return Err(fail("it is not UTF-8 text".to_owned()).into()),
            },
            SecretSource::File(path) => read_file(&self.place(path)).map_err(fail)?,
            SecretSource::Keyring { service, user } => keyring(service, user).map_err(fail)?,
        };
        match found {
            None if secret.needed => Err(fail("it is not there".to_owned()).into()),
            None => Ok(None),
            Some(value) if value.len() < SECRET_BYTES_MIN => {
                Err(fail(format!("it is shorter than {SECRET_BYTES_MIN} bytes: it could not be told from other text in logs"))
                    .into())
            }
            Some(value) if value.len() > SECRET_BYTES_MAX => {
                Err(fail(format!("it has more than {SECRET_BYTES_MAX} bytes")).into())
            }
            Some(value) => Ok(Some(value)),
        }
    }

    fn place(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => self.folder.join(path),
        }
    }
}

/// The text of a file, without the line end that editors put behind it. `None`: there is no such file.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > SECRET_BYTES_MAX as u64 + 2 => {
            return Err("the file is too large for a secret".to_owned());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let text = String::from_utf8(text).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(Some(without_line_end(text)))
}

fn without_line_end(text: String) -> String {
    let shorter = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).to_owned());
    shorter.unwrap_or(text)
}

/// Looks in the keyring of the desktop session (`secret-tool`, of libsecret), then in the kernel's (`keyctl`, of keyutils: a key of
/// type `user` described as `service/user`).
fn keyring(service: &str, user: &str) -> Result<Option<String>, String> {
    let id = || output("keyctl", &["request", "user", &format!("{service}/{user}")]);
    let desktop = output("secret-tool", &["lookup", "service", service, "username", user]);
    if let Some(Ok(found)) = &desktop {
        return Ok(Some(without_line_end(found.clone())));
    }
    match (id(), desktop) {
        (Some(Ok(id)), _) => match output("keyctl", &["pipe", id.trim()]) {
            Some(Ok(found)) => Ok(Some(without_line_end(found))),
            Some(Err(why)) => Err(why),
            None => Err("`keyctl` has gone".to_owned()),
        },
        (None, None) => {
            Err("this machine has neither `secret-tool` (package libsecret-tools) nor `keyctl` (package keyutils)".to_owned())
        }
        // Both say the same of a key that is not there and of a keyring that cannot be reached, so their words are passed on.
        (Some(Err(why)), _) | (None, Some(Err(why))) => match why.is_empty() {
            true => Ok(None),
            false => Err(why),
        },
        (None, Some(Ok(_))) => Ok(None),
    }
}

/// What a program prints, or why it failed; `None` if there is no such program.
fn output(program: &str, arguments: &[&str]) -> Option<Result<String, String>> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("`{program}`: {error}"))),
        Ok(done) if done.status.success() => Some(String::from_utf8(done.stdout).map_err(|_| "it is not UTF-8 text".to_owned())),
        Ok(done) => Some(Err(String::from_utf8_lossy(&done.stderr).lines().next().unwrap_or_default().trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::error_code;

    fn project(parameter: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("[project]\nname = \"x\"\n[parameters.token]\ntype = \"secret\"\n{parameter}\n");
        std::fs::write(folder.path().join("forebay.toml"), text).unwrap();
        folder
    }

    fn value(folder: &Path, parameters: &[(&str, &str)]) -> Result<Option<String>> {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let wanted = Wanted::of_project(folder, &parameters)?;
        wanted.value(&wanted.secrets[0])
    }

    #[test]
    fn files_are_read_without_their_line_end() {
        let folder = project("from = \"file:key.txt\"");
        let is = |expected: Option<&str>| assert_eq!(value(folder.path(), &[]).unwrap().as_deref(), expected);
        is(None);
        for (text, expected) in [("hunter2\n", "hunter2"), ("hunter2\r\n", "hunter2"), ("hun\nter2\n\n", "hun\nter2\n")] {
            std::fs::write(folder.path().join("key.txt"), text).unwrap();
            is(Some(expected));
        }
    }

    #[test]
    fn values_that_cannot_be_used_are_cli0020_and_not_told() {
        let folder = project("from = \"file:key.txt\"\nrequired = true");
        assert_eq!(error_code(value(folder.path(), &[])), "CLI0020");
        for bytes in [&b"abc"[..], b"\xff\xff\xff\xff", &[b'x'; SECRET_BYTES_MAX + 3]] {
            std::fs::write(folder.path().join("key.txt"), bytes).unwrap();
            assert_eq!(error_code(value(folder.path(), &[])), "CLI0020");
        }
        assert_eq!(error_code(value(folder.path(), &[("token", "env:FOREBAY_NO_SUCH_VARIABLE")])), "CLI0020");
        assert_eq!(error_code(value(folder.path(), &[("token", "hunter2")])), "CLI0021");
        assert!(!Error::SecretInPlain { name: "token".into() }.to_string().contains("hunter2"));
    }

    #[test]
    fn without_a_word_a_secret_is_a_variable() {
        let folder = project("");
        let wanted = Wanted::of_project(folder.path(), &[]).unwrap();
        assert_eq!(wanted.secrets[0].source, SecretSource::Env("FOREBAY_SECRET_TOKEN".into()));
        assert!(Wanted::of_project(Path::new("/nowhere"), &[]).unwrap().secrets.is_empty());
        let mut parameters: BTreeMap<_, _> = [("token".to_owned(), "env:X".to_owned()), ("k".to_owned(), "v".to_owned())].into();
        wanted.strip(&mut parameters);
        assert_eq!(parameters.into_keys().collect::<Vec<_>>(), ["k"]);
    }
}
