//! What the kernel gives: memory files that can be sealed, pages larger than 4 KiB for them, open files.

use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Resource, getrlimit};

use super::{Check, State};

/// Where the kernel says which huge pages there are.
pub const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

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

/// Whether tables get pages of 64 KiB or 2 MiB. Everything works without; large tables are written faster with them.
pub fn huge_pages(root: &Path) -> Check {
    let global = chosen(&root.join("shmem_enabled"));
    let of_size = |size: &str| chosen(&root.join(format!("hugepages-{size}/shmem_enabled")));
    let is_on = |own: Option<&str>| match (global.as_deref(), own) {
        (Some("deny"), _) => false,
        (Some("force"), Some("inherit") | None) => true,
        (word, Some("inherit") | None) => matches!(word, Some("always" | "within_size" | "advise")),
        (_, Some(word)) => matches!(word, "always" | "within_size" | "advise"),
    };
    let (small, large) = (of_size("64kB"), of_size("2048kB"));
    let large_on = is_on(large.as_deref());
    let file = root.join("hugepages-64kB/shmem_enabled");
    match (&small, large_on) {
        (Some(word), _) if is_on(Some(word)) => {
            Check::ok("huge pages", if large_on { "64 KiB and 2 MiB for shared memory" } else { "64 KiB for shared memory" })
        }
        (Some(_), _) => Check::tip(
            "huge pages",
            if large_on {
                "2 MiB for shared memory, but not 64 KiB"
            } else {
                "off for shared memory (all works with pages of 4 KiB)"
            },
            format!("pages of 64 KiB make large tables faster: `echo advise | sudo tee {}`", file.display()),
        ),
        (None, true) => Check::ok("huge pages", "2 MiB for shared memory"),
        (None, false) => {
            Check::ok("huge pages", "this kernel has none of 64 KiB for shared memory (all works with pages of 4 KiB)")
        }
    }
}

/// The word in brackets: `always [madvise] never`.
fn chosen(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
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
        let cases = [
            (Some("always within_size advise [never] deny force"), None, None, "this kernel has none"),
            (None, None, None, "this kernel has none"),
            (Some("always within_size [advise] never deny force"), None, None, "2 MiB for shared memory"),
            (Some("[never]"), Some("always inherit within_size advise [never]"), Some("[inherit]"), "off for shared memory"),
            (Some("[never]"), Some("[advise]"), Some("[inherit]"), "64 KiB for shared memory"),
            (Some("[advise]"), Some("[inherit]"), Some("[inherit]"), "64 KiB and 2 MiB"),
            (Some("[advise]"), Some("[never]"), Some("[inherit]"), "2 MiB for shared memory, but not 64 KiB"),
            (Some("[deny]"), Some("[always]"), Some("[always]"), "off for shared memory"),
        ];
        for (global, small, large, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (name, text) in
                [("shmem_enabled", global), ("hugepages-64kB/shmem_enabled", small), ("hugepages-2048kB/shmem_enabled", large)]
            {
                let file = root.path().join(name);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                text.map(|text| std::fs::write(file, text).unwrap());
            }
            let check = huge_pages(root.path());
            assert!(check.found.starts_with(expected), "{check:?}");
            assert_eq!(check.state, State::Ok);
            assert_eq!(check.fix.is_some(), check.found.contains("off for") || check.found.contains("not 64 KiB"), "{check:?}");
        }
    }

    #[test]
    fn too_few_open_files_are_a_doubt() {
        assert_eq!(open_files_of(256, 4096), Check::ok("open files", "soft limit 256, hard limit 4096"));
        assert_eq!(open_files_of(1024, u64::MAX).found, "soft limit 1024, hard limit unlimited");
        assert_eq!(open_files_of(64, 256).state, State::Warning);
    }
}
