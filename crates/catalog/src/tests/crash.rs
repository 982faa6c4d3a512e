//! `kill -9` in the middle of commits, with a real process on a real folder: what was acknowledged is there.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

/// Tells the test binary, started again, to be the writer; holds the folder.
const LAKE: &str = "FOREBAY_TEST_CATALOG";

/// The writer. Run by itself as a test it has no folder and nothing to do.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(LAKE) else { return };
    let catalog = Catalog::open(Path::new(&folder)).unwrap();
    let id = std::process::id();
    for n in 0.. {
        let temporary = branch(&format!("t{id}.{n}"));
        let base = catalog.create_branch(&temporary, &head(&catalog, "main")).unwrap().hash;
        let source = catalog.commit(&temporary, &base, &changes(&format!("ns{}.w{id}={n}", n % 3)), &info(""), None).unwrap();
        let merged = catalog.merge(&source, &branch("main"), &info(""), FastForward::Allowed).unwrap().hash;
        // One write: a line is there whole or not at all. The test may have stopped reading.
        if std::io::stderr().write_all(format!("{merged}\n").as_bytes()).is_err() {
            return;
        }
        catalog.delete_branch(&temporary).unwrap();
    }
}

/// Tells the test binary, started again, at which change of the disk to end.
const KILL_AT: &str = "FOREBAY_TEST_KILL_AT";

static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Called by the local store between any two changes of the disk.
pub(crate) fn step() {
    static KILL_AT_STEP: OnceLock<Option<usize>> = OnceLock::new();
    let at = KILL_AT_STEP.get_or_init(|| std::env::var(KILL_AT).ok()?.parse().ok());
    if at.is_some_and(|at| STEPS.fetch_add(1, Ordering::SeqCst) == at) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
}

/// The process that is killed at one of its steps: creates the lake, then does a bit of everything.
#[test]
fn stepping_process() {
    let (Some(folder), Some(_)) = (std::env::var_os(LAKE), std::env::var_os(KILL_AT)) else { return };
    let told = |hash: &CommitHash| std::io::stderr().write_all(format!("{hash}\n").as_bytes()).unwrap();
    let catalog = Catalog::open(Path::new(&folder)).unwrap();
    let (main, dev) = (branch("main"), branch("dev"));
    told(&commit(&catalog, "main", "a=1 raw.b=1").unwrap());
    catalog.create_branch(&dev, &head(&catalog, "main")).unwrap();
    let on_dev = commit(&catalog, "dev", "a=2").unwrap();
    told(&commit(&catalog, "main", "raw.b=2").unwrap());
    told(&catalog.merge(&on_dev, &main, &info(""), FastForward::Allowed).unwrap().hash);
    told(&catalog.revert_commit(&main, &on_dev, &info("")).unwrap());
    catalog.rename_branch(&dev, &branch("old")).unwrap();
    commit(&catalog, "old", "c=1").unwrap();
    catalog.delete_branch(&branch("old")).unwrap();
    assert!(catalog.collect(std::time::Duration::ZERO, crate::Sweep::Remove).unwrap().removed >= 3);
    std::io::stderr().write_all(b"finished\n").unwrap();
}

#[test]
fn killed_at_every_change_of_the_disk() {
    // The states of `main` in order; a kill leaves one of them, the last one told or the next.
    const STATES: [&str; 5] = ["", "raw/ a=1 raw.b=1", "raw/ a=1 raw.b=2", "raw/ a=2 raw.b=2", "raw/ a=1 raw.b=2"];
    for at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let lake = folder.path().join("catalog");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::crash::stepping_process", "--nocapture"]);
        let output = command.env(LAKE, &lake).env(KILL_AT, at.to_string()).stdin(Stdio::null()).output().unwrap();
        let told: Vec<CommitHash> =
            String::from_utf8_lossy(&output.stderr).lines().filter_map(|line| line.parse().ok()).collect();
        let catalog = Catalog::open(&lake).unwrap();
        let log: Vec<CommitHash> = catalog.log(&head(&catalog, "main")).map(|entry| entry.unwrap().hash).collect();
        assert!(told.iter().all(|hash| log.contains(hash)), "step {at}: an acknowledged commit is lost");
        let state = show(&catalog, "main");
        let next = (told.len() + 1).min(STATES.len() - 1);
        assert!(state == STATES[told.len()] || state == STATES[next], "step {at}: {state} after {} commits", told.len());
        for found in catalog.branches().unwrap() {
            for entry in catalog.log(&found.hash) {
                catalog.tree(&entry.unwrap().hash).unwrap();
            }
        }
        commit(&catalog, "main", "next=1").unwrap();
        drop(catalog);
        drop(Catalog::open(&lake).unwrap());
        assert_eq!(std::fs::read_dir(lake.join("tmp")).unwrap().count(), 0, "leftovers are swept");
        if String::from_utf8_lossy(&output.stderr).contains("finished") {
            assert!(output.status.success() && at > 100, "{at} steps");
            break;
        }
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn start_writer(folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::crash::writer_process", "--nocapture"]).env(LAKE, folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Lines the writer printed before it died, read to the end after the kill: all it ever acknowledged.
fn kill_after(lines: usize, mut child: Child, spin: u32) -> Vec<CommitHash> {
    let mut output = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut acknowledged: Vec<CommitHash> = Vec::new();
    while acknowledged.len() < lines {
        acknowledged.extend(output.next().expect("the writer goes on until it is killed").unwrap().parse().ok());
    }
    // Some work of our own moves the kill to another place in the writer's loop each time.
    (0..spin).for_each(|n| drop(std::hint::black_box(crate::object::hash(&n.to_le_bytes()))));
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.extend(output.map_while(|line| line.ok()?.parse().ok()));
    acknowledged
}

#[test]
fn killed_writers_lose_nothing() {
    const ROUNDS: u32 = 12;
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let writers = [start_writer(folder.path()), start_writer(folder.path())];
        for child in writers {
            acknowledged.extend(kill_after(1 + round as usize % 4, child, round * 3001));
        }
        let catalog = Catalog::open(folder.path()).unwrap();
        let log: Vec<_> = catalog.log(&head(&catalog, "main")).map(Result::unwrap).collect();
        for hash in &acknowledged {
            assert!(log.iter().any(|entry| entry.hash == *hash), "round {round}: {hash} is lost");
        }
        for found in catalog.branches().unwrap() {
            catalog.tree(&found.hash).unwrap();
        }
        commit(&catalog, "main", &format!("round=n{round}")).unwrap();
    }
    drop(Catalog::open(folder.path()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "leftovers are swept");
}

#[test]
fn killed_while_the_lake_is_created() {
    for round in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let lake = folder.path().join("catalog");
        let mut children = [start_writer(&lake), start_writer(&lake)];
        // Watch for the first trace of the catalog, then kill at once.
        while !lake.exists() {
            std::thread::yield_now();
        }
        (0..round * 500).for_each(|n: u32| drop(std::hint::black_box(crate::object::hash(&n.to_le_bytes()))));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        commit(&Catalog::open(&lake).unwrap(), "main", "a=1").unwrap();
    }
}

/// The disk fills up while the writer works: it is told so, and everything before is there.
#[test]
fn disk_full_process() {
    let Some(folder) = std::env::var_os("FOREBAY_TEST_FULL") else { return };
    let catalog = Catalog::open(Path::new(&folder)).unwrap();
    let before = head(&catalog, "main");
    let failure =
        (0..10_000).find_map(|n| commit(&catalog, "main", &format!("t{n}={}", "x".repeat(3000))).err().map(|error| (n, error)));
    let (n, error) = failure.expect("the disk is small");
    assert_eq!(error.report().code.to_string(), "CAT0013", "{error:?}");
    assert!(n > 0, "some commits fit");
    let again = Catalog::open(Path::new(&folder)).unwrap();
    assert_eq!(again.tree(&head(&again, "main")).unwrap().tables.len(), n);
    assert_eq!(again.log(&head(&again, "main")).count(), n + 1);
    assert_ne!(head(&again, "main"), before);
    assert_eq!(std::fs::read_dir(Path::new(&folder).join("tmp")).unwrap().count(), 0);
    eprintln!("full after {n} commits");
}

#[test]
fn a_full_disk_is_told_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=400k none "$1" 2>/dev/null || exit 77; exec "$2" --exact tests::crash::disk_full_process --nocapture"#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .env("FOREBAY_TEST_FULL", folder.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stderr).contains("full after"), "the writer ran");
        }
        Ok(output) if output.status.code() == Some(77) || output.stderr.starts_with(b"unshare") => {
            eprintln!("skipped: no private mounts here (the same code path is provoked in `faults`)");
        }
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("skipped: no `unshare` program ({error})"),
    }
}
