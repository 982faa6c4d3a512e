//! Zygotes for real: the test program itself is one, in a sandbox, and its children run small scripts.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::limits::PROCESSES_MAX;
use crate::zygote::{Birth, Born, Door, Outfit, Side};
use crate::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: what the test program is when it is started as a zygote. A child executes the script that it reads.
#[test]
#[ignore = "started by the tests below"]
fn the_zygote_itself() {
    let mut memory = vec![1_u8; 1 << 20];
    let door = Door::from_stdin().unwrap();
    door.say(b"ready").unwrap();
    while let Some(request) = door.wait().unwrap() {
        let side = request.fork();
        if let Ok(Side::Child) = side {
            request.land().unwrap();
            let mut script = String::new();
            std::io::stdin().read_to_string(&mut script).unwrap();
            memory.fill(2);
            let _ = std::process::Command::new("/bin/sh").args(["-c", &script]).exec();
            sys::exit(99);
        }
        door.answer(&side).unwrap();
        assert!(memory.iter().all(|byte| *byte == 1), "a child wrote into its zygote");
    }
}

struct Home {
    zygote: Zygote,
    host: Host,
    policy: Policy,
    number: std::sync::atomic::AtomicU32,
    project: PathBuf,
}

impl Home {
    fn new() -> Self {
        static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
        static PROJECTS: OnceLock<tempfile::TempDir> = OnceLock::new();
        let launcher = LAUNCHER.get_or_init(Launcher::forked);
        let host = host::probe(launcher, host::look()).unwrap();
        let program = std::env::current_exe().unwrap();
        let projects = PROJECTS.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(folder.path(), open).unwrap();
            for project in ["one", "two"] {
                std::fs::create_dir(folder.path().join(project)).unwrap();
                std::fs::write(folder.path().join(project).join("code"), project).unwrap();
            }
            folder
        });
        let policy = Policy {
            read: vec![program.clone()],
            write: vec![],
            links: vec![],
            internet: false,
            identity: Identity::Apart,
            tmp_bytes: 1 << 20,
            processes_max: PROCESSES_MAX,
        };
        let nest = nest(&policy, &host, 1, projects.path()).expect("this host allows everything");
        let arguments = ["zygote", "--exact", "zygote_tests::the_zygote_itself", "--ignored", "--nocapture", "--test-threads=1"];
        let command = Command {
            program: program.to_str().unwrap().into(),
            arguments: arguments.map(str::to_owned).to_vec(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            folder: "/".into(),
        };
        let role = Role::Zygote { inside: nest.inside };
        let order = Order { plan: nest.plan, groups: vec![], limits: vec![], command: Some(command), role };
        let zygote = Zygote::start(launcher, &order).unwrap();
        assert_eq!(zygote.hear(Instant::now() + PATIENCE).unwrap(), b"ready");
        Self { zygote, host: nest.host, policy, number: 0.into(), project: projects.path().join("one") }
    }

    fn birth(&self) -> Birth {
        let mut policy = self.policy.clone();
        policy.read.push(self.project.clone());
        let limits = vec![(resource::CORE, 0), (resource::PROCESSES, 50)];
        Birth::new(plan(&policy, &self.host, 0), limits, self.project.clone(), String::new())
    }

    fn beginning(&self) -> Plan {
        beginning(&self.host, self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    fn refused(&self, birth: &Birth) -> Error {
        let null = std::fs::File::open("/dev/null").unwrap();
        let outfit = Outfit { standard: [null.as_fd(); 3], doors: &[] };
        let unborn = self.zygote.conceive(&self.beginning(), PATIENCE).and_then(|unborn| unborn.deliver(birth, outfit, PATIENCE));
        let forked = self.zygote.fork(&self.beginning(), birth, outfit, PATIENCE).unwrap_err();
        assert_eq!(unborn.unwrap_err().to_string(), forked.to_string());
        forked
    }

    fn born(&self) -> (Born, std::io::PipeWriter, std::io::PipeReader) {
        self.born_with(&[])
    }

    fn born_with(&self, doors: &[std::os::fd::OwnedFd]) -> (Born, std::io::PipeWriter, std::io::PipeReader) {
        let (stdin, script) = std::io::pipe().unwrap();
        let (out, stdout) = std::io::pipe().unwrap();
        let outfit = Outfit { standard: [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()], doors };
        let birth = self.birth();
        let beginning = self.beginning();
        // One way and the other, in turns, which must come to the same.
        let born = match self.number.load(std::sync::atomic::Ordering::Relaxed) % 2 {
            0 => self.zygote.conceive(&beginning, PATIENCE).and_then(|unborn| unborn.deliver(&birth, outfit, PATIENCE)),
            _ => self.zygote.fork(&beginning, &birth, outfit, PATIENCE),
        };
        (born.unwrap(), script, out)
    }

    fn run(&self, script: &str) -> (Option<Ending>, String) {
        let (mut born, mut stdin, mut out) = self.born();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        sys::wait_readable([born.sandbox.pidfd()]).unwrap();
        (born.sandbox.ending(), text)
    }

    fn says(&self, script: &str) -> String {
        let (ending, text) = self.run(script);
        assert!(matches!(ending, Some(Ending::Ended { status: 0, .. })), "{ending:?} {text}");
        text
    }
}

#[test]
fn children_join_their_groups_by_themselves() {
    let Ok(groups) = group::Groups::open(None) else { return eprintln!("skipped: no control groups here") };
    let home = Home::new();
    let group = groups.create(Some(1 << 30), 100).unwrap();
    let doors = group.open_doors().unwrap();
    if doors.is_empty() {
        return eprintln!("skipped: members of groups of version 2 are moved by the supervisor");
    }
    let members = || -> Vec<String> {
        group.doors().iter().map(|door| std::fs::read_to_string(door.with_file_name("cgroup.procs")).unwrap()).collect()
    };
    let (born, script, _out) = home.born_with(&doors);
    let joined = members();
    assert!(joined.iter().all(|text| text.lines().count() == 1), "{joined:?}");
    // A member is not moved again; one that stayed outside is.
    group.admit(born.function.as_fd()).unwrap();
    assert_eq!(members(), joined);
    let (stranger, its_script, _its_out) = home.born();
    assert_eq!(members(), joined);
    group.admit(stranger.function.as_fd()).unwrap();
    assert!(members().iter().all(|text| text.lines().count() == 2));
    drop((script, its_script));
    for child in [born, stranger] {
        sys::wait_readable([child.sandbox.pidfd()]).unwrap();
    }
}

#[test]
fn children_are_confined_as_functions_are() {
    let home = Home::new();
    assert_eq!(home.says("id -u; id -g; id -G; id -un"), "1000\n1000\n1000\nforebay\n");
    assert_eq!(home.says("ls -m /dev"), "fd, full, null, random, shm, stderr, stdin, stdout, urandom, zero\n");
    // The first process, the one that went between, and the function.
    assert_eq!(home.says("echo $$; cat /proc/sys/kernel/hostname").lines().next(), Some("3"));
    assert_eq!(home.says("echo /proc/[0-9]*"), "/proc/1 /proc/3\n");
    assert_eq!(home.says("ls -m /proc/self/fd | tr -d ' '"), "0,1,2,3\n");
    assert_eq!(home.says("pwd; cat code; cat ../two/code 2>/dev/null; ls ..").lines().skip(1).collect::<Vec<_>>(), ["oneone"]);
    assert_eq!(home.says("cat /proc/1/environ /proc/1/maps 2>/dev/null; echo end"), "end\n");
    let limits = home.says("grep -E 'Max (processes|core)' /proc/self/limits | tr -s ' '");
    assert_eq!(limits, "Max core file size 0 0 bytes \nMax processes 50 50 processes \n");
    let status = home.says("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'");
    assert_eq!(
        status,
        "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\nCapBnd:0000000000000000\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n"
    );
    let refused = "unshare -U true 2>/dev/null && echo U; nsenter -t 1 -n true 2>/dev/null && echo N; mount -t tmpfs x /tmp 2>/dev/null && echo M; (echo x > /usr/x) 2>/dev/null && echo W; ls /sys; ls /home 2>/dev/null; echo end";
    assert_eq!(home.says(refused), "end\n");
    assert_eq!(home.says("grep -c : /proc/net/dev").trim(), "1", "a network of its own with nothing but `lo`");
}

#[test]
fn children_do_not_see_each_other() {
    let home = Home::new();
    let (mut first, mut script, mut out) = home.born();
    script.write_all(b"echo secret > /tmp/secret; echo there; sleep 1000").unwrap();
    drop(script);
    let mut there = [0; 6];
    out.read_exact(&mut there).unwrap();
    assert_eq!(
        home.says("ls /tmp /dev/shm; ps -e 2>/dev/null | grep -c sleep; kill -9 -1 2>/dev/null; echo end").lines().last(),
        Some("end")
    );
    assert_eq!(home.says("ls /dev/shm; cat /tmp/secret 2>/dev/null; echo end"), "end\n");
    // It lives until it is killed, and then with all that it has started.
    first.sandbox.killer().unwrap().kill();
    sys::wait_readable([first.sandbox.pidfd()]).unwrap();
    assert_eq!(first.sandbox.ending(), None);
    sys::wait_readable([first.function.as_fd()]).unwrap();
}

#[test]
fn how_children_end_is_told() {
    let home = Home::new();
    let status = |script: &str| match home.run(script).0 {
        Some(Ending::Ended { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status("exit 7") >> 8, 7);
    assert_eq!(status("kill -9 $$") & 0x7f, 9);
    assert_eq!(status("kill -SEGV $$") & 0x7f, 11);
}

#[test]
fn children_outlive_their_zygote_and_end_when_they_are_killed() {
    let home = Home::new();
    let (mut first, mut script, mut out) = home.born();
    let (second, mut endless, mut said) = home.born();
    endless.write_all(b"echo there; sleep 1000").unwrap();
    drop(endless);
    let mut there = [0; 6];
    said.read_exact(&mut there).unwrap();
    drop(home);
    script.write_all(b"echo done").unwrap();
    drop(script);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    sys::wait_readable([first.sandbox.pidfd()]).unwrap();
    assert!(matches!(first.sandbox.ending(), Some(Ending::Ended { status: 0, .. })));
    second.sandbox.killer().unwrap().kill();
    sys::wait_readable([second.function.as_fd()]).unwrap();
}

#[test]
fn a_zygote_that_is_gone_or_hangs_is_an_error_in_time() {
    let home = Home::new();
    let birth = home.birth();
    let nowhere = Birth { folder: "/nowhere".into(), ..birth.clone() };
    assert!(matches!(home.refused(&nowhere), Error::Zygote(_)), "its child could not land");
    let rights = Birth { landing: birth.landing.iter().filter(|step| **step != Step::Drop).cloned().collect(), ..birth.clone() };
    let refused = home.refused(&rights);
    assert!(matches!(&refused, Error::Refused(refusal) if refusal.what.contains("child")), "a child with rights: {refused:?}");
    assert_eq!(home.says("echo on"), "on\n", "the zygote goes on");
    home.zygote.kill();
    home.refused(&birth);
}

#[test]
fn a_sandbox_that_cannot_be_finished_is_told_although_its_function_was_forked_meanwhile() {
    let home = Home::new();
    for _ in 0..5 {
        let mut birth = home.birth();
        let attach = birth.steps.iter().position(|step| *step == Step::Attach).unwrap();
        birth.steps.insert(attach, Step::Text { path: "/etc/passwd/none".into(), text: String::new() });
        let refused = home.refused(&birth);
        assert!(matches!(&refused, Error::Refused(refusal) if refusal.what.contains("/etc/passwd/none")), "{refused:?}");
        assert_eq!(home.says("echo on"), "on\n", "the zygote goes on");
    }
}

#[test]
fn the_unborn_end_when_they_are_dropped_or_their_zygote_is_killed() {
    let home = Home::new();
    let unborn = || home.zygote.conceive(&home.beginning(), PATIENCE).unwrap();
    let first = unborn();
    let gone = first.pidfd().try_clone_to_owned().unwrap();
    drop(first);
    sys::wait_readable([gone.as_fd()]).unwrap();
    let second = unborn();
    home.zygote.kill();
    sys::wait_readable([second.pidfd()]).unwrap();
}

/// What a child costs beside a function that is executed. Printed, not asserted.
#[test]
fn the_price() {
    let home = Home::new();
    let mut times: Vec<f64> = (0..30)
        .map(|_| {
            let start = Instant::now();
            let (born, ..) = home.born();
            let taken = start.elapsed().as_secs_f64() * 1e3;
            born.sandbox.killer().unwrap().kill();
            taken
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("a child of a small zygote, landed: {:.1} ms at least, {:.1} ms median of 30", times[0], times[15]);
    let _ = Path::new("/");
}
