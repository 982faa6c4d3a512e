//! The seccomp filter: a small program for the kernel's BPF machine, made here. Pure.
//!
//! ```text
//! other architecture, or x32 calls ─▶ kill
//! clone with namespaces, unshare, … ─▶ "not permitted"      clone3, whose flags cannot be read ─▶ "no such call"
//! sockets of odd families           ─▶ "no such family"     ioctls that type into terminals    ─▶ "not permitted"
//! everything else                   ─▶ allowed
//! ```
//!
//! A list of what is refused, and not of what is allowed: data libraries use most of the rest, and more with each version.
//! The filter is the second wall. What it refuses mostly needs rights that the function does not have anyway; it keeps the
//! kernel's less trodden paths out of reach.

/// One instruction, as the kernel takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if it holds.
    pub yes: u8,
    /// Instructions to skip if it does not.
    pub no: u8,
    /// A constant.
    pub value: u32,
}

const LOAD: u16 = 0x20;
const IS: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`; of arguments their lower halves, on machines that put those first.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const fn refuse(errno: i32) -> u32 {
    0x0005_0000 | errno.unsigned_abs()
}

#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;

/// Calls of the x32 interface, which the list would miss.
const X32: u32 = 0x4000_0000;

/// Namespaces: cgroup, uts, ipc, user, pid, net, mount, time.
const NAMESPACES: u32 = 0x7e02_0000 | 0x80;

/// Families a function may open sockets of: unix, IPv4, IPv6, and netlink, by which libc lists the network's devices.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

/// Requests that type into, or paste from, a terminal: `TIOCSTI`, `TIOCLINUX`.
const TERMINAL_REQUESTS: [u32; 2] = [0x5412, 0x541c];

/// Calls that are refused, whatever their arguments.
const REFUSED: &[libc::c_long] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Files by handle, past every folder.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
    libc::SYS_memfd_secret,
    libc::SYS_nfsservctl,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Clocks and names of the machine.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[libc::c_long] = &[];

/// The filter. With `no_sockets` no socket can be opened at all, except pairs; with `joins` a namespace may be joined.
#[must_use]
pub fn program(no_sockets: bool, joins: bool) -> Vec<Instruction> {
    let mut program =
        vec![load(ARCHITECTURE), when(IS, OURS, 1, 0), end(KILL), load(NUMBER), when(AT_LEAST, X32, 0, 1), end(KILL)];
    for &call in REFUSED.iter().chain(REFUSED_HERE).filter(|call| !joins || **call != libc::SYS_setns) {
        program.extend([when(IS, number(call), 0, 1), end(refuse(libc::EPERM))]);
    }
    program.extend([when(IS, number(libc::SYS_clone3), 0, 1), end(refuse(libc::ENOSYS))]);
    program.extend([
        when(IS, number(libc::SYS_clone), 0, 4),
        load(argument(0)),
        when(ANY_BIT, NAMESPACES, 0, 1),
        end(refuse(libc::EPERM)),
        end(ALLOW),
    ]);
    program.extend([
        when(IS, number(libc::SYS_ioctl), 0, 5),
        load(argument(1)),
        when(IS, TERMINAL_REQUESTS[0], 1, 0),
        when(IS, TERMINAL_REQUESTS[1], 0, 1),
        end(refuse(libc::EPERM)),
        end(ALLOW),
    ]);
    if no_sockets {
        program.extend([when(IS, number(libc::SYS_socket), 0, 1), end(refuse(libc::EACCES))]);
    } else {
        program.extend([when(IS, number(libc::SYS_socket), 0, 6), load(argument(0))]);
        for (behind, family) in FAMILIES.iter().enumerate() {
            let to_allow = u8::try_from(FAMILIES.len() - behind).expect("there are four");
            program.push(when(IS, *family, to_allow, 0));
        }
        program.push(end(refuse(libc::EAFNOSUPPORT)));
    }
    program.push(end(ALLOW));
    program
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("numbers of calls are small")
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, yes: 0, no: 0, value: offset }
}

const fn when(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

const fn end(value: u32) -> Instruction {
    Instruction { code: RETURN, yes: 0, no: 0, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: it runs the program as the kernel's machine does.
    fn answer(program: &[Instruction], architecture: u32, call: u32, arguments: [u64; 2]) -> u32 {
        let mut data = vec![0; 64];
        data[..4].copy_from_slice(&call.to_le_bytes());
        data[4..8].copy_from_slice(&architecture.to_le_bytes());
        for (index, value) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&value.to_le_bytes());
        }
        let (mut at, mut held) = (0, 0);
        loop {
            let Instruction { code, yes, no, value } = program[at];
            let skip = |holds: bool| usize::from(if holds { yes } else { no });
            at += 1 + match code {
                LOAD => {
                    let offset = value as usize;
                    held = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
                    0
                }
                IS => skip(held == value),
                AT_LEAST => skip(held >= value),
                ANY_BIT => skip(held & value != 0),
                RETURN => return value,
                other => panic!("no such instruction: {other}"),
            };
        }
    }

    fn ours(no_sockets: bool, call: libc::c_long, arguments: [u64; 2]) -> u32 {
        answer(&program(no_sockets, false), OURS, number(call), arguments)
    }

    #[test]
    fn calls_are_refused_or_allowed() {
        let not_permitted = refuse(libc::EPERM);
        for &call in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(ours(false, call, [0, 0]), not_permitted, "{call}");
        }
        for call in [libc::SYS_read, libc::SYS_mmap, libc::SYS_execve, libc::SYS_memfd_create, libc::SYS_futex, libc::SYS_sendmsg]
        {
            assert_eq!(ours(true, call, [0, 0]), ALLOW, "{call}");
        }
        assert_eq!(ours(false, libc::SYS_clone3, [0, 0]), refuse(libc::ENOSYS));
        assert_eq!(answer(&program(false, false), 0x4000_0003, number(libc::SYS_read), [0, 0]), KILL, "32 bits");
        assert_eq!(answer(&program(false, false), OURS, X32 + 1, [0, 0]), KILL);
    }

    #[test]
    fn arguments_decide() {
        for namespace in [0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
            assert_eq!(ours(false, libc::SYS_clone, [namespace | 17, 0]), refuse(libc::EPERM), "{namespace:x}");
        }
        assert_eq!(ours(false, libc::SYS_clone, [0x003d_0f00, 0]), ALLOW, "a thread");
        for request in TERMINAL_REQUESTS {
            assert_eq!(ours(false, libc::SYS_ioctl, [0, request.into()]), refuse(libc::EPERM));
        }
        assert_eq!(ours(false, libc::SYS_ioctl, [0, 0x5401]), ALLOW);
        for family in 0..50 {
            let expected = if FAMILIES.contains(&family) { ALLOW } else { refuse(libc::EAFNOSUPPORT) };
            assert_eq!(ours(false, libc::SYS_socket, [family.into(), 0]), expected, "{family}");
            assert_eq!(ours(true, libc::SYS_socket, [family.into(), 0]), refuse(libc::EACCES), "{family}");
        }
        assert_eq!(ours(true, libc::SYS_socketpair, [1, 0]), ALLOW);
    }

    #[test]
    fn a_zygote_may_join_and_nothing_else() {
        for &call in REFUSED.iter().chain(REFUSED_HERE) {
            let expected = if call == libc::SYS_setns { ALLOW } else { refuse(libc::EPERM) };
            assert_eq!(answer(&program(false, true), OURS, number(call), [0, 0]), expected, "{call}");
        }
    }

    #[test]
    fn jumps_stay_inside_and_the_end_is_an_answer() {
        for no_sockets in [false, true] {
            let program = program(no_sockets, false);
            assert!(program.len() < 4096);
            for (at, instruction) in program.iter().enumerate() {
                assert!(at + usize::from(instruction.yes.max(instruction.no)) + 1 <= program.len());
            }
            assert_eq!(program.last().unwrap().code, RETURN);
        }
    }
}
