//! What the text of a ref means: names, hashes and walks back from them.

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::history;
use crate::refs::{Forward, Ref, RefKind, State, Stored};
use forebay_types::{BranchName, CommitHash, RefSpec, RefStep};

impl Catalog {
    /// What `spec` means now.
    pub fn resolve(&self, spec: &RefSpec) -> Result<Ref> {
        match spec {
            RefSpec::Name(name) => Ok(self.resolve_name(name)?.0),
            RefSpec::Commit { name, hash } => {
                let label = name.as_ref().map(BranchName::to_string).unwrap_or_default();
                match self.objects.commits_with_prefix(hash)?.as_slice() {
                    [] => Err(Error::UnknownRef { name: spec.to_string(), nearest: Vec::new() }),
                    [only] => self.described(label, &State::at(only.clone()), RefKind::Detached),
                    several => Err(Error::AmbiguousHash { prefix: spec.to_string(), candidates: several.to_vec() }),
                }
            }
            RefSpec::Relative { start, steps } => {
                let (found, forwards) = match start.as_ref() {
                    RefSpec::Name(name) => self.resolve_name(name)?,
                    other => (self.resolve(other)?, Vec::new()),
                };
                let mut at = found.hash;
                for step in steps {
                    at = self.step(spec, &at, *step, &forwards)?;
                }
                self.described(found.name, &State::at(at), RefKind::Detached)
            }
        }
    }

    /// One step of a walk. Fast-forwards of the branch it began at matter to times only, and only where it was.
    fn step(&self, spec: &RefSpec, from: &CommitHash, step: RefStep, forwards: &[Forward]) -> Result<CommitHash> {
        let nothing = |why: String| Error::NoSuchCommit { name: spec.to_string(), why };
        match step {
            RefStep::Back(count) => history::back(&self.objects, from, count)?
                .map_err(|there| nothing(format!("there are {there} commits before it, counting first parents"))),
            RefStep::Parent(0) => Ok(from.clone()),
            RefStep::Parent(number) => {
                let commit = self.objects.commit(from)?;
                let index = usize::try_from(number).unwrap_or(usize::MAX) - 1;
                commit.parents.get(index).cloned().ok_or_else(|| {
                    let count = commit.parents.len();
                    nothing(format!(
                        "the commit `@{}` has {count} {}",
                        &from.as_str()[..12],
                        if count == 1 { "parent" } else { "parents" }
                    ))
                })
            }
            RefStep::At(millis) => history::at_time(&self.objects, from, millis, forwards)?
                .ok_or_else(|| nothing("all its commits are younger".to_owned())),
        }
    }

    fn resolve_name(&self, name: &BranchName) -> Result<(Ref, Vec<Forward>)> {
        for (stored, kind) in [(Stored::Branch, RefKind::Branch), (Stored::Tag, RefKind::Tag)] {
            if let Some(state) = self.refs.get(stored, name)? {
                return Ok((self.described(name.to_string(), &state, kind)?, state.forwards));
            }
        }
        let mut error = self.refs.unknown(name.as_str());
        // A hash without its `@` is a common slip.
        if let (Error::UnknownRef { nearest, .. }, Ok(spec)) = (&mut error, format!("@{name}").parse::<RefSpec>())
            && self.resolve(&spec).is_ok()
        {
            nearest.insert(0, spec.to_string());
        }
        Err(error)
    }
}
