//! What the kernel gives: memory files that can be sealed, pages larger than 4 KiB for them, open files.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Resource, getrlimit};

use super::{Check, State};

/// Fewer open files than this are too few for runs of many tables: each table in flight is one or more.
const OPEN_FILES_MIN: u64 = 1024;

/// Segments are memory files that can be sealed.
pub fn shared_memory() -> Check {
    let try_it = || {
        let file = rustix::fs::memfd_create("forebay-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, 4096)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    };
    match try_it() {
        Ok(()) => Check::ok("shared memory", "memory files can be made and sealed"),
        Err(error) => Check::off(
            "shared memory",
            State::Failed,
            format!("memory files cannot be sealed: {error}"),
            "use Linux 3.17 or newer",
        ),
    }
}

/// Whether tables get pages of 2 MiB. Everything works without; large tables are made and handed over several times faster with.
pub fn huge_pages() -> Check {
    if forebay_runtime::gives_huge_pages() {
        return Check::ok("huge pages", "2 MiB for shared memory");
    }
    Check::tip(
        "huge pages",
        "off for shared memory (all works with pages of 4 KiB)",
        "large tables are handed over several times faster with them: use Linux 6.1 or newer, with a word other than `deny` in \
         /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    )
}

/// How many files may be open. The background process raises its soft limit to the hard one, so that one counts.
pub fn open_files() -> Check {
    let limit = getrlimit(Resource::Nofile);
    open_files_of(limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

fn open_files_of(soft: u64, hard: u64) -> Check {
    let shown = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let found = format!("soft limit {}, hard limit {}", shown(soft), shown(hard));
    if hard >= OPEN_FILES_MIN {
        return Check::ok("open files", found);
    }
    let fix =
        format!("raise the hard limit to {OPEN_FILES_MIN} or more (`ulimit -Hn`, or `nofile` in /etc/security/limits.conf)");
    Check::off("open files", State::Warning, found, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_shared_memory() {
        assert_eq!(shared_memory().state, State::Ok);
    }

    #[test]
    fn huge_pages_are_information() {
        let check = huge_pages();
        assert_eq!(check.state, State::Ok);
        assert_eq!(check.fix.is_some(), check.found.starts_with("off"), "{check:?}");
    }

    #[test]
    fn too_few_open_files_are_a_doubt() {
        assert_eq!(open_files_of(256, 4096), Check::ok("open files", "soft limit 256, hard limit 4096"));
        assert_eq!(open_files_of(1024, u64::MAX).found, "soft limit 1024, hard limit unlimited");
        assert_eq!(open_files_of(64, 256).state, State::Warning);
    }
}
