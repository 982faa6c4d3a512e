//! From requirements to a lock: exact versions with the hashes of their files.
//!
//! Offline first when the user left no choice of versions, because uv then needs no index (100 ms instead of 200 to
//! 800); otherwise online first, because "the newest 2.0.x" must not depend on what happens to be in a cache.

use std::collections::BTreeMap;

use crate::interpreters::Interpreter;
use crate::{Error, Requirement, Tools, compatibility, uv, version};

/// A resolved set of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// A requirements file with hashes.
    pub text: String,
    /// Package to version.
    pub packages: BTreeMap<String, String>,
}

impl Lock {
    fn parse(text: String) -> Self {
        let pins = text.lines().filter(|line| !line.starts_with([' ', '#'])).filter_map(|line| {
            let (name, rest) = line.split_once("==")?;
            let version = rest.split([' ', ';', '\\']).next()?;
            let name = name.split('[').next()?;
            Some((version::normalise(name), version.to_owned()))
        });
        let packages = pins.collect();
        Self { text, packages }
    }

    /// `numpy 1.26.4, pandas 2.0.3`, all but one.
    pub fn listing(&self, without: &str) -> String {
        let others = self.packages.iter().filter(|(name, _)| *name != without);
        others.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ")
    }
}

/// Resolves, and resolves again if an undeclared break is in the result.
pub fn resolve(tools: &Tools<'_>, asked: &[Requirement], python: &str, interpreter: &Interpreter) -> Result<Lock, Error> {
    if asked.is_empty() {
        return Ok(Lock::parse(String::new()));
    }
    let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    tools.watch.progress(&format!("resolving {names} for Python {python}"));
    let attempt = |constraints: &[String]| compile(tools, asked, constraints, &names, python, interpreter);
    let lock = attempt(&[])?;
    let constraints = compatibility::missing_constraints(&lock.packages, asked);
    if constraints.is_empty() {
        return Ok(lock);
    }
    tools.watch.progress(&format!("adding {}: newer versions do not import beside these packages", constraints.join(", ")));
    // The constraints are ours: when they cannot be met, the user's own packages decide.
    match attempt(&constraints) {
        Err(Error::Resolve { .. }) => Ok(lock),
        other => other,
    }
}

fn compile(
    tools: &Tools<'_>,
    asked: &[Requirement],
    constraints: &[String],
    names: &str,
    python: &str,
    interpreter: &Interpreter,
) -> Result<Lock, Error> {
    let input: String =
        asked.iter().map(ToString::to_string).chain(constraints.iter().cloned()).map(|line| line + "\n").collect();
    let path = interpreter.path.to_string_lossy();
    let mut arguments = vec!["pip", "compile", "-", "--python", &path, "--generate-hashes", "--no-header", "--no-annotate"];
    for package in compatibility::WHEELS_ONLY {
        arguments.extend(["--only-binary", package]);
    }
    let run = |offline: bool| {
        let extra = offline.then_some("--offline");
        uv::run(uv::command(tools.uv, tools.folder, arguments.iter().copied().chain(extra)), &input, tools.watch)
    };
    // The last named requirement is usually the runtime's own; only what the user wrote decides.
    let no_choice = asked.iter().all(|r| r.is_exact() || r.name == "pyarrow");
    let mut output = run(tools.offline || no_choice)?;
    if !output.status.success() && !tools.offline {
        let first = output;
        output = run(!no_choice)?;
        // Online first, then offline: the first message says what is wrong.
        if !output.status.success() && !no_choice {
            output = first;
        }
    }
    if output.status.success() {
        return Ok(Lock::parse(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let hint = compatibility::python_advice(asked, python);
    Err(Error::Resolve { packages: names.to_owned(), python: python.to_owned(), uv: uv::message_of(&output), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read() {
        let text = "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nPython_Dateutil==2.9.0.post0 ; python_version < '4'\n# x\n";
        let lock = Lock::parse(text.to_owned());
        let packages: Vec<_> = lock.packages.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(packages, [("numpy", "1.26.4"), ("python-dateutil", "2.9.0.post0")]);
        assert_eq!(lock.listing("numpy"), "python-dateutil 2.9.0.post0");
    }
}
