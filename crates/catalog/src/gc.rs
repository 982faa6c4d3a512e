//! Garbage collection of catalog objects: those no ref leads to, and no work under way is about to name.
//!
//! ```text
//! 1  mark     from all refs, while others work                                       (long)
//! 2  stop     nobody moves a ref or touches an object from here on                   (Store::exclusively)
//! 3  mark     again, from the refs as they are now and from every young object       (short: stops at what 1 found)
//! 4  sweep    objects that are neither marked nor young
//! ```
//!
//! Why nothing live goes: a writer names only objects that are reachable from the head it replaces, that it wrote, or
//! that it touched ([`crate::Store::touch`], and `create` of what exists). What was written or touched within the
//! grace time is young, and with it everything it leads to stays; a touch after the sweep finds the object or not.
//! The grace time must therefore be longer than any operation of a writer takes from its first write to its swap.
//!
//! Tables' own files are not looked at here.

use crate::catalog::{Catalog, Clock, SystemClock};
use crate::error::{Error, Result};
use crate::refs::Stored;
use forebay_types::CommitHash;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Whether a collection removes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sweep {
    /// It only counts.
    #[default]
    Dry,
    /// It does.
    Remove,
}

/// What a collection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Objects that were, or would be, removed.
    pub removed: usize,
    /// Objects that stay.
    pub kept: usize,
}

impl Catalog {
    /// Removes catalog objects that nothing leads to and that are older than `grace`. Others may read and write
    /// meanwhile; while objects are removed, their commits wait.
    ///
    /// # Errors
    /// [`Error::NoCollection`] in a store without it; any error of reading, after which nothing was removed.
    pub fn collect(&self, grace: Duration, sweep: Sweep) -> Result<Collected> {
        let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let cutoff = SystemClock.now_millis().saturating_sub(grace);
        let mut marked = HashSet::new();
        self.mark_refs(&mut marked)?;
        let mut outcome = None;
        let supported = self.store().exclusively(&mut || outcome = Some(self.sweep(&mut marked, cutoff, sweep)))?;
        match outcome {
            Some(outcome) if supported => outcome,
            _ => Err(Error::NoCollection { place: self.store().location() }),
        }
    }

    fn mark_refs(&self, marked: &mut HashSet<String>) -> Result<()> {
        for kind in [Stored::Branch, Stored::Tag] {
            for (_, state) in self.refs.list(kind, &|_| true, usize::MAX)? {
                self.mark(&state.hash, marked)?;
            }
        }
        Ok(())
    }

    /// Marks a commit and everything it leads to.
    fn mark(&self, commit: &CommitHash, marked: &mut HashSet<String>) -> Result<()> {
        let mut todo = vec![commit.clone()];
        while let Some(hash) = todo.pop() {
            if !marked.insert(hash.to_string()) {
                continue;
            }
            let commit = self.objects.commit(&hash)?;
            if marked.insert(commit.tree.clone()) {
                marked.extend(self.objects.tree(&commit.tree)?.namespaces.values().cloned());
            }
            todo.extend(commit.parents.iter().cloned());
        }
        Ok(())
    }

    /// With the world stopped: marks what is new, then removes the rest.
    fn sweep(&self, marked: &mut HashSet<String>, cutoff: i64, sweep: Sweep) -> Result<Collected> {
        self.mark_refs(marked)?;
        let store = self.store();
        let mut stamps: BTreeMap<String, i64> = BTreeMap::new();
        for folder in store.list("objects")? {
            stamps.extend(store.stamps(&format!("objects/{folder}"))?);
        }
        for young in stamps.iter().filter(|(_, stamp)| **stamp > cutoff).map(|(name, _)| name) {
            self.mark_young(young, marked);
        }
        let mut found = Collected::default();
        for name in stamps.keys() {
            if marked.contains(name) {
                found.kept += 1;
                continue;
            }
            found.removed += 1;
            if sweep == Sweep::Remove {
                store.remove(&format!("objects/{}/{name}", &name[..2]))?;
            }
        }
        self.objects.forget();
        Ok(found)
    }

    /// Marks an object of work under way and what it leads to, as far as it is there.
    fn mark_young(&self, name: &str, marked: &mut HashSet<String>) {
        if let Ok(hash) = name.parse::<CommitHash>()
            && self.objects.commit(&hash).is_ok()
        {
            // A parent that is gone already cannot be kept; then the rest is not needed either.
            let _ = self.mark(&hash, marked);
        } else if let Ok(tree) = self.objects.tree(name) {
            marked.extend(tree.namespaces.values().cloned());
        }
        marked.insert(name.to_owned());
    }
}
