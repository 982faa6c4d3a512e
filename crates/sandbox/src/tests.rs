//! Sandboxes for real: small programs inside, by a launcher forked from the test.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::OnceLock;

use crate::limits::PROCESSES_MAX;
use crate::*;

fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let _ = crate::launcher::OWN.set(facts);
        Launcher::forked()
    })
}

fn this_host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| host::probe(launcher(), host::look()).unwrap())
}

fn policy() -> Policy {
    Policy {
        read: vec![],
        write: vec![],
        links: vec![],
        internet: false,
        identity: Identity::Apart,
        tmp_bytes: 1 << 20,
        processes_max: PROCESSES_MAX,
    }
}

struct Seen {
    /// Exit code, or minus the signal.
    code: i32,
    out: String,
    refused: Option<Refusal>,
}

fn run_with(order: &Order) -> Seen {
    let null = std::fs::File::open("/dev/null").unwrap();
    let (mut out, write) = std::io::pipe().unwrap();
    let mut function = launcher().start(order, [null.as_fd(), write.as_fd(), write.as_fd()]).unwrap();
    drop(write);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    sys::wait_readable([function.pidfd()]).unwrap();
    match function.ending() {
        Some(Ending::Ended { status, .. }) => {
            let code = if status & 0x7f == 0 { status >> 8 } else { -(status & 0x7f) };
            Seen { code, out: text, refused: None }
        }
        Some(Ending::Refused(refusal)) => Seen { code: -1000, out: text, refused: Some(refusal) },
        None => Seen { code: -2000, out: text, refused: None },
    }
}

fn order(policy: &Policy, script: &str) -> Order {
    let command = Command {
        program: "/bin/sh".into(),
        arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin".into()), ("WORD".into(), "set".into())],
        folder: "/".into(),
    };
    Order {
        plan: plan(policy, this_host(), 5),
        groups: vec![],
        limits: vec![(resource::CORE, 0)],
        command: Some(command),
        role: Role::Function,
    }
}

fn run(policy: &Policy, script: &str) -> Seen {
    run_with(&order(policy, script))
}

/// What a script inside prints. All of these tests need a host that allows everything.
fn says(script: &str) -> String {
    let seen = run(&policy(), script);
    assert_eq!(seen.code, 0, "{} {:?}", seen.out, seen.refused);
    seen.out
}

#[test]
fn this_host_allows_everything() {
    assert_eq!(this_host().lost.keys().collect::<Vec<_>>(), Vec::<&Feature>::new(), "{:?}", this_host().lost);
}

#[test]
fn endings_are_told() {
    assert_eq!(run(&policy(), "exit 7").code, 7);
    assert_eq!(run(&policy(), "kill -9 $$").code, -9);
    assert_eq!(run(&policy(), "kill -SEGV $$").code, -11);
    let mut missing = order(&policy(), "");
    missing.command.as_mut().unwrap().program = "/bin/nothing".into();
    assert_eq!(run_with(&missing).refused.unwrap().errno, libc::ENOENT);
    missing.command.as_mut().unwrap().folder = "/nowhere".into();
    assert!(run_with(&missing).refused.unwrap().what.contains("/nowhere"));
}

/// The other role of the test program: tells what it has. Not by `println`, which a test catches.
fn facts() -> i32 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let wanted = ["Name", "Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Threads"];
    let is_wanted = |line: &&str| line.split_once(':').is_some_and(|(name, _)| wanted.contains(&name));
    let mut status: String = text.lines().filter(is_wanted).map(|line| line.replace('\t', " ") + "\n").collect();
    // Those of the C library's own (32 and 33) left out.
    for name in ["SigBlk", "SigIgn", "SigCgt"] {
        let signals = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
        status += &format!("{name} {:x}\n", u64::from_str_radix(signals, 16).unwrap() & 0x7fff_ffff);
    }
    let mut files: Vec<_> = std::fs::read_dir("/proc/self/fd").unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let (variables, folder) = (std::env::vars().collect::<Vec<_>>(), std::env::current_dir().unwrap());
    std::io::stdout().write_all(format!("{status}{files:?} {variables:?} {folder:?}\n").as_bytes()).unwrap();
    7
}

#[test]
fn a_role_of_our_own_binary_has_nothing_of_the_launchers() {
    let mut order = order(&policy(), "");
    OWN_PROGRAM.clone_into(&mut order.command.as_mut().unwrap().program);
    let seen = run_with(&order);
    let (none, ids) = ("0000000000000000", "1000 1000 1000 1000");
    // Writing where nobody reads is an error, as in all programs in Rust. The fourth file is the folder of the others.
    let wanted = format!(
        "Name: forebay\nUid: {ids}\nThreads: 1\nCapEff: {none}\nCapBnd: {none}\n\
         NoNewPrivs: 1\nSeccomp: 2\nSigBlk 0\nSigIgn 1000\nSigCgt 0\n[\"0\", \"1\", \"2\", \"3\"] [(\"PATH\", \"/usr/bin:/bin:/usr/sbin\"), (\"WORD\", \"set\")] \"/\"\n"
    );
    assert_eq!((seen.out, seen.code), (wanted, 7), "{:?}", seen.refused);
}

#[test]
fn an_empty_house() {
    assert_eq!(
        says("ls -m /"),
        "bin, dev, etc, lib, lib64, proc, run, sbin, sys, tmp, usr, var\n".replace("lib64", &lib_names())
    );
    assert_eq!(says("ls -m /dev"), "fd, full, null, random, shm, stderr, stdin, stdout, urandom, zero\n");
    assert_eq!(says("id -u; id -g; id -G; id -un"), "1000\n1000\n1000\nforebay\n");
    assert_eq!(says("echo $$; ls -d /proc/[0-9]* | wc -l; cat /proc/sys/kernel/hostname").lines().next(), Some("2"));
    assert_eq!(says("echo $WORD; env | wc -l").lines().next(), Some("set"));
    assert_eq!(says("ls -m /proc/self/fd | tr -d ' '"), "0,1,2,3\n");
    assert_eq!(says("cat /dev/shm/x /proc/1/environ /proc/1/maps 2>/dev/null; echo end"), "end\n");
}

fn lib_names() -> String {
    let names = ["lib32", "lib64", "libx32"].into_iter().filter(|name| Path::new("/").join(name).exists());
    names.collect::<Vec<_>>().join(", ")
}

#[test]
fn files_are_read_only_but_for_tmp_and_what_was_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (read, write) = (folder.path().join("read"), folder.path().join("write"));
    for place in [&read, &write] {
        std::fs::create_dir(place).unwrap();
        std::fs::write(place.join("file"), "text").unwrap();
        set_mode(place, 0o777);
    }
    set_mode(folder.path(), 0o755);
    let policy = Policy { read: vec![read.clone()], write: vec![write.clone()], ..policy() };
    let (read, write) = (read.display(), write.display());
    let seen = run(&policy, &format!("cat {read}/file {write}/file && echo new > {write}/new && echo x > /tmp/x && cat /tmp/x"));
    assert_eq!((seen.code, seen.out.as_str()), (0, "texttextx\n"));
    assert_eq!(std::fs::read_to_string(folder.path().join("write/new")).unwrap(), "new\n");
    for attempt in [
        format!("echo x > {read}/file"),
        format!("echo x > {read}/new"),
        format!("rm {read}/file"),
        format!("chmod 777 {read}"),
        "echo x > /new".into(),
        "mkdir /new".into(),
        "echo x > /usr/new".into(),
        "echo x > /etc/passwd".into(),
        "echo 0 > /proc/self/oom_score_adj".into(),
        "echo b > /proc/sysrq-trigger".into(),
        "echo x > /proc/sys/kernel/hostname".into(),
        "mknod /tmp/null c 1 3".into(),
        "mount -t tmpfs x /tmp".into(),
        "mount -o remount,rw /".into(),
        "umount /tmp".into(),
        "unshare -Ur true".into(),
        "chroot / true".into(),
        "ls /root".into(),
    ] {
        assert_ne!(run(&policy, &attempt).code, 0, "{attempt}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn tmp_has_a_size_and_is_empty_each_time() {
    let seen = run(&policy(), "ls /tmp; head -c 3000000 /dev/zero > /tmp/large");
    assert!(seen.code != 0 && seen.out.starts_with("home\n") && seen.out.contains("No space left"), "{}", seen.out);
    assert_eq!(says("ls /tmp"), "home\n");
}

#[test]
fn everything_ends_with_the_function() {
    let (mut life, held) = std::io::pipe().unwrap();
    let held: std::os::fd::OwnedFd = held.into();
    let null = std::fs::File::open("/dev/null").unwrap();
    let order = order(&policy(), "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' & exit 0");
    // The daemon inside holds this pipe as long as it lives.
    let function = launcher().start(&order, [null.as_fd(), null.as_fd(), held.as_fd()]).unwrap();
    drop(held);
    assert_eq!(life.read(&mut [0]).unwrap(), 0);
    sys::wait_readable([function.pidfd()]).unwrap();
}

#[test]
fn a_killed_function_leaves_nothing() {
    let (mut life, held) = std::io::pipe().unwrap();
    let held: std::os::fd::OwnedFd = held.into();
    let null = std::fs::File::open("/dev/null").unwrap();
    let order = order(&policy(), "echo here >&2; setsid sleep 1000 & sleep 1000");
    let mut function = launcher().start(&order, [null.as_fd(), null.as_fd(), held.as_fd()]).unwrap();
    drop(held);
    let mut word = [0; 5];
    life.read_exact(&mut word).unwrap();
    function.killer().unwrap().kill();
    assert_eq!(life.read(&mut [0]).unwrap(), 0);
    sys::wait_readable([function.pidfd()]).unwrap();
    assert_eq!(function.ending(), None);
}

#[test]
fn without_namespaces_the_tree_is_killed_all_the_same() {
    let mut host = this_host().clone();
    host.lose(Feature::Users, "for a test");
    let policy = Policy { read: vec!["/dev".into()], ..policy() };
    let mut order = order(&policy, "echo here >&2; setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000");
    order.plan = plan(&policy, &host, 1);
    for end_itself in [true, false] {
        if end_itself {
            order.command.as_mut().unwrap().arguments[2] = "echo here >&2; setsid sleep 1000 & exit 0".into();
        } else {
            order.command.as_mut().unwrap().arguments[2] = "echo here >&2; setsid sleep 1000 & sleep 1000".into();
        }
        let (mut life, held) = std::io::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let function = launcher().start(&order, [null.as_fd(), null.as_fd(), held.as_fd()]).unwrap();
        drop(held);
        let mut word = [0; 5];
        life.read_exact(&mut word).unwrap();
        if !end_itself {
            function.killer().unwrap().kill();
        }
        assert_eq!(life.read(&mut [0]).unwrap(), 0);
        sys::wait_readable([function.pidfd()]).unwrap();
    }
    let seen =
        run_with(&Order { command: with(&order, "cat /etc/shadow || echo x > /tmp/forebay-new || ls /root"), ..order.clone() });
    assert!(seen.code != 0, "{}", seen.out);
}

fn with(order: &Order, script: &str) -> Option<Command> {
    let mut command = order.command.clone()?;
    command.arguments[2] = script.to_owned();
    Some(command)
}

#[test]
fn the_launcher_comes_back() {
    let launcher = Launcher::forked();
    let null = std::fs::File::open("/dev/null").unwrap();
    let order = order(&policy(), "exit 0");
    let start = || launcher.start(&order, [null.as_fd(); 3]).unwrap();
    let first = start();
    launcher.kill_for_test();
    let second = start();
    for function in [first, second] {
        sys::wait_readable([function.pidfd()]).unwrap();
    }
}

/// How long a sandbox takes, printed with `--nocapture`: medians of many, of the whole (start, sandbox, exec, exit) and without one.
#[test]
fn the_price() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut host = this_host().clone();
    Feature::ALL.iter().for_each(|feature| host.lose(*feature, "for a test"));
    let bare = plan(&policy(), &host, 0);
    let full = plan(&policy(), this_host(), 0);
    let groups = group::Groups::open(None).ok();
    for (name, plan, command, grouped) in [
        ("nothing, no program", &bare, false, false),
        ("sandbox, no program", &full, false, false),
        ("sandbox and groups, no program", &full, false, true),
        ("nothing, /bin/true", &bare, true, false),
        ("sandbox, /bin/true", &full, true, false),
    ] {
        let command = command.then(|| Command {
            program: "/bin/true".into(),
            arguments: vec!["true".into()],
            environment: vec![],
            folder: "/".into(),
        });
        let mut times: Vec<_> = (0..100)
            .map(|_| {
                let started = std::time::Instant::now();
                let group = groups.as_ref().filter(|_| grouped).map(|groups| groups.create(Some(1 << 30), 100).unwrap());
                let doors = group.as_ref().map(group::Group::doors).unwrap_or_default();
                let order =
                    Order { plan: plan.clone(), groups: doors, limits: vec![], command: command.clone(), role: Role::Function };
                let mut function = launcher().start(&order, [null.as_fd(); 3]).unwrap();
                sys::wait_readable([function.pidfd()]).unwrap();
                assert_eq!(function.ending().map(|ending| matches!(ending, Ending::Ended { status: 0, .. })), Some(true));
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{name}: min {:?}, median {:?}", times[0], times[50]);
    }
}
