//! Environments as a whole: with uv where there is one, and what is refused without it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_types::Coded as _;

use super::*;

fn request(python: &str, packages: &[(&str, &str)], needs: &[&str]) -> EnvironmentRequest {
    EnvironmentRequest {
        python: python.to_owned(),
        packages: packages.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        needs: needs.iter().map(|n| (*n).to_owned()).collect(),
    }
}

fn open(folder: &Path, uv: Option<PathBuf>) -> Environments {
    Environments::open(Options { cache_dir: folder.to_owned(), uv, ..Options::default() }).unwrap()
}

/// The uv of the development environment or the PATH; says so when a test is left out.
fn uv_or_skip() -> Option<PathBuf> {
    let development = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/uv");
    let found = if development.is_file() { Some(development) } else { uv::find(None).ok() };
    if found.is_none() {
        eprintln!("skipped: no uv in target/venv, FOREBAY_UV or PATH");
    }
    found
}

#[test]
fn the_users_version_of_a_needed_package_wins() {
    let texts = |r: &EnvironmentRequest| requirements(r).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&request("3.11", &[("pandas", "2.0")], &["pyarrow"])), ["pandas==2.0.*", "pyarrow"]);
    assert_eq!(texts(&request("3.11", &[("PyArrow", "21.0.0")], &["pyarrow"])), ["pyarrow==21.0.0"]);
}

#[test]
fn every_error_has_its_code() {
    let io = || std::io::Error::other("no");
    let text = String::new;
    let errors = [
        (Error::UvMissing { tried: vec![] }, "ENV0001"),
        (Error::NoInterpreter { wanted: text(), found: vec![], download: None }, "ENV0002"),
        (Error::Resolve { packages: text(), python: text(), uv: text(), hint: None }, "ENV0003"),
        (Error::Install { packages: text(), uv: text() }, "ENV0004"),
        (Error::Import { package: text(), version: text(), python: text(), message: text(), beside: text() }, "ENV0005"),
        (Error::Version { package: text(), version: text(), why: text() }, "ENV0006"),
        (Error::Io { verb: "open", path: PathBuf::new(), source: io() }, "ENV0007"),
        (Error::Cancelled, "ENV0008"),
        (Error::Build { packages: text(), uv: text() }, "ENV0009"),
        (Error::Unconfined { packages: text(), why: text() }, "ENV0014"),
        (Error::DiskFull { path: PathBuf::new(), cause: text() }, "ENV0010"),
        (Error::Lock { why: text() }, "ENV0011"),
        (Error::NotFound { hash: text(), matches: vec![] }, "ENV0012"),
        (Error::Stale { why: vec![] }, "ENV0013"),
    ];
    for (error, code) in errors {
        assert_eq!(error.report().code.0, code);
    }
}

#[test]
fn a_missing_uv_is_env0001_and_a_bad_version_env0006() {
    let folder = tempfile::tempdir().unwrap();
    let environments = open(folder.path(), Some("/nowhere/uv".into()));
    let code = |packages: &[(&str, &str)]| {
        environments.prepare(&request("3.11", packages, &[]), None, &Quiet).unwrap_err().report().code.0
    };
    assert_eq!(code(&[("pandas", "2.0")]), "ENV0001");
    assert_eq!(code(&[("pandas", "newest")]), "ENV0006");
}

#[test]
fn a_cache_that_is_no_folder_is_env0007() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Environments::open(Options { cache_dir: file.path().to_owned(), ..Options::default() }).unwrap_err();
    assert_eq!(error.report().code.0, "ENV0007");
}

/// Counts what is started, and gives up when told.
#[derive(Default)]
struct Counting {
    started: Mutex<usize>,
    cancelled: AtomicBool,
}

impl Watch for Counting {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
    fn child_started(&self, _group: u32) {
        *self.started.lock().unwrap() += 1;
    }
}

#[test]
fn builds_once_and_then_remembers() {
    let Some(uv) = uv_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wanted = request(&python_here(), &[("six", "1.16")], &[]);
    let environment = match open(folder.path(), Some(uv.clone())).prepare(&wanted, None, &Quiet) {
        Err(Error::Resolve { uv, .. } | Error::Install { uv, .. }) if is_network(&uv) => {
            return eprintln!("skipped: no package index: {uv}");
        }
        other => other.unwrap(),
    };
    assert_eq!(environment.package("six"), Some("1.16.0"));
    let output =
        std::process::Command::new(&environment.python).args(["-I", "-c", "import six; print(six.__file__)"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(&*environment.folder.to_string_lossy()), "{output:?}");
    // A new process finds it without uv, and without starting anything.
    let count = Counting::default();
    let again = open(folder.path(), Some("/nowhere/uv".into())).prepare(&wanted, None, &count).unwrap();
    assert_eq!((again, *count.started.lock().unwrap()), (environment.clone(), 0));
    // Another spelling of the same set shares the folder; a half-removed environment is built again.
    let same =
        open(folder.path(), Some(uv.clone())).prepare(&request(&python_here(), &[("six", "1.16.0")], &[]), None, &Quiet).unwrap();
    assert_eq!(same.hash, environment.hash);
    std::fs::remove_file(environment.folder.join("forebay.json")).unwrap();
    std::fs::create_dir(folder.path().join("envs").join(format!("{}.building-left", environment.hash))).unwrap();
    // Nothing is left for later.
    let rebuilt = open(folder.path(), Some(uv)).prepare_fully(&wanted, None, &Quiet).unwrap();
    assert_eq!(rebuilt, environment);
    let names = folder.path().join("envs").read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(names.filter(|name| name.contains(".building-")).count() == 0);
}

#[test]
fn what_does_not_exist_is_env0003_and_giving_up_env0008() {
    let Some(uv) = uv_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let environments = open(folder.path(), Some(uv));
    let wanted = request(&python_here(), &[("forebay-no-such-package", "1.0.0")], &[]);
    let report = environments.prepare(&wanted, None, &Quiet).unwrap_err().report();
    assert_eq!(report.code.0, "ENV0003");
    assert!(report.causes[0].contains("forebay-no-such-package"), "{report}");
    let cancelled = Counting { cancelled: AtomicBool::new(true), ..Counting::default() };
    assert_eq!(environments.prepare(&wanted, None, &cancelled).unwrap_err().report().code.0, "ENV0008");
}

#[test]
fn a_python_that_is_not_there_is_env0002() {
    let Some(uv) = uv_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let environments =
        Environments::open(Options { cache_dir: folder.path().to_owned(), uv: Some(uv), offline: true, ..Options::default() })
            .unwrap();
    let report = environments.prepare(&request("3.77", &[], &[]), None, &Quiet).unwrap_err().report();
    assert_eq!(report.code.0, "ENV0002");
    assert!(report.hint.unwrap().contains("uv python install 3.77"));
}

#[test]
fn what_installs_but_does_not_import_is_env0005_and_cannot_install_env0004() {
    let Some(uv) = uv_or_skip() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let interpreter = interpreters::find(&python_here(), &[], None, &Quiet).unwrap();
    std::fs::create_dir(folder.join("store")).unwrap();
    let tools = Tools { uv: &uv, folder: &folder, store: &folder.join("store"), offline: true, confinement: None, watch: &Quiet };
    let site = folder.join("site");
    let nothing = Lock::parse(String::new());
    build::fill(&tools, &folder, &site, &nothing, &interpreter).unwrap();
    let packages = site.join("lib").join(format!("python{}", python_here())).join("site-packages");
    std::fs::write(packages.join("broken.py"), "raise ImportError('numpy.dtype size changed')\n").unwrap();
    let broken = build::Import { package: "broken".to_owned(), version: "1.0".to_owned(), modules: vec!["broken".to_owned()] };
    let wanted = build::Wanted { name: "", lock: &nothing, interpreter: &interpreter, requirements: &[] };
    let report = build::try_imports(&tools, &site, &folder.join("home"), &wanted, &[&broken]).unwrap_err().report();
    assert_eq!(report.code.0, "ENV0005");
    assert!(report.to_string().contains("`broken` 1.0") && report.to_string().contains("dtype size changed"), "{report}");
    let lock = Lock::parse("forebay-no-such-package==1.0.0 --hash=sha256:00\n".to_owned());
    let error = build::fill(&tools, &folder, &folder.join("other"), &lock, &interpreter).unwrap_err();
    assert_eq!(error.report().code.0, "ENV0004");
}

/// `major.minor` of some interpreter of this machine.
fn python_here() -> String {
    let found = ["3.11", "3.12", "3.13", "3.10"].into_iter().find(|v| interpreters::find(v, &[], None, &Quiet).is_ok());
    found.expect("a machine that runs these tests has a Python").to_owned()
}

fn is_network(text: &str) -> bool {
    ["network", "connect", "dns", "request"].iter().any(|word| text.to_lowercase().contains(word))
}
