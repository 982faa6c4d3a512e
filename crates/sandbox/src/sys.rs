//! The system calls of this crate, one small function each, with errors instead of -1.
//!
//! They are called in the launcher and in its children, which have one thread: allocating after a fork is no danger there.
//! The same functions serve a process that has threads only before it forks.

use std::ffi::{CStr, CString, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::filter::Instruction;

pub type Result<T = ()> = io::Result<T>;

const OPEN_TREE_CLONE: c_uint = 1;
const AT_RECURSIVE: c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn done(result: c_int) -> Result {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn number(result: c_long) -> Result<c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(c_int::try_from(result).unwrap_or(c_int::MAX)) }
}

fn owned(result: c_long) -> Result<OwnedFd> {
    // SAFETY: the callers pass the result of a call that gives a new descriptor, which nobody else has.
    number(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A path for the kernel.
pub fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Forks into new namespaces. `None` in the child. Only for a process with one thread.
pub fn clone(flags: c_int) -> Result<Option<(i32, OwnedFd)>> {
    let mut pidfd: c_int = -1;
    // SAFETY: all fields of the structure are numbers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without a stack of its own the child goes on here with a copy of everything, as after fork; the one thread
    // holds no lock of libc's.
    let child = number(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) })?;
    if child == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has put a new descriptor there.
    Ok(Some((child, unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// Forks. `None` in the child. Only for a process with one thread, or for one that knows what it does.
pub fn fork() -> Result<Option<i32>> {
    // SAFETY: the caller's process has one thread, or is a test, whose child then uses locks of libc's only, which are free.
    let child = unsafe { libc::fork() };
    done(child).map(|()| (child != 0).then_some(child))
}

/// Leaves at once.
pub fn exit(code: c_int) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

pub fn unshare(flags: c_int) -> Result {
    // SAFETY: takes a number.
    done(unsafe { libc::unshare(flags) })
}

/// Goes into that namespace.
pub fn join(namespace: OwnedFd) -> Result {
    // SAFETY: takes numbers.
    done(unsafe { libc::setns(namespace.as_raw_fd(), 0) })
}

/// What is mounted at a path, with all below, as a mount of its own; nothing in it grants rights.
pub fn open_tree(path: &Path, write: bool) -> Result<OwnedFd> {
    let path = text(path)?;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a C string.
    let tree = owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    set_attributes(&tree, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | if write { 0 } else { MOUNT_ATTR_RDONLY }, AT_RECURSIVE)?;
    Ok(tree)
}

/// A device file of the host, as a mount of its own.
pub fn open_device(path: &Path) -> Result<OwnedFd> {
    let path = text(path)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a C string.
    let tree = owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    set_attributes(&tree, MOUNT_ATTR_NOSUID, 0)?;
    Ok(tree)
}

fn set_attributes(tree: &OwnedFd, set: u64, flags: c_uint) -> Result {
    let attributes = MountAttributes { set, clear: 0, propagation: 0, user_namespace: 0 };
    let flags = flags | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: the structure is what the kernel takes, and its size is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    number(result).map(drop)
}

/// Makes the mount at the root read-only.
pub fn read_only_root() -> Result {
    // SAFETY: opens a folder.
    let root = owned(c_long::from(unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }))?;
    set_attributes(&root, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0)
}

/// Puts an open tree to its place.
pub fn attach(tree: &OwnedFd, at: &Path) -> Result {
    let at = text(at)?;
    // SAFETY: both paths are C strings.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, at.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
    };
    number(result).map(drop)
}

pub fn mount(kind: &CStr, at: &Path, flags: u64, data: &str) -> Result {
    let at = text(at)?;
    let data = text(Path::new(data))?;
    // SAFETY: all are C strings.
    done(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) })
}

/// What happens to mounts here happens nowhere else.
pub fn keep_mounts_private() -> Result {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: changes how mounts spread, without source, kind or data.
    done(unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
}

/// Makes the current folder the root, and lets go of the old one.
pub fn pivot_here() -> Result {
    // SAFETY: the paths are C strings.
    number(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // SAFETY: the path is a C string; the old root lies over the new one here, and goes.
    done(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    std::env::set_current_dir("/")
}

/// Becomes this user and group, keeping capabilities.
pub fn become_user(id: u32, leave_groups: bool) -> Result {
    // SAFETY: takes numbers, and an empty list. The plain calls, since those of libc want all threads to take part: in a child
    // of a process of several threads they would wait for threads that are not there.
    unsafe {
        if leave_groups {
            number(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        }
        number(libc::syscall(libc::SYS_setresgid, id, id, id))?;
        number(libc::syscall(libc::SYS_setresuid, id, id, id))?;
    }
    Ok(())
}

/// Drops every capability, now and for programs started later.
pub fn drop_rights() -> Result {
    // SAFETY: takes numbers.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: takes numbers. Where there are no ambient capabilities there is nothing to drop.
    let _ = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    for capability in 0..64 {
        // SAFETY: takes numbers. Fails for what does not exist, and where this process has no say.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    let header = [CAPABILITY_VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: the kernel reads two and six numbers.
    number(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}

/// Installs a seccomp filter, for good.
pub fn filter_calls(program: &[Instruction]) -> Result {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        // The kernel reads, and copies, the instructions, which are laid out as it takes them.
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program lives until the call returns.
    number(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Brings up `lo`.
pub fn start_loopback() -> Result {
    // SAFETY: opens a socket.
    let socket = owned(c_long::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }))?;
    // SAFETY: all fields are numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = c_char(b'l');
    request.ifr_name[1] = c_char(b'o');
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: the request is what the kernel takes.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

const fn c_char(byte: u8) -> std::ffi::c_char {
    byte.cast_signed() as std::ffi::c_char
}

/// Version of landlock; 0: none.
#[must_use]
pub fn landlock_version() -> u32 {
    // SAFETY: asks, with nothing to read.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, 1) };
    u32::try_from(version).unwrap_or(0)
}

/// A new set of rules.
pub fn landlock_rules(files: u64, scopes: u64) -> Result<OwnedFd> {
    let attributes = [files, 0, scopes];
    // Kernels take as much of the structure as they know, and more if it is zero.
    let size = if scopes == 0 { size_of::<u64>() } else { size_of_val(&attributes) };
    // SAFETY: the kernel reads so many bytes.
    owned(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), size, 0) })
}

/// Allows some kinds of access to a file, or to all below a folder.
pub fn landlock_allow(rules: &OwnedFd, access: u64, path: &Path) -> Result {
    #[repr(C, packed)]
    struct Beneath {
        access: u64,
        folder: c_int,
    }
    let path = text(path)?;
    // SAFETY: the path is a C string.
    let folder = owned(c_long::from(unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }))?;
    let rule = Beneath { access, folder: folder.as_raw_fd() };
    // SAFETY: 1 says that the rule is of this kind.
    number(unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), 1, &raw const rule, 0) }).map(drop)
}

/// Obeys the rules, for good.
pub fn landlock_obey(rules: &OwnedFd) -> Result {
    // SAFETY: takes a descriptor.
    number(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }).map(drop)
}

pub fn set_limit(resource: u32, bytes: u64) -> Result {
    // SAFETY: all fields are numbers.
    let mut now: libc::rlimit64 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in one structure.
    done(unsafe { libc::getrlimit64(resource as _, &raw mut now) })?;
    let wanted = bytes.min(now.rlim_max);
    let limit = libc::rlimit64 { rlim_cur: wanted, rlim_max: wanted };
    // SAFETY: the kernel reads one structure.
    done(unsafe { libc::setrlimit64(resource as _, &raw const limit) })
}

/// A process by a descriptor that is readable when it has ended.
pub fn pidfd(process: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })
}

/// Kills the process.
pub fn kill(pidfd: BorrowedFd<'_>) -> Result {
    // SAFETY: takes numbers.
    number(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, std::ptr::null::<u8>(), 0) })
        .map(drop)
}

/// Asks the process to end.
pub fn ask_to_end(pidfd: BorrowedFd<'_>) -> Result {
    // SAFETY: takes numbers.
    number(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGTERM, std::ptr::null::<u8>(), 0) })
        .map(drop)
}

/// Kills a child that has not been reaped.
pub fn kill_process(process: i32) {
    // SAFETY: takes numbers. One that has ended is what was wanted.
    let _ = unsafe { libc::kill(process, libc::SIGKILL) };
}

pub fn kill_group(group: i32) {
    // SAFETY: takes numbers. A group that has ended is what was wanted.
    let _ = unsafe { libc::kill(-group, libc::SIGKILL) };
}

/// Takes one child that has ended: its id, how it ended, and the most memory it held, in bytes.
pub fn reap(wait: bool) -> Option<(i32, i32, u64)> {
    let mut status = 0;
    // SAFETY: all fields are numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = if wait { 0 } else { libc::WNOHANG };
    // SAFETY: the kernel fills in one of each.
    let child = unsafe { libc::wait4(-1, &raw mut status, options, &raw mut usage) };
    (child > 0).then(|| (child, status, u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10))
}

/// Waits for a child by its descriptor.
pub fn reap_one(pidfd: BorrowedFd<'_>) {
    // SAFETY: all fields are numbers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in one structure.
    let _ = unsafe { libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd().cast_unsigned(), &raw mut info, libc::WEXITED) };
}

/// A descriptor that is readable when a child has ended, or when somebody asks this process to end.
pub fn signals() -> Result<OwnedFd> {
    // SAFETY: the set is filled in before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        done(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        owned(c_long::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))
    }
}

/// Takes the signals that have come; whether one of them was a wish to end.
pub fn is_told_to_end(signals: &OwnedFd) -> bool {
    let mut told = false;
    loop {
        // SAFETY: all fields are numbers.
        let mut signal: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel fills in at most one structure.
        let read = unsafe { libc::read(signals.as_raw_fd(), (&raw mut signal).cast(), size) };
        if read <= 0 {
            return told;
        }
        told |= signal.ssi_signo == libc::SIGTERM.cast_unsigned();
    }
}

/// Waits until one of the descriptors can be read, or has ended. Tells which.
pub fn wait_readable<const N: usize>(descriptors: [BorrowedFd<'_>; N]) -> Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the kernel reads and writes so many structures.
        match done(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) }) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(polled.map(|fd| fd.revents != 0)),
        }
    }
}

/// As [`wait_readable`], for at most so long.
pub fn wait_readable_until<const N: usize>(descriptors: [BorrowedFd<'_>; N], deadline: std::time::Instant) -> Result<[bool; N]> {
    let mut polled = descriptors.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now()).as_millis();
        // Rounded up, or the last fraction would be spent in a busy loop.
        let left = c_int::try_from(left).unwrap_or(c_int::MAX - 1) + 1;
        // SAFETY: the kernel reads and writes so many structures.
        match unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, left) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINTR) => {}
                error => return Err(error),
            },
            _ => return Ok(polled.map(|fd| fd.revents != 0)),
        }
    }
}

/// Back to how a program expects signals: all as usual, none held back.
pub fn usual_signals() {
    // SAFETY: sets the default for every signal; those that cannot be set are refused.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Who writes where nobody reads any more gets an error instead of a signal, as programs in Rust do.
pub fn ignore_broken_pipes() {
    // SAFETY: ignores a signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Children that end leave nothing to be waited for.
pub fn forget_children() {
    // SAFETY: ignores a signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Children that end are waited for.
pub fn remember_children() {
    // SAFETY: the default for a signal.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// A session of its own, away from any terminal.
pub fn own_session() {
    // SAFETY: takes nothing. It fails for the leader of a group, which a new process is not.
    let _ = unsafe { libc::setsid() };
}

/// Orphans below become children of this process.
pub fn adopt_orphans() {
    // SAFETY: takes numbers.
    let _ = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Nobody may look into this process.
pub fn hide_memory() {
    // SAFETY: takes numbers.
    let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Those who may look into this process may do so again.
pub fn show_memory() {
    // SAFETY: takes numbers.
    let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// Names this thread, for those who look at processes.
pub fn set_name(name: &CStr) {
    // SAFETY: the name is a C string, of which the kernel takes 15 bytes.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Lets go of what is mounted there.
pub fn let_go(path: &Path) -> Result {
    let path = text(path)?;
    // SAFETY: the path is a C string.
    done(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) })
}

/// Limits another process, which this one could have limited before it was another.
pub fn set_limit_of(process: i32, resource: u32, bytes: u64) -> Result {
    // SAFETY: all fields are numbers.
    let mut now: libc::rlimit64 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in one structure.
    done(unsafe { libc::prlimit64(process, resource as _, std::ptr::null(), &raw mut now) })?;
    let wanted = bytes.min(now.rlim_max);
    let limit = libc::rlimit64 { rlim_cur: wanted, rlim_max: wanted };
    // SAFETY: the kernel reads one structure.
    done(unsafe { libc::prlimit64(process, resource as _, &raw const limit, std::ptr::null_mut()) })
}

/// This process.
#[must_use]
pub fn own_id() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::getpid() }
}

/// Puts `descriptor` in the place of `target`, to be kept across exec.
pub fn place(descriptor: BorrowedFd<'_>, target: c_int) -> Result {
    // SAFETY: takes numbers. What was open there is closed.
    done(unsafe { libc::dup2(descriptor.as_raw_fd(), target) })
}

/// Closes all descriptors from `first` on when a program is executed.
pub fn close_at_execution(first: u32) -> Result {
    // SAFETY: takes numbers.
    number(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes these descriptors, whoever has them.
pub fn close_between(first: u32, last: u32) -> Result {
    // SAFETY: only for a process that uses none of them afterwards.
    number(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// A copy of the descriptor with at least this number.
pub fn move_up(descriptor: BorrowedFd<'_>, least: c_int) -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(c_long::from(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) }))
}

/// Executes a program in the place of this one. Returns only if that fails.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const std::ffi::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with null and point to C strings.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// The environment of this process from now on. It has one thread.
pub fn set_environment(variables: &[(String, String)]) {
    // SAFETY: nobody else reads or changes the environment of a process with one thread.
    unsafe {
        for (name, _) in std::env::vars_os() {
            std::env::remove_var(name);
        }
        for (name, value) in variables {
            std::env::set_var(name, value);
        }
    }
}

/// Who runs this: user and group.
#[must_use]
pub fn who() -> (u32, u32) {
    // SAFETY: takes nothing.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// The process that started this one.
#[must_use]
pub fn parent() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::getppid() }
}

/// Two ends of a channel that keeps messages apart.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel fills in two descriptors.
    done(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Room for the descriptors of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends one message with descriptors.
pub fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all fields are numbers and pointers, set below.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let length = u32::try_from(size_of_val(descriptors)).map_err(io::Error::other)?;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: the macros compute sizes and places within `control`, which has room for 12 descriptors.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as usize;
            assert!(message.msg_controllen <= size_of::<Control>(), "an order carries few descriptors");
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
            let place = libc::CMSG_DATA(header).cast::<c_int>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                place.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the message points to what lives until the call returns.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match (sent, io::Error::last_os_error()) {
            (-1, error) if error.raw_os_error() == Some(libc::EINTR) => {}
            (-1, error) => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Receives one message and its descriptors. An empty one is the end.
pub fn receive(socket: &OwnedFd, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
    buffer.resize(crate::limits::ORDER_BYTES_MAX, 0);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all fields are numbers and pointers, set below.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    let length = loop {
        // SAFETY: the message points to what lives until the call returns.
        let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match (usize::try_from(got), io::Error::last_os_error()) {
            (Ok(length), _) => break length,
            (Err(_), error) if error.raw_os_error() == Some(libc::EINTR) => {}
            (Err(_), error) => return Err(error),
        }
    };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has written whole headers; each descriptor in them is new and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<c_int>();
                let place = libc::CMSG_DATA(header).cast::<c_int>();
                descriptors.extend((0..count).map(|index| OwnedFd::from_raw_fd(place.add(index).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    buffer.truncate(length);
    Ok(descriptors)
}
