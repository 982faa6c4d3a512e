//! Garbage collection: what no ref leads to, and no work under way is about to name.
//!
//! On a disk, objects are removed:
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
//! In an object store nobody can be stopped, and a delete that comes late would hit an object that was made again. There
//! objects stay, and lost commits are *buried*, so that the files of their tables can go:
//!
//! ```text
//! collector   mark from refs   write `dead/<commit>` for what is lost   mark again, from refs and from young `pins/`
//! writer                       write `pins/<commit>`                    look for `dead/<commit>`: there means gone
//! ```
//!
//! Of two that meet, one sees the other's note, whatever is delayed. A ref that is deleted or renamed leaves a pin for its commit, so
//! that whoever found the commit by it has the grace time to name it. A burial that was seen too late is taken back; one that was
//! brought to its end never is.
//!
//! Files of tables are not looked at here, but whoever does learns which tables can still be reached
//! ([`Catalog::collect_and_list`]).

use crate::catalog::{Catalog, Clock, SystemClock};
use crate::error::{Error, Result};
use crate::object::{self, CommitObject, Kind};
use crate::refs::Stored;
use forebay_types::CommitHash;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// Objects that are read at once to learn what they are.
const READ_AT_ONCE_MAX: usize = 1024;

/// Whether a collection removes what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sweep {
    /// It only counts.
    #[default]
    Dry,
    /// It does.
    Remove,
}

/// Metadata locations of the tables that are left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// All of their files are needed.
    pub tables: BTreeSet<String>,
    /// So are the files of these, as far as they are there: an earlier collection may have taken them.
    pub doubtful: BTreeSet<String>,
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
        self.collect_and_keep(grace, sweep).map(|(found, _)| found)
    }

    /// The time by the clock of the store, in milliseconds since 1970; whoever only looks does with this machine's.
    ///
    /// # Errors
    /// The store cannot be written to.
    pub fn now_millis(&self, sweep: Sweep) -> Result<i64> {
        match sweep {
            Sweep::Dry => Ok(SystemClock.now_millis()),
            Sweep::Remove => Ok(self.store().now_millis()?),
        }
    }

    /// The same, and the metadata locations of all tables that any commit has that is left, or that is being made. Files that
    /// none of these leads to, and that are older than `grace`, belong to nobody: no commit can name them again.
    ///
    /// # Errors
    /// As [`Catalog::collect`].
    pub fn collect_and_list(&self, grace: Duration, sweep: Sweep) -> Result<(Collected, Live)> {
        let (found, kept) = self.collect_and_keep(grace, sweep)?;
        let mut live = Live::default();
        for name in &kept.namespaces {
            live.tables.extend(self.objects.locations(name)?);
        }
        for name in kept.doubtful.difference(&kept.namespaces) {
            live.doubtful.extend(self.objects.locations(name)?);
        }
        Ok((found, live))
    }

    fn collect_and_keep(&self, grace: Duration, sweep: Sweep) -> Result<(Collected, Marked)> {
        let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let mut marked = Marked::default();
        if self.store().buries() {
            let found = self.bury(&mut marked, self.now_millis(sweep)?.saturating_sub(grace), sweep)?;
            return Ok((found, marked));
        }
        let cutoff = SystemClock.now_millis().saturating_sub(grace);
        self.mark_refs(&mut marked)?;
        let mut outcome = None;
        let supported = self.store().exclusively(&mut || outcome = Some(self.sweep(&mut marked, cutoff, sweep)))?;
        match outcome {
            Some(outcome) if supported => Ok((outcome?, marked)),
            _ => Err(Error::NoCollection { place: self.store().location() }),
        }
    }

    /// Where nothing is removed: finds lost commits and buries them.
    fn bury(&self, marked: &mut Marked, cutoff: i64, sweep: Sweep) -> Result<Collected> {
        let store = self.store();
        self.mark_refs(marked)?;
        let stamps = store.stamps_below("objects")?;
        for (name, _) in stamps.iter().filter(|(_, stamp)| *stamp > cutoff) {
            self.mark_young(name, marked);
        }
        let lost: Vec<&str> = stamps.iter().map(|(name, _)| name.as_str()).filter(|name| !marked.names.contains(*name)).collect();
        let lost = self.commits_among(&lost)?;
        let buried: BTreeMap<String, i64> = store.stamps("dead")?.into_iter().collect();
        if sweep == Sweep::Remove {
            for name in lost.iter().filter(|name| !buried.contains_key(**name)) {
                store.create(&format!("dead/{name}"), DEAD)?;
            }
        }
        // From here on nobody takes up what is buried; who did before is seen now. What a ref leads to had its files when it was
        // named, and has them still: a burial that was seen too late, or that no collection brought to its end.
        self.mark_refs(marked)?;
        let again: Vec<&str> = buried.keys().map(String::as_str).filter(|name| marked.names.contains(*name)).collect();
        let mut doubtful = Marked::default();
        for (name, stamp) in store.stamps("pins")?.iter().filter(|(_, stamp)| *stamp > cutoff) {
            match buried.get(name) {
                None => self.mark_young(name, marked),
                // Whoever came after a burial has seen it. Who came before it has not, if that collection did not end.
                Some(dead) if stamp <= dead => self.mark_young(name, &mut doubtful),
                Some(_) => {}
            }
        }
        marked.doubtful = doubtful.namespaces;
        // A pin does not bring back what was buried before: its files may be gone.
        let taken_up = lost.iter().copied().filter(|name| !buried.contains_key(*name) && marked.names.contains(*name));
        if sweep == Sweep::Remove {
            for name in again.into_iter().chain(taken_up) {
                store.swap(&format!("dead/{name}"), Some(DEAD), None)?;
            }
        }
        Ok(Collected { removed: 0, kept: stamps.len() })
    }

    fn commits_among<'n>(&self, names: &[&'n str]) -> Result<Vec<&'n str>> {
        let mut commits = Vec::new();
        for names in names.chunks(READ_AT_ONCE_MAX) {
            let keys: Vec<String> = names.iter().map(|name| format!("objects/{}/{name}", &name[..2.min(name.len())])).collect();
            let values = self.store().read_all(&keys)?;
            let is_commit = |bytes: Vec<u8>| object::kind_of(&bytes).as_deref() == Some(CommitObject::NAME);
            let found = names.iter().zip(values).filter(|(_, bytes)| bytes.clone().is_some_and(is_commit));
            commits.extend(found.map(|(name, _)| *name));
        }
        Ok(commits)
    }

    fn mark_refs(&self, marked: &mut Marked) -> Result<()> {
        for kind in [Stored::Branch, Stored::Tag] {
            for (_, state) in self.refs.list(kind, &|_| true, usize::MAX)? {
                self.mark(&state.hash, marked)?;
            }
        }
        Ok(())
    }

    /// Marks a commit and everything it leads to.
    fn mark(&self, commit: &CommitHash, marked: &mut Marked) -> Result<()> {
        let mut todo = vec![commit.clone()];
        while let Some(hash) = todo.pop() {
            if !marked.names.insert(hash.to_string()) {
                continue;
            }
            let commit = self.objects.commit(&hash)?;
            if marked.names.insert(commit.tree.clone()) {
                marked.namespaces(self.objects.tree(&commit.tree)?.namespaces.values());
            }
            todo.extend(commit.parents.iter().cloned());
        }
        Ok(())
    }

    /// With the world stopped: marks what is new, then removes the rest.
    fn sweep(&self, marked: &mut Marked, cutoff: i64, sweep: Sweep) -> Result<Collected> {
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
            if marked.names.contains(name) {
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
    fn mark_young(&self, name: &str, marked: &mut Marked) {
        if let Ok(hash) = name.parse::<CommitHash>()
            && self.objects.commit(&hash).is_ok()
        {
            // A parent that is gone already cannot be kept; then the rest is not needed either.
            let _ = self.mark(&hash, marked);
        } else if let Ok(tree) = self.objects.tree(name) {
            marked.namespaces(tree.namespaces.values());
        } else if self.objects.locations(name).is_ok() {
            marked.namespaces(std::iter::once(&name.to_owned()));
        }
        marked.names.insert(name.to_owned());
    }
}

/// What a lost commit is marked with in an object store.
const DEAD: &[u8] = b"no ref led to this commit any more\n";

/// What stays.
#[derive(Default)]
struct Marked {
    /// Objects of any kind.
    names: HashSet<String>,
    /// The namespaces among them.
    namespaces: BTreeSet<String>,
    /// Namespaces of commits that were buried while somebody may have been about to name them.
    doubtful: BTreeSet<String>,
}

impl Marked {
    fn namespaces<'n>(&mut self, names: impl Iterator<Item = &'n String>) {
        for name in names {
            self.names.insert(name.clone());
            self.namespaces.insert(name.clone());
        }
    }
}
