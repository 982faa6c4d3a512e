//! Each error code is provoked, and has its page. Damage is done to a real folder.

use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const CODES: std::ops::RangeInclusive<u32> = 1..=27;

struct Lake {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Lake {
    /// With `a`, `ns.b` on main, a tag `v1` and a tainted branch `failed`.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("catalog");
        let catalog = Catalog::open(&root).unwrap();
        let hash = commit(&catalog, "main", "a=1 ns.b=1").unwrap();
        catalog.create_tag(&branch("v1"), &hash).unwrap();
        catalog.create_branch(&branch("failed"), &hash).unwrap();
        catalog.commit(&branch("failed"), &hash, &changes("a=bad"), &info(""), Some("job-1")).unwrap();
        Self { _folder: folder, root }
    }

    fn open(&self) -> Catalog {
        Catalog::open(&self.root).unwrap()
    }

    fn object(&self, hash: &str) -> PathBuf {
        self.root.join("objects").join(&hash[..2]).join(hash)
    }

    fn reopened(&self) -> String {
        code(Catalog::open(&self.root))
    }
}

#[test]
fn every_code_has_a_page() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    let expected: BTreeSet<String> = CODES.map(|n| format!("CAT{n:04}.md")).collect();
    let found = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.filter(|name| name.starts_with("CAT")).collect::<BTreeSet<_>>(), expected);
    for name in expected {
        let page = fs::read_to_string(pages.join(&name)).unwrap();
        assert!(page.starts_with(&format!("# {}: ", &name[..7])), "{name}");
        for part in ["**Meaning.**", "**Likely cause.**", "**What to do.**"] {
            assert!(page.contains(part), "{name} lacks {part}");
        }
    }
}

#[test]
fn requests_that_are_refused() {
    let lake = Lake::new();
    let catalog = lake.open();
    let main = branch("main");
    let start = head(&catalog, "main");
    let bad = head(&catalog, "failed");
    let root = catalog.get_commit(&start).unwrap().parents[0].clone();
    let write =
        |to: &str, base: &CommitHash, text: &str| code(catalog.commit(&branch(to), base, &changes(text), &info(""), None));
    assert_eq!(code(catalog.resolve(&"nothing".parse().unwrap())), "CAT0001");
    assert_eq!(code(catalog.delete_branch(&branch("nothing"))), "CAT0001");
    assert_eq!(write("nothing", &start, "z=1"), "CAT0001");
    assert_eq!(code(catalog.create_branch(&main, &start)), "CAT0003");
    assert_eq!(write("main", &root, "a=2"), "CAT0004");
    assert_eq!(code(catalog.merge(&bad, &main, &info(""), FastForward::Allowed)), "CAT0006");
    assert_eq!(code(catalog.delete_branch(&main)), "CAT0007");
    assert_eq!(write("v1", &start, "z=1"), "CAT0008");
    assert_eq!(code(catalog.merge(&start, &branch("v1"), &info(""), FastForward::Allowed)), "CAT0008");
    assert_eq!(write("main", &start, "-ns/"), "CAT0014");
    assert_eq!(write("main", &start, "-zzz"), "CAT0015");
    assert_eq!(write("main", &start, "+a/b"), "CAT0017");
    catalog.create_branch(&branch("dev"), &start).unwrap();
    let theirs = commit(&catalog, "dev", "a=2").unwrap();
    commit(&catalog, "main", "a=3").unwrap();
    assert_eq!(code(catalog.merge(&theirs, &main, &info(""), FastForward::Allowed)), "CAT0005");
}

#[test]
fn an_ambiguous_prefix() {
    let catalog = in_memory();
    // Commits until two share their first four digits: a few hundred.
    let mut seen = BTreeSet::new();
    let prefix = (0..5000).find_map(|n| {
        let hash = commit(&catalog, "main", &format!("a=n{n}")).unwrap();
        let prefix = hash.as_str()[..4].to_owned();
        (!seen.insert(prefix.clone())).then_some(prefix)
    });
    let error = catalog.resolve(&format!("@{}", prefix.unwrap()).parse().unwrap()).unwrap_err();
    let report = error.report();
    assert_eq!((report.code.to_string().as_str(), report.causes.len()), ("CAT0002", 2));
}

#[test]
fn damaged_objects() {
    let lake = Lake::new();
    let start = head(&lake.open(), "main");
    let commit_file = lake.object(start.as_str());
    let tree_file = lake.object(&lake.open().get_commit(&start).unwrap().tree);
    let text = fs::read(&tree_file).unwrap();
    // An opened catalog keeps commits in memory, so each look is with a new one.
    let look = || code(lake.open().tree(&start));

    for damaged in [&b""[..], &text[..text.len() / 2], b"garbage", b"{\"@type\":\"tree\"}"] {
        fs::write(&tree_file, damaged).unwrap();
        assert_eq!(look(), "CAT0009");
        assert_eq!(code(commit(&lake.open(), "main", "z=1")), "CAT0009");
    }
    fs::remove_file(&tree_file).unwrap();
    assert_eq!(look(), "CAT0010");
    fs::create_dir(&tree_file).unwrap();
    assert_eq!(look(), "CAT0009");
    fs::remove_dir(&tree_file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &tree_file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(look(), "CAT0009", "a pipe does not block");
    fs::remove_file(&tree_file).unwrap();
    fs::write(&tree_file, &text).unwrap();
    assert_eq!(look(), "fine");

    fs::remove_file(&commit_file).unwrap();
    assert_eq!(code(lake.open().branches()), "CAT0010");
    let log: Vec<_> = lake.open().log(&start).collect();
    assert_eq!((log.len(), log.into_iter().map(code).collect::<String>()), (1, "CAT0010".into()));
}

/// Writes an object as an attacker could: under its right hash.
fn plant(lake: &Lake, text: &str) -> String {
    let hash = crate::object::hash(text.as_bytes());
    fs::create_dir_all(lake.object(&hash).parent().unwrap()).unwrap();
    fs::write(lake.object(&hash), text).unwrap();
    hash
}

#[test]
fn objects_that_lie() {
    let lake = Lake::new();
    let head_of = |generation: u64, tree: &str, parents: &str| {
        let hash = plant(
            &lake,
            &format!(
                r#"{{"@type":"commit","@version":1,"author":{{"email":"","name":""}},"authored_at":"","generation":{generation},"message":"","parents":[{parents}],"properties":{{}},"tree":"{tree}"}}"#
            ),
        );
        plant_branch(&lake, "odd", &hash);
        hash
    };
    let start = head(&lake.open(), "main");
    let parent = format!("\"{start}\"");
    let good_tree = lake.open().get_commit(&start).unwrap().tree;
    for (generation, tree, parents) in
        [(0, good_tree.as_str(), parent.as_str()), (1, &good_tree, ""), (5, "..", &parent), (5, &good_tree, "\"x\"")]
    {
        head_of(generation, tree, parents);
        assert_eq!(code(lake.open().resolve(&"odd".parse().unwrap())), "CAT0009");
    }
    // A parent as young as its child would make walks wrong.
    let liar: CommitHash = head_of(1, &good_tree, &parent).parse().unwrap();
    assert_eq!(code(lake.open().merge(&liar, &branch("main"), &info(""), FastForward::Allowed)), "CAT0009");
    // Names that would leave their folder.
    let namespace = plant(&lake, r#"{"@type":"namespace","@version":1,"tables":{"../x":{"metadata_location":"m"}}}"#);
    for name in ["../up", "default"] {
        let tree = plant(&lake, &format!(r#"{{"@type":"tree","@version":1,"namespaces":{{"{name}":"{namespace}"}}}}"#));
        let hash: CommitHash = head_of(2, &tree, &parent).parse().unwrap();
        assert_eq!(code(lake.open().tree(&hash)), "CAT0009");
    }
}

fn plant_branch(lake: &Lake, name: &str, hash: &str) {
    let text = format!(r#"{{"@type":"ref","@version":1,"commit":"{hash}"}}"#);
    let path = lake.root.join("refs/branches").join(name);
    let _ = fs::remove_file(&path); // It may be a link.
    fs::write(path, text).unwrap();
}

#[test]
fn foreign_files_among_refs() {
    let lake = Lake::new();
    let branches = lake.root.join("refs/branches");
    fs::write(branches.join(".DS_Store"), "x").unwrap();
    assert_eq!(lake.open().branches().unwrap().len(), 2);
    for name in ["not a name", "garbage", "empty"] {
        fs::write(branches.join(name), if name == "empty" { "" } else { "garbage" }).unwrap();
        assert_eq!(code(lake.open().branches()), "CAT0009", "{name}");
        fs::remove_file(branches.join(name)).unwrap();
    }
    fs::create_dir(branches.join("folder")).unwrap();
    assert_eq!(code(lake.open().branches()), "CAT0009");
    assert_eq!(code(lake.open().resolve(&"folder".parse().unwrap())), "CAT0009");
    fs::remove_dir(branches.join("folder")).unwrap();
    use std::os::unix::ffi::OsStrExt;
    fs::write(branches.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    assert_eq!(code(lake.open().branches()), "CAT0009");
}

#[test]
fn folders_that_are_not_a_catalog() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("letters.txt"), "dear").unwrap();
    assert_eq!(code(Catalog::open(folder.path())), "CAT0011");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "it is left as it was");

    let lake = Lake::new();
    for text in ["", "x", r#"{"@type":"catalog","@version":2}"#, r#"{"@type":"catalog","@version":1,"more":1}"#] {
        fs::write(lake.root.join("format"), text).unwrap();
        assert_eq!(lake.reopened(), "CAT0011", "{text}");
    }
    fs::remove_file(lake.root.join("format")).unwrap();
    assert_eq!(lake.reopened(), "CAT0011");
    // A lost `main` does not turn into an empty lake.
    let lake = Lake::new();
    fs::remove_file(lake.root.join("refs/branches/main")).unwrap();
    assert_eq!(lake.reopened(), "CAT0010");
}

#[test]
fn storage_that_does_not_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(code(Catalog::open(&file.join("catalog"))), "CAT0012");
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write to a read-only folder");
        return;
    }
    let lake = Lake::new();
    let catalog = lake.open();
    fs::set_permissions(lake.root.join("tmp"), fs::Permissions::from_mode(0o500)).unwrap();
    let outcome = code(commit(&catalog, "main", "z=1"));
    fs::set_permissions(lake.root.join("tmp"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(outcome, "CAT0012");
    assert_eq!(show(&catalog, "main"), "ns/ a=1 ns.b=1");
}
