//! Reverts of commits, runs and tables, and protected branches.

use super::*;
use crate::{ConflictReason, JOB_PROPERTY, REVERTS_PROPERTY, Replace};
use std::collections::BTreeSet;

fn run_commit(catalog: &Catalog, to: &str, text: &str, job: &str) -> CommitHash {
    let mut info = info(text);
    info.properties.insert(JOB_PROPERTY.into(), job.into());
    catalog.commit(&branch(to), &head(catalog, to), &changes(text), &info, None).unwrap()
}

fn revert(catalog: &Catalog, hash: &CommitHash) -> Result<CommitHash, Error> {
    catalog.revert_commit(&branch("main"), hash, &info("Revert"))
}

fn revert_tables(catalog: &Catalog, to: &str, tables: &str, source: &CommitHash) -> Result<CommitHash, Error> {
    let tables: BTreeSet<TableName> = tables.split(' ').map(table).collect();
    catalog.revert_tables(&branch(to), &tables, source, Replace::Allowed, &info("Revert"))
}

/// before, the commit to undo, what came since, and what the revert gives.
#[test]
fn commits_are_undone() {
    let cases = [
        ("a=1", "a=2", "", "a=1"),
        ("a=1", "a=2 b=1", "c=1", "a=1 c=1"),
        ("a=1 b=1", "-a b=2", "c=1", "a=1 b=1 c=1"),
        ("", "x.a=1", "", ""),
        ("", "x.a=1", "x.b=1", "x/ x.b=1"),
        ("", "+x", "x.b=1", "x/ x.b=1"),
        ("x.a=1", "-x.a -x/", "b=1", "x/ b=1 x.a=1"),
        ("a=1", "a=2", "a=3", "conflict a: changed since"),
        ("a=1", "a=2", "-a", "conflict a: deleted since"),
        ("a=1", "-a", "a=9", "conflict a: created again since"),
        ("a=1", "a=2 b=2", "a=3 b=3", "conflict 2 tables"),
        ("a=1", "a=2 b=2", "a=3", "conflict a: changed since"),
        ("a=1 b=1", "a=2", "a=1", "nothing"),
        ("a=1", "a=2 b=2", "-b a=1", "nothing"),
    ];
    for (before, undone, since, expect) in cases {
        let catalog = in_memory();
        commit(&catalog, "main", before).unwrap();
        let undone_commit = commit(&catalog, "main", undone).unwrap();
        if !since.is_empty() {
            commit(&catalog, "main", since).unwrap();
        }
        let tip = head(&catalog, "main");
        match revert(&catalog, &undone_commit) {
            Ok(hash) => {
                assert_eq!(show(&catalog, "main"), expect, "{before} | {undone} | {since}");
                let made = catalog.get_commit(&hash).unwrap();
                assert_eq!((made.parents, &made.properties[REVERTS_PROPERTY]), (vec![tip], &undone_commit.to_string()));
            }
            Err(error) => {
                let report = error.report().to_string();
                let wanted = match expect.strip_prefix("conflict ") {
                    Some(words) => {
                        let (name, why) = words.split_once(": ").unwrap_or((words, ""));
                        assert!(error.is_conflict() && report.contains(name) && report.contains(why), "{report}");
                        "CAT0020"
                    }
                    None => "CAT0022",
                };
                assert!(report.contains(wanted), "{before} | {undone} | {since}: {report}");
                assert_eq!(head(&catalog, "main"), tip);
            }
        }
    }
}

#[test]
fn a_merge_is_undone_with_all_it_brought() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    commit(&catalog, "dev", "b=1").unwrap();
    let tip = commit(&catalog, "dev", "c=1").unwrap();
    commit(&catalog, "main", "d=1").unwrap();
    let merge = catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap().hash;
    revert(&catalog, &merge).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 d=1");
    // A revert is a commit as any other.
    revert(&catalog, &head(&catalog, "main")).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 b=1 c=1 d=1");
}

#[test]
fn runs_are_undone_whole() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    let first = run_commit(&catalog, "main", "a=2 b=1", "job-1");
    run_commit(&catalog, "main", "c=1", "job-2");
    let second = run_commit(&catalog, "main", "b=2", "job-1");
    let undo = |job: &str| catalog.revert_job(&branch("main"), job, &info(""));
    let made = undo("job-1").unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 c=1", "both commits of the job, in one");
    assert_eq!(catalog.get_commit(&made).unwrap().properties[REVERTS_PROPERTY], format!("{second},{first}"));
    assert_eq!(code(undo("job-1")), "CAT0022");
    assert_eq!(code(undo("job-9")), "CAT0024");
    commit(&catalog, "main", "c=5").unwrap();
    let Err(Error::RevertConflict { tables, what, .. }) = undo("job-2") else { panic!() };
    assert_eq!((tables[0].table.clone(), tables[0].reason), (table("c"), ConflictReason::ChangedSince));
    assert!(what.contains("job-2"));
}

#[test]
fn what_never_was_on_the_branch_is_not_undone() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let other = commit(&catalog, "dev", "a=2").unwrap();
    assert_eq!(code(revert(&catalog, &other)), "CAT0024");
    let root: CommitHash = catalog.log(&other).last().unwrap().unwrap().hash;
    assert_eq!(code(revert(&catalog, &root)), "CAT0022");
}

#[test]
fn tables_are_put_back() {
    let catalog = in_memory();
    let old = commit(&catalog, "main", "a=1").unwrap();
    commit(&catalog, "main", "b=1").unwrap();
    commit(&catalog, "main", "a=2").unwrap();
    let one = |replace| catalog.revert_tables(&branch("main"), &[table("a")].into(), &old, replace, &info(""));
    assert_eq!(code(one(Replace::Refused)), "CAT0023");
    one(Replace::Allowed).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 b=1");
    assert_eq!(code(one(Replace::Allowed)), "CAT0022");
    assert_eq!(code(revert_tables(&catalog, "main", "b", &old)), "CAT0015");
    // A deleted table comes back without a word about replacing.
    commit(&catalog, "main", "-a").unwrap();
    one(Replace::Refused).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 b=1");
    // From another branch.
    catalog.create_branch(&branch("dev"), &old).unwrap();
    let tip = commit(&catalog, "dev", "x.c=1").unwrap();
    revert_tables(&catalog, "main", "x.c", &tip).unwrap();
    assert_eq!(show(&catalog, "main"), "x/ a=1 b=1 x.c=1");
}

#[test]
fn half_a_run_is_not_taken_back() {
    let catalog = in_memory();
    let old = commit(&catalog, "main", "a=1 b=1 c=1").unwrap();
    run_commit(&catalog, "main", "a=2 b=2", "job-7");
    let Err(error) = revert_tables(&catalog, "main", "a", &old) else { panic!() };
    let report = error.report().to_string();
    assert!(report.contains("CAT0021") && report.contains("`job-7`") && report.contains("`default.b`"), "{report}");
    // Nor when more came on top, also through a merge.
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let tip = commit(&catalog, "dev", "c=2").unwrap();
    commit(&catalog, "main", "d=1").unwrap();
    catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    assert_eq!(code(revert_tables(&catalog, "main", "a", &old)), "CAT0021");
    assert_eq!(code(revert_tables(&catalog, "main", "a c", &old)), "CAT0021");
    // Alone, what was changed alone; together, what was changed together.
    revert_tables(&catalog, "main", "c", &old).unwrap();
    revert_tables(&catalog, "main", "a b", &old).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 b=1 c=1 d=1");
}

#[test]
fn half_a_run_is_not_brought() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1 b=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    run_commit(&catalog, "dev", "a=2 b=2", "job-7");
    let tip = run_commit(&catalog, "dev", "a=3", "job-8");
    assert_eq!(code(revert_tables(&catalog, "main", "a", &tip)), "CAT0021");
    assert_eq!(code(revert_tables(&catalog, "main", "b", &tip)), "CAT0021");
    revert_tables(&catalog, "main", "a b", &tip).unwrap();
    assert_eq!(show(&catalog, "main"), "a=3 b=2");
}

#[test]
fn failed_runs_are_not_a_source() {
    let catalog = in_memory();
    let start = commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("run"), &start).unwrap();
    let bad = catalog.commit(&branch("run"), &start, &changes("a=2 b=1"), &info(""), Some("job-7")).unwrap();
    for (what, outcome) in [
        ("branch", code(catalog.create_branch(&branch("fork"), &bad))),
        ("tag", code(catalog.create_tag(&branch("fork"), &bad))),
        ("merge", code(catalog.merge(&bad, &branch("main"), &info(""), FastForward::Never))),
        ("tables", code(revert_tables(&catalog, "main", "a b", &bad))),
        ("table", code(revert_tables(&catalog, "main", "b", &bad))),
        ("onto it", code(revert_tables(&catalog, "run", "a", &start))),
        ("undo on it", code(catalog.revert_commit(&branch("run"), &bad, &info("")))),
    ] {
        assert_eq!(outcome, "CAT0006", "{what}");
    }
    assert_eq!(code(revert(&catalog, &bad)), "CAT0024");
    // Looking is fine, and so is another name for the same branch.
    assert_eq!(show(&catalog, "run"), "a=2 b=1");
    catalog.rename_branch(&branch("run"), &branch("look")).unwrap();
    assert_eq!(code(catalog.create_branch(&branch("fork"), &head(&catalog, "look"))), "CAT0006");
}

#[test]
fn protected_branches() {
    let catalog = in_memory();
    let start = commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &start).unwrap();
    catalog.create_branch(&branch("release"), &start).unwrap();
    assert!(!catalog.resolve(&"main".parse().unwrap()).unwrap().protected);
    for name in ["main", "release"] {
        assert!(catalog.protect_branch(&branch(name), true).unwrap().protected);
    }
    assert!(catalog.branches().unwrap().iter().all(|found| found.protected == (found.name != "dev")));
    let tip = commit(&catalog, "dev", "a=2").unwrap();
    for name in ["main", "release"] {
        assert_eq!(code(commit(&catalog, name, "b=1")), "CAT0019", "{name}");
        let to = branch(name);
        assert_eq!(code(catalog.commit(&to, &start, &changes("b=1"), &info(""), Some("job"))), "CAT0019");
        catalog.merge(&tip, &to, &info(""), FastForward::Allowed).unwrap();
        assert_eq!(show(&catalog, name), "a=2");
        assert_eq!(code(catalog.revert_commit(&to, &tip, &info(""))), "CAT0019");
        assert_eq!(code(revert_tables(&catalog, name, "a", &start)), "CAT0019");
    }
    assert_eq!(code(catalog.delete_branch(&branch("release"))), "CAT0019");
    assert_eq!(code(catalog.rename_branch(&branch("release"), &branch("r"))), "CAT0019");
    assert_eq!(code(catalog.rename_branch(&branch("dev"), &branch("release"))), "CAT0003");
    assert_eq!(code(catalog.protect_branch(&branch("nothing"), true)), "CAT0001");
    catalog.create_tag(&branch("v1"), &start).unwrap();
    assert_eq!(code(catalog.protect_branch(&branch("v1"), true)), "CAT0008");
    assert!(catalog.protect_branch(&branch("release"), true).unwrap().protected, "again is fine");
    catalog.protect_branch(&branch("release"), false).unwrap();
    commit(&catalog, "release", "b=1").unwrap();
    catalog.delete_branch(&branch("release")).unwrap();
}

#[test]
fn a_merge_can_always_make_a_commit() {
    let catalog = in_memory();
    let start = commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &start).unwrap();
    let tip = commit(&catalog, "dev", "b=1").unwrap();
    let merged = catalog.merge(&tip, &branch("main"), &info("Take b"), FastForward::Never).unwrap();
    let made = catalog.get_commit(&merged.hash).unwrap();
    assert_eq!((made.message.as_str(), made.parents), ("Take b", vec![start, tip.clone()]));
    assert_eq!(show(&catalog, "main"), "a=1 b=1");
    let again = catalog.merge(&tip, &branch("main"), &info(""), FastForward::Never).unwrap();
    assert_eq!((again.kind, again.hash), (crate::MergeKind::AlreadyMerged, merged.hash));
}
