//! What each operation does.

use super::*;
use crate::object::{self, CommitObject};
use crate::{ConflictReason, Diff, MergeKind, RefKind, Tree};
use std::collections::BTreeSet;

/// The root commit of every lake.
const ROOT: &str = "063ff5b4abb2fa16f609817af2ccdc32bc9d702cb64d0d32fe80f69238e7e234";

#[test]
fn a_new_lake_has_main_at_the_root_commit() {
    let catalog = in_memory();
    assert_eq!(head(&catalog, "main").as_str(), ROOT);
    assert_eq!(catalog.tree(&head(&catalog, "main")).unwrap(), Tree::default());
    assert!(Tree::default().namespaces.contains("default"));
    let log: Vec<_> = catalog.log(&head(&catalog, "main")).map(Result::unwrap).collect();
    assert_eq!((log.len(), log[0].parents.len(), log[0].authored_at.as_str()), (1, 0, "1970-01-01T00:00:00.000Z"));
}

#[test]
fn objects_are_canonical() {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    let mut words = info("größe \"quoted\"\n\u{1}");
    words.properties.extend([("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]);
    let mut put = changes("raw.t=file:///1 t=2 +empty");
    put.put.get_mut(&table("t")).unwrap().properties.insert("k".into(), "v".into());
    put.namespace_properties.insert("raw".into(), [("owner".to_owned(), Some("ann".to_owned()))].into());
    catalog.commit(&branch("main"), &head(&catalog, "main"), &put, &words, Some("job-1")).unwrap();
    let mut kinds = BTreeSet::new();
    for folder in store.list("objects").unwrap() {
        for name in store.list(&format!("objects/{folder}")).unwrap() {
            let bytes = store.read(&format!("objects/{folder}/{name}")).unwrap().unwrap();
            assert_eq!(object::hash(&bytes), name);
            // Sorting all keys must change nothing.
            let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            value.sort_all_objects();
            assert_eq!(serde_json::to_vec(&value).unwrap(), bytes, "{}", String::from_utf8_lossy(&bytes));
            assert!(bytes.starts_with(b"{\"@type\":"));
            kinds.insert(object::kind_of(&bytes).unwrap());
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["commit", "namespace", "tree"]);
}

#[test]
fn the_format_is_pinned() {
    let commit = CommitObject {
        author: object::Author { email: "a@b".into(), name: "ann".into() },
        authored_at: "2026-01-02T03:04:05.006Z".into(),
        generation: 1,
        message: "m".into(),
        parents: vec!["00".into()],
        properties: [("k".to_owned(), "v".to_owned())].into(),
        tainted: None,
        tree: "11".into(),
    };
    let text = concat!(
        r#"{"@type":"commit","@version":1,"author":{"email":"a@b","name":"ann"},"authored_at":"2026-01-02T03:04:05.006Z","#,
        r#""generation":1,"message":"m","parents":["00"],"properties":{"k":"v"},"tree":"11"}"#
    );
    assert_eq!(String::from_utf8(object::encode(&commit)).unwrap(), text);
    object::decode::<CommitObject>(text.as_bytes()).unwrap();
    for (from, to, why) in [
        ("\"@version\":1", "\"@version\":2", "version 2"),
        ("\"@version\":1,", "", "no version"),
        ("commit", "tree", "not a commit"),
        ("\"message\"", "\"massage\"", "massage"),
        ("{", "", "not a catalog object"),
    ] {
        let error = object::decode::<CommitObject>(text.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn commits_move_a_branch_and_nothing_else() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1 raw.b=1").unwrap();
    let dev = catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    assert_eq!((dev.kind, dev.name.as_str(), dev.failed_job), (RefKind::Branch, "dev", None));
    commit(&catalog, "dev", "a=2 -raw.b").unwrap();
    assert_eq!(show(&catalog, "main"), "raw/ a=1 raw.b=1");
    assert_eq!(show(&catalog, "dev"), "raw/ a=2");
    commit(&catalog, "dev", "-raw/ -a +other").unwrap();
    assert_eq!(show(&catalog, "dev"), "other/");
    let diff = catalog.diff(&head(&catalog, "main"), &head(&catalog, "dev")).unwrap();
    assert_eq!(diff, Diff { removed: [table("a"), table("raw.b")].into(), ..Diff::default() });
}

#[test]
fn a_commit_rewrites_only_the_namespaces_it_touches() {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    commit(&catalog, "main", "a.t=1 b.t=1 c.t=1").unwrap();
    let count =
        || store.list("objects").unwrap().iter().map(|f| store.list(&format!("objects/{f}")).unwrap().len()).sum::<usize>();
    let before = count();
    commit(&catalog, "main", "b.t=2").unwrap();
    assert_eq!(count() - before, 3, "a commit, a tree, one namespace");
}

#[test]
fn commits_to_other_tables_are_replayed() {
    let catalog = in_memory();
    let seen = head(&catalog, "main");
    commit(&catalog, "main", "a=1").unwrap();
    let second = catalog.commit(&branch("main"), &seen, &changes("b=1"), &info(""), None).unwrap();
    assert_eq!(head(&catalog, "main"), second);
    assert_eq!(show(&catalog, "main"), "a=1 b=1");
}

#[test]
fn commits_to_the_same_table_conflict_by_name() {
    let catalog = in_memory();
    let start = head(&catalog, "main");
    commit(&catalog, "main", "a=1 b=1").unwrap();
    let seen = head(&catalog, "main");
    commit(&catalog, "main", "a=2 -b c=1").unwrap();
    let before = head(&catalog, "main");
    let cases = [
        (&seen, "a=3", table("a"), ConflictReason::Changed),
        (&seen, "-b", table("b"), ConflictReason::Deleted),
        (&start, "c=9", table("c"), ConflictReason::Created),
        (&start, "-a z=1", table("a"), ConflictReason::Created),
    ];
    for (base, text, name, why) in cases {
        let error = catalog.commit(&branch("main"), base, &changes(text), &info(""), None).unwrap_err();
        let Error::Conflict { tables, .. } = &error else { panic!("{error}") };
        assert_eq!((&tables[0].table, tables[0].reason, tables.len()), (&name, why, 1));
        assert!(error.is_conflict() && error.to_string().contains(&format!("`{name}`")), "{error}");
    }
    assert_eq!(head(&catalog, "main"), before);
}

#[test]
fn what_a_writer_read_can_conflict_too() {
    let catalog = in_memory();
    commit(&catalog, "main", "input=1").unwrap();
    let seen = head(&catalog, "main");
    let mut writing = changes("output=1");
    writing.expect.insert(table("input"), Some(TableEntry::new("1")));
    commit(&catalog, "main", "input=2").unwrap();
    assert_eq!(code(catalog.commit(&branch("main"), &seen, &writing, &info(""), None)), "CAT0004");
    writing.expect.insert(table("input"), Some(TableEntry::new("2")));
    catalog.commit(&branch("main"), &seen, &writing, &info(""), None).unwrap();
    // Stating what is there now lets a writer replace a table it saw elsewhere.
    let mut again = changes("output=2");
    again.expect.insert(table("output"), Some(TableEntry::new("1")));
    catalog.commit(&branch("main"), &seen, &again, &info(""), None).unwrap();
}

#[test]
fn namespaces() {
    let catalog = in_memory();
    assert_eq!(code(commit(&catalog, "main", "+default")), "CAT0003");
    assert_eq!(code(commit(&catalog, "main", "-default/")), "CAT0007");
    assert_eq!(code(commit(&catalog, "main", "-nothing/")), "CAT0015");
    commit(&catalog, "main", "+raw").unwrap();
    assert_eq!(code(commit(&catalog, "main", "+raw")), "CAT0003");
    commit(&catalog, "main", "raw.t=1").unwrap();
    assert_eq!(code(commit(&catalog, "main", "-raw/")), "CAT0014");
    assert_eq!(code(commit(&catalog, "main", "-raw/ raw.u=1 -raw.t")), "CAT0014");
    commit(&catalog, "main", "-raw.t").unwrap();
    assert_eq!(show(&catalog, "main"), "raw/", "an emptied namespace stays");
    commit(&catalog, "main", "-raw/").unwrap();
    assert_eq!(catalog.tree(&head(&catalog, "main")).unwrap(), Tree::default());
}

#[test]
fn merges_fast_forward() {
    let catalog = in_memory();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let tip = commit(&catalog, "dev", "a=1").unwrap();
    let merged = catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    assert_eq!((merged.kind, &merged.hash), (MergeKind::FastForward, &tip));
    assert_eq!(head(&catalog, "main"), tip);
    let again = catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    assert_eq!((again.kind, &again.hash), (MergeKind::AlreadyMerged, &tip));
    let newer = commit(&catalog, "main", "a=2").unwrap();
    assert_eq!(catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap().kind, MergeKind::AlreadyMerged);
    assert_eq!(head(&catalog, "main"), newer);
}

/// base, then a commit on `main`, then one on `dev`, then what the merge of dev into main gives.
#[test]
fn three_way_merges() {
    let cases = [
        ("a=1", "b=1", "c=1", "a=1 b=1 c=1"),
        ("a=1 b=1", "a=2", "b=2", "a=2 b=2"),
        ("a=1 b=1", "-a", "b=2", "b=2"),
        ("a=1 b=1", "b=2", "-a", "b=2"),
        ("a=1", "-a z=1", "-a y=1", "y=1 z=1"),
        ("a=1", "a=2 z=1", "a=2", "a=2 z=1"),
        ("x.a=1", "x.b=1", "y.c=1 x.d=1", "x/ y/ x.a=1 x.b=1 x.d=1 y.c=1"),
        ("+x", "-x/", "a=1", "a=1"),
        ("+x", "a=1", "-x/", "a=1"),
        ("a=1", "+x", "+y", "x/ y/ a=1"),
        ("a=1", "+x a=2", "+x", "x/ a=2"),
        ("x.a=1 x.b=1", "-x.a -x.b -x/", "-x.a", ""),
        ("x.a=1", "-x.a -x/", "-x.a z=1", "z=1"),
        ("x.a=1", "-x.a -x/", "x.b=1", "conflict x.b: its namespace was deleted on one side"),
        ("x.a=1", "x.b=1", "-x.a -x/", "conflict x.b: its namespace was deleted on one side"),
        ("a=1", "a=2", "a=3", "conflict a: changed on both sides"),
        ("a=1", "-a", "a=3", "conflict a: deleted on the target, changed on the source"),
        ("a=1", "a=3", "-a", "conflict a: changed on the target, deleted on the source"),
        ("", "a=1", "a=2", "conflict a: created on both sides"),
        ("a=1 b=1 c=1", "a=2 b=2 c=2", "a=3 b=3", "conflict 2 tables"),
    ];
    for (base, ours, theirs, expect) in cases {
        let catalog = in_memory();
        commit(&catalog, "main", base).unwrap();
        catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
        let target = commit(&catalog, "main", ours).unwrap();
        let source = commit(&catalog, "dev", theirs).unwrap();
        match catalog.merge(&source, &branch("main"), &info("merge"), FastForward::Allowed) {
            Ok(merge) => {
                assert_eq!(show(&catalog, "main"), expect, "{base} | {ours} | {theirs}");
                let parents = catalog.get_commit(&merge.hash).unwrap().parents;
                assert_eq!((merge.kind, parents), (MergeKind::ThreeWay, vec![target, source]));
            }
            Err(error) => {
                let words = expect.strip_prefix("conflict ").unwrap_or_else(|| panic!("{base} | {ours} | {theirs}: {error}"));
                let report = error.report().to_string();
                let (name, why) = words.split_once(": ").unwrap_or((words, ""));
                assert!(report.contains(name) && report.contains(why), "{report}");
                assert_eq!((report.contains("CAT0005"), head(&catalog, "main")), (true, target));
            }
        }
    }
}

#[test]
fn histories_merged_crosswise_must_agree() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1 b=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let on_main = commit(&catalog, "main", "a=2").unwrap();
    let on_dev = commit(&catalog, "dev", "b=2").unwrap();
    catalog.merge(&on_dev, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    catalog.merge(&on_main, &branch("dev"), &info(""), FastForward::Allowed).unwrap();
    // Both bases (a=2 b=1, a=1 b=2) lead to the same result when the sides changed what both bases had alike.
    commit(&catalog, "dev", "c=1").unwrap();
    commit(&catalog, "main", "d=1").unwrap();
    catalog.merge(&head(&catalog, "dev"), &branch("main"), &info(""), FastForward::Allowed).unwrap();
    assert_eq!(show(&catalog, "main"), "a=2 b=2 c=1 d=1");
}

#[test]
fn crosswise_bases_that_disagree_are_a_conflict() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    let on_main = commit(&catalog, "main", "a=2").unwrap();
    let on_dev = commit(&catalog, "dev", "x=1").unwrap();
    catalog.merge(&on_dev, &branch("main"), &info(""), FastForward::Allowed).unwrap();
    catalog.merge(&on_main, &branch("dev"), &info(""), FastForward::Allowed).unwrap();
    // One base has a=1, the other a=2. Going back to 1 on dev is a change for one base and none for the other.
    let source = commit(&catalog, "dev", "a=1").unwrap();
    let error = catalog.merge(&source, &branch("main"), &info(""), FastForward::Allowed).unwrap_err();
    assert!(error.report().to_string().contains("`default.a`: the two histories"), "{}", error.report());
}

#[test]
fn refs_resolve() {
    let catalog = in_memory();
    let hash = commit(&catalog, "main", "a=1").unwrap();
    catalog.create_tag(&branch("v1"), &hash).unwrap();
    let resolve = |text: &str| catalog.resolve(&text.parse().unwrap());
    assert_eq!(resolve("v1").unwrap().kind, RefKind::Tag);
    for text in [format!("@{hash}"), format!("main@{}", &hash.as_str()[..8]), format!("gone@{}", &hash.as_str()[..4])] {
        let found = resolve(&text).unwrap();
        assert_eq!((found.hash, found.kind), (hash.clone(), RefKind::Detached));
        assert_eq!(found.name, text.split('@').next().unwrap());
    }
    let Err(Error::UnknownRef { nearest, .. }) = resolve("mian") else { panic!() };
    assert_eq!(nearest, ["main"]);
    let Err(error) = resolve(&hash.as_str()[..10]) else { panic!() };
    assert!(error.report().to_string().contains(&format!("did you mean `@{}", &hash.as_str()[..10])), "{}", error.report());
    // A tree's hash is not a commit.
    let tree = catalog.get_commit(&hash).unwrap().tree;
    assert_eq!(code(resolve(&format!("@{tree}"))), "CAT0001");
}

#[test]
fn branches_and_tags_are_listed_renamed_and_deleted() {
    let catalog = in_memory();
    let root = head(&catalog, "main");
    catalog.create_branch(&branch("dev"), &root).unwrap();
    catalog.create_tag(&branch("v1"), &root).unwrap();
    let names = |refs: Vec<crate::Ref>| refs.into_iter().map(|r| r.name).collect::<Vec<_>>();
    assert_eq!(names(catalog.branches().unwrap()), ["dev", "main"]);
    catalog.rename_branch(&branch("dev"), &branch("devel.2")).unwrap();
    catalog.rename_tag(&branch("v1"), &branch("v2")).unwrap();
    assert_eq!(names(catalog.branches().unwrap()), ["devel.2", "main"]);
    assert_eq!(names(catalog.tags().unwrap()), ["v2"]);
    for taken in ["main", "v2"] {
        assert_eq!(code(catalog.create_branch(&branch(taken), &root)), "CAT0003");
        assert_eq!(code(catalog.create_tag(&branch(taken), &root)), "CAT0003");
        assert_eq!(code(catalog.rename_branch(&branch("devel.2"), &branch(taken))), "CAT0003");
    }
    catalog.delete_branch(&branch("devel.2")).unwrap();
    catalog.delete_tag(&branch("v2")).unwrap();
    assert_eq!(code(catalog.delete_tag(&branch("v2"))), "CAT0001");
    assert_eq!(code(catalog.delete_branch(&branch("main"))), "CAT0007");
    assert_eq!(code(catalog.rename_branch(&branch("main"), &branch("x"))), "CAT0007");
}

#[test]
fn results_of_failed_runs_go_nowhere() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("run"), &head(&catalog, "main")).unwrap();
    let base = head(&catalog, "run");
    let bad = catalog.commit(&branch("run"), &base, &changes("a=2"), &info(""), Some("job-7")).unwrap();
    assert_eq!(catalog.resolve(&"run".parse().unwrap()).unwrap().failed_job.as_deref(), Some("job-7"));
    assert_eq!(code(catalog.merge(&bad, &branch("main"), &info(""), FastForward::Allowed)), "CAT0006");
    // There is no second branch of it; what follows it on its own is the same.
    assert_eq!(code(catalog.create_branch(&branch("fork"), &bad)), "CAT0006");
    assert_eq!(code(commit(&catalog, "run", "b=1")), "CAT0006");
    let more = catalog.commit(&branch("run"), &bad, &changes("b=1"), &info(""), Some("job-8")).unwrap();
    commit(&catalog, "main", "c=1").unwrap();
    assert_eq!(code(catalog.merge(&more, &branch("main"), &info(""), FastForward::Allowed)), "CAT0006");
    // Good results are not poured into a bad branch either.
    assert_eq!(code(catalog.merge(&head(&catalog, "main"), &branch("run"), &info(""), FastForward::Allowed)), "CAT0006");
    assert_eq!(show(&catalog, "main"), "a=1 c=1");
    catalog.delete_branch(&branch("run")).unwrap();
    let report = catalog.merge(&more, &branch("main"), &info(""), FastForward::Allowed).unwrap_err().report().to_string();
    assert!(report.contains("job-8") || report.contains("job-7"), "{report}");
}

#[test]
fn the_log_shows_children_before_parents() {
    let catalog = in_memory();
    commit(&catalog, "main", "a=1").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    for n in 0..3 {
        commit(&catalog, "dev", &format!("d=dev{n}")).unwrap();
        commit(&catalog, "main", &format!("m=main{n}")).unwrap();
    }
    catalog.merge(&head(&catalog, "dev"), &branch("main"), &info("merge"), FastForward::Allowed).unwrap();
    let log: Vec<_> = catalog.log(&head(&catalog, "main")).map(Result::unwrap).collect();
    assert_eq!((log.len(), log[0].message.as_str(), log[8].message.as_str()), (9, "merge", "Create the lake"));
    for (place, entry) in log.iter().enumerate() {
        for parent in &entry.parents {
            assert!(log[place..].iter().any(|later| later.hash == *parent));
        }
    }
    assert_eq!(log[1].author_name, "ann");
}

/// `"ns.key=value ns.other="`: sets a property of a namespace, takes one away.
fn describe(catalog: &Catalog, to: &str, text: &str) -> Result<CommitHash, Error> {
    let mut changes = Changes::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap();
        let (namespace, key) = name.split_once('.').unwrap();
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        changes.namespace_properties.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value);
    }
    catalog.commit(&branch(to), &head(catalog, to), &changes, &info(text), None)
}

fn described(catalog: &Catalog, at: &str, namespace: &str) -> String {
    let properties = catalog.namespace_properties(&head(catalog, at), namespace).unwrap().unwrap();
    properties.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn namespaces_have_properties() {
    let catalog = on(Arc::new(MemoryStore::default()));
    commit(&catalog, "main", "+raw raw.t=1").unwrap();
    describe(&catalog, "main", "raw.owner=ann raw.team=x default.note=n").unwrap();
    describe(&catalog, "main", "raw.team= raw.nothing=").unwrap();
    assert_eq!(
        (described(&catalog, "main", "raw"), described(&catalog, "main", "default")),
        ("owner=ann".into(), "note=n".into())
    );
    assert_eq!(code(describe(&catalog, "main", "nowhere.a=b")), "CAT0015");
    assert_eq!(catalog.namespace_properties(&head(&catalog, "main"), "nowhere").unwrap(), None);
    // They stay when tables come and go, and go with their namespace.
    commit(&catalog, "main", "raw.t=2 raw.u=1").unwrap();
    commit(&catalog, "main", "-raw.t -raw.u").unwrap();
    assert_eq!(described(&catalog, "main", "raw"), "owner=ann");
    commit(&catalog, "main", "-raw/").unwrap();
    commit(&catalog, "main", "+raw").unwrap();
    assert_eq!(described(&catalog, "main", "raw"), "");
}

#[test]
fn properties_of_namespaces_are_merged_one_by_one() {
    let catalog = on(Arc::new(MemoryStore::default()));
    commit(&catalog, "main", "+raw").unwrap();
    describe(&catalog, "main", "raw.a=0 raw.b=0 raw.c=0").unwrap();
    catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
    describe(&catalog, "main", "raw.a=main raw.c=main").unwrap();
    describe(&catalog, "dev", "raw.b= raw.c=dev raw.d=dev").unwrap();
    commit(&catalog, "dev", "raw.t=1").unwrap();
    catalog.merge(&head(&catalog, "dev"), &branch("main"), &info("m"), FastForward::Allowed).unwrap();
    assert_eq!(described(&catalog, "main", "raw"), "a=main c=dev d=dev");
    assert_eq!(show(&catalog, "main"), "raw/ raw.t=1");
    // Undoing takes back what nobody changed since.
    let set = describe(&catalog, "main", "raw.a=1 raw.e=1").unwrap();
    describe(&catalog, "main", "raw.a=2").unwrap();
    catalog.revert_commit(&branch("main"), &set, &info("r")).unwrap();
    assert_eq!(described(&catalog, "main", "raw"), "a=2 c=dev d=dev");
}
