//! Refs that walk back: by count, by parent, by time.

use super::*;
use crate::RefKind;
use forebay_types::RefSpec;

/// Commits are made at 0:00:01, 0:00:02, … of 1970-01-01; every commit, merge and attempt takes a second.
fn at(catalog: &Catalog, text: &str) -> String {
    match catalog.resolve(&text.parse::<RefSpec>().unwrap()) {
        Ok(found) => {
            assert_eq!(found.kind, RefKind::Detached);
            found.hash.to_string()
        }
        Err(error) => error.report().code.to_string(),
    }
}

#[test]
fn by_count_and_by_parent() {
    let catalog = in_memory();
    let root = head(&catalog, "main").to_string();
    let first = commit(&catalog, "main", "a=1").unwrap().to_string();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let on_dev = commit(&catalog, "dev", "b=1").unwrap();
    let on_main = commit(&catalog, "main", "c=1").unwrap().to_string();
    let merged = catalog.merge(&on_dev, &branch("main"), &info(""), FastForward::Allowed).unwrap().hash;
    catalog.create_tag(&branch("v1"), &merged).unwrap();
    let on_dev = on_dev.to_string();
    let cases = [
        ("main~0", merged.as_str()),
        ("main^0", merged.as_str()),
        ("main~", &on_main),
        ("main^", &on_main),
        ("main^2", &on_dev),
        ("main^2~1", &first),
        ("main~2", &first),
        ("v1~2", &first),
        ("v1^2^", &first),
        ("main~3", &root),
        ("main~4", "CAT0018"),
        ("main^3", "CAT0018"),
        ("main~1^2", "CAT0018"),
        ("nothing~1", "CAT0001"),
    ];
    for (text, expected) in cases {
        assert_eq!(at(&catalog, text), expected, "{text}");
    }
    assert_eq!(at(&catalog, &format!("@{}~1", merged)), on_main);
    assert_eq!(at(&catalog, &format!("gone@{}^2", &merged.as_str()[..12])), on_dev);
    let report = catalog.resolve(&"main~9".parse().unwrap()).unwrap_err().report().to_string();
    assert!(report.contains("`main~9`") && report.contains("there are 3 commits before it"), "{report}");
}

#[test]
fn by_time() {
    let catalog = in_memory();
    let root = head(&catalog, "main").to_string();
    let commits: Vec<String> = (0..3).map(|n| commit(&catalog, "main", &format!("a={n}x")).unwrap().to_string()).collect();
    // The root is of 0:00:00 always, as is the first commit of the ticking clock.
    let cases = [
        ("main@1970-01-01T00:00:00", &commits[0]),
        ("main@1970-01-01T00:00:00.999Z", &commits[0]),
        ("main@1970-01-01T00:00:01", &commits[1]),
        ("main@1970-01-01T01:00:01+01:00", &commits[1]),
        ("main*1970-01-01T00:00:02", &commits[2]),
        ("main@2099-01-01", &commits[2]),
        ("main@1970-01-01T00:00:02~1", &commits[1]),
        ("main~1@1970-01-01T00:00:02", &commits[1]),
        ("main~3@2026-01-01", &root),
    ];
    for (text, expected) in cases {
        assert_eq!(at(&catalog, text), *expected, "{text}");
    }
    assert_eq!(at(&catalog, "main@1969-12-31"), "CAT0018");
}

#[test]
fn a_fast_forward_counts_with_the_time_it_happened() {
    let catalog = in_memory();
    let before = commit(&catalog, "main", "a=1").unwrap(); // 0:00
    catalog.create_branch(&branch("dev"), &before).unwrap();
    let on_dev = commit(&catalog, "dev", "b=1").unwrap(); // 0:01
    let tip = commit(&catalog, "dev", "b=2").unwrap(); // 0:02
    catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap(); // 0:03
    let after = commit(&catalog, "main", "c=1").unwrap(); // 0:04
    let cases = [(0, &before), (1, &before), (2, &before), (3, &tip), (4, &after)];
    for (second, expected) in cases {
        assert_eq!(at(&catalog, &format!("main@1970-01-01T00:00:0{second}")), expected.as_str(), "{second}");
    }
    assert_eq!(at(&catalog, "dev@1970-01-01T00:00:01"), on_dev.as_str());
    // The memory goes with the branch when it is renamed.
    catalog.create_branch(&branch("old"), &before).unwrap();
    catalog.merge(&tip, &branch("old"), &info(""), FastForward::Allowed).unwrap(); // 0:05
    catalog.rename_branch(&branch("old"), &branch("new")).unwrap();
    assert_eq!(at(&catalog, "new@1970-01-01T00:00:04"), before.as_str());
}

#[test]
fn a_branch_that_merged_its_target_first_jumps_back_right() {
    let catalog = in_memory();
    let start = commit(&catalog, "main", "a=1").unwrap(); // 0:00
    catalog.create_branch(&branch("dev"), &start).unwrap();
    commit(&catalog, "dev", "b=1").unwrap(); // 0:01
    let on_main = commit(&catalog, "main", "c=1").unwrap(); // 0:02
    let joined = catalog.merge(&on_main, &branch("dev"), &info(""), FastForward::Allowed).unwrap().hash; // 0:03
    catalog.merge(&joined, &branch("main"), &info(""), FastForward::Allowed).unwrap(); // 0:04, first parent is dev's
    assert_eq!(at(&catalog, "main@1970-01-01T00:00:03"), on_main.as_str());
    assert_eq!(at(&catalog, "main@1970-01-01T00:00:01"), start.as_str());
    assert_eq!(at(&catalog, "main@1970-01-01T00:00:04"), joined.as_str());
}

#[test]
fn a_branch_remembers_so_many_fast_forwards() {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    for n in 0..crate::limits::FORWARDS_MAX + 5 {
        let tip = commit(&catalog, "dev", &format!("a=n{n}")).unwrap();
        catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    }
    let text = String::from_utf8(store.read("refs/branches/main").unwrap().unwrap()).unwrap();
    assert_eq!(text.matches("\"from\"").count(), crate::limits::FORWARDS_MAX);
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
    assert_eq!(catalog.log(&head(&catalog, "main")).count(), crate::limits::FORWARDS_MAX + 6);
}

#[test]
fn refs_of_older_lakes_are_read() {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    let start = commit(&catalog, "main", "a=1").unwrap();
    let plain = format!(r#"{{"@type":"ref","@version":1,"commit":"{start}"}}"#);
    assert_eq!(store.read("refs/branches/main").unwrap().unwrap(), plain.as_bytes(), "as before, while nothing more is to say");
    for (from, to) in [
        ("\"commit\"", "\"comit\""),
        ("\"commit\"", "\"protected\":1,\"commit\""),
        ("\"commit\"", "\"forwards\":[{}],\"commit\""),
    ] {
        store
            .swap(
                "refs/branches/odd",
                store.read("refs/branches/odd").unwrap().as_deref(),
                Some(plain.replace(from, to).as_bytes()),
            )
            .unwrap();
        assert_eq!(code(catalog.resolve(&"odd".parse().unwrap())), "CAT0009");
    }
}
