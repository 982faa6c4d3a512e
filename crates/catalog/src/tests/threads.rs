//! Many writers at once on a local lake: nothing is lost, nothing is half done.

use super::*;
use std::collections::BTreeSet;

const WRITERS: usize = 6;
const COMMITS: usize = 8;

#[test]
fn writers_of_different_tables_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let work = |writer: usize| {
        let catalog = Catalog::open(folder.path()).unwrap();
        let mut acknowledged = Vec::new();
        let seen = head(&catalog, "main"); // never looked at again: every commit is replayed
        for n in 0..COMMITS {
            let text = format!("w{writer}_{n}={n}");
            acknowledged.push(catalog.commit(&branch("main"), &seen, &changes(&text), &info(&text), None).unwrap());
        }
        acknowledged
    };
    let acknowledged = in_threads(work);
    let catalog = Catalog::open(folder.path()).unwrap();
    let log: BTreeSet<CommitHash> = catalog.log(&head(&catalog, "main")).map(|entry| entry.unwrap().hash).collect();
    assert!(acknowledged.iter().all(|hash| log.contains(hash)));
    assert_eq!(log.len(), 1 + WRITERS * COMMITS);
    assert_eq!(catalog.tree(&head(&catalog, "main")).unwrap().tables.len(), WRITERS * COMMITS);
}

#[test]
fn writers_of_one_table_form_one_line() {
    let folder = tempfile::tempdir().unwrap();
    // Each reads the counter and writes one more; a conflict means somebody else did.
    let work = |writer: usize| {
        let catalog = Catalog::open(folder.path()).unwrap();
        for _ in 0..COMMITS {
            loop {
                let seen = head(&catalog, "main");
                let now =
                    catalog.tree(&seen).unwrap().tables.get(&table("n")).map_or(0, |e| e.metadata_location.parse().unwrap());
                let text = format!("n={} mark{writer}=x{now}", now + 1);
                match catalog.commit(&branch("main"), &seen, &changes(&text), &info(""), None) {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
        }
        Vec::new()
    };
    in_threads(work);
    let catalog = Catalog::open(folder.path()).unwrap();
    assert!(show(&catalog, "main").contains(&format!("n={}", WRITERS * COMMITS)));
}

#[test]
fn merges_and_renames_race() {
    let folder = tempfile::tempdir().unwrap();
    let work = |writer: usize| {
        let catalog = Catalog::open(folder.path()).unwrap();
        let mut acknowledged = Vec::new();
        for n in 0..COMMITS {
            let [temporary, kept] = [branch(&format!("t{writer}.{n}")), branch(&format!("k{writer}.{n}"))];
            let base = catalog.create_branch(&temporary, &head(&catalog, "main")).unwrap().hash;
            catalog.commit(&temporary, &base, &changes(&format!("w{writer}={n}")), &info(""), None).unwrap();
            let source = catalog.rename_branch(&temporary, &kept).unwrap().hash;
            acknowledged.push(catalog.merge(&source, &branch("main"), &info(""), FastForward::Allowed).unwrap().hash);
            catalog.delete_branch(&kept).unwrap();
        }
        acknowledged
    };
    let acknowledged = in_threads(work);
    let catalog = Catalog::open(folder.path()).unwrap();
    assert_eq!(catalog.branches().unwrap().len(), 1);
    let log: BTreeSet<CommitHash> = catalog.log(&head(&catalog, "main")).map(|entry| entry.unwrap().hash).collect();
    assert!(acknowledged.iter().all(|hash| log.contains(hash)));
    let last = (0..WRITERS).map(|writer| format!("w{writer}={}", COMMITS - 1)).collect::<Vec<_>>().join(" ");
    assert_eq!(show(&catalog, "main"), last);
}

fn in_threads(work: impl Fn(usize) -> Vec<CommitHash> + Sync) -> Vec<CommitHash> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || work(writer))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
