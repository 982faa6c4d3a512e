//! Tests. The pure part is in `pure`; the rest runs in processes of its own, because an arena is one per
//! process: each such test starts this binary again, for itself alone and on the main thread, and its body runs there.
//!
//! `cargo xtask sanitize address` and `cargo xtask sanitize thread` run all of it under a sanitizer.

use std::os::fd::AsRawFd;
use std::process::Command;

mod pure;

use crate::{Allocator, Arena, Found, Served, Settings, Statistics, maps, of_process};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const MIB: usize = 1 << 20;
const VARIABLE: &str = "FOREBAY_ARENA_TEST";

/// Runs `body` in a process of its own, with an arena.
fn alone(name: &str, settings: Settings, body: impl FnOnce(Arena)) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == name) {
        assert!(crate::start(&settings));
        body(of_process().unwrap());
        return;
    }
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", &format!("tests::{name}"), "--test-threads=1", "--nocapture"];
    let output = Command::new(program).args(arguments).env(VARIABLE, name).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{name}: {}\n{told}", output.status);
}

/// The same on the only thread of a process: in a forked child of it.
fn alone_in_one_thread(name: &str, body: impl FnOnce(Arena)) {
    alone(name, Settings::default(), |arena| {
        let mut run = Some(|| body(arena));
        let child = in_child(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.take().map(|run| run()))).is_ok());
        assert!(succeeded(child));
    });
}

/// Runs `body` in a forked child; it must return `true`.
fn in_child(body: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs `body`, which uses memory and system calls only, and exits.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(i32::from(!body())),
            child => child,
        }
    }
}

fn succeeded(child: i32) -> bool {
    let mut status = -1;
    // SAFETY: the kernel fills `status`.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    status == 0
}

fn here(arena: Arena, bytes: &[u8]) -> (u32, u64) {
    match arena.find(bytes) {
        Found::Here { generation, offset } => (generation, offset),
        other => panic!("{other:?}"),
    }
}

/// What the file has where these bytes are.
fn in_file(arena: Arena, bytes: &[u8]) -> Vec<u8> {
    let (generation, offset) = here(arena, bytes);
    let file = arena.descriptor(generation).unwrap();
    let mut read = vec![0; bytes.len()];
    // SAFETY: `read` has room for its length.
    let count = unsafe { libc::pread(file.as_raw_fd(), read.as_mut_ptr().cast(), read.len(), offset as i64) };
    assert_eq!(count as usize, bytes.len());
    read
}

fn map(bytes: usize) -> &'static mut [u8] {
    let Served::At(at) = maps::map(bytes, libc::PROT_READ | libc::PROT_WRITE, false) else { panic!("not served") };
    // SAFETY: a fresh map, readable and writable, that nobody else knows.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, bytes) }
}

fn range(bytes: &[u8]) -> std::ops::Range<usize> {
    bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len()
}

// ------------------------------------------------------------------------------------------------ in processes of their own

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn large_blocks_are_in_the_file() {
    alone("large_blocks_are_in_the_file", Settings::default(), |arena| {
        let mut block = vec![7u8; MIB];
        assert_eq!(in_file(arena, &block), block);
        block[100] = 9;
        assert_eq!(in_file(arena, &block[100..101]), [9]);
        let (generation, offset) = here(arena, &block);
        assert_eq!(here(arena, &block[5..]), (generation, offset + 5));
        assert_eq!(arena.find(&vec![0u8; 100]), Found::Elsewhere);
        assert!(arena.descriptor(generation + 1).is_err());
        assert!(arena.statistics().live_bytes >= MIB as u64);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn fresh_memory_comes_in_huge_pages_where_the_kernel_gives_them() {
    alone("fresh_memory_comes_in_huge_pages_where_the_kernel_gives_them", Settings::default(), |arena| {
        let huge = |wanted: usize| if crate::gives_huge_pages() { wanted as u64 } else { 0 };
        let large = vec![1u8; 20 * MIB + 300_000];
        assert_eq!(arena.statistics().huge_bytes, huge(20 * MIB), "not the last one: less than half of it is used");
        let mut growing = Vec::<u8>::with_capacity(3 * MIB);
        growing.resize(3 * MIB, 3);
        growing.reserve_exact(6 * MIB);
        growing.resize(9 * MIB, 3);
        assert!(arena.statistics().huge_bytes >= huge(20 * MIB), "more, unless the kernel was slow: then these went without");
        let sparse = vec![0u8; 512 * MIB];
        let map = map(1 << 30);
        assert!(arena.statistics().huge_bytes < 64 * MIB as u64, "what may be sparse comes as it is touched");
        assert!(arena.statistics().held_bytes < 64 * MIB as u64);
        assert!(growing.iter().all(|&byte| byte == 3) && large.iter().all(|&byte| byte == 1));
        assert!(sparse[9 * MIB..30 * MIB].iter().all(|&byte| byte == 0) && map[5] == 0);
        maps::unmap(range(map));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn blocks_of_a_few_megabytes_share_huge_pages() {
    alone("blocks_of_a_few_megabytes_share_huge_pages", Settings::default(), |arena| {
        let mut blocks = Vec::new();
        for number in 0..80_u8 {
            blocks.push(vec![number; 1_700_000]);
            let now = arena.statistics();
            // The last huge page of each shard is begun, too.
            let begun = crate::space::shard_count() as usize * 2 * MIB;
            assert!(now.held_bytes <= now.live_bytes + (now.live_bytes / 4).min(12 * MIB as u64) + begun as u64, "{now:?}");
        }
        // However slow the kernel is, half of 130 MiB are worth it; but it may run out of them.
        let wanted = if crate::gives_huge_pages() { 16 * MIB as u64 } else { 0 };
        assert!(arena.statistics().huge_bytes >= wanted, "{:?}", arena.statistics());
        // Ahead memory is for whoever comes next, and reads as zeros.
        assert!(vec![0u8; 12 * MIB].iter().all(|&byte| byte == 0));
        assert!((0..).zip(&blocks).all(|(number, block)| block.iter().all(|&byte| byte == number)));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn near_the_limit_only_what_is_touched_counts() {
    let settings = Settings::within(64 * MIB);
    alone("near_the_limit_only_what_is_touched_counts", settings, |arena| {
        let touched = vec![1u8; 40 * MIB];
        let reserved = [23, 20, 20].map(|size| Vec::<u8>::with_capacity(size * MIB));
        assert!(arena.statistics().held_bytes <= 42 * MIB as u64, "what is reserved is not filled for its owner");
        assert_eq!((touched.len(), reserved.len()), (40 * MIB, 3));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn freed_memory_is_recycled_zeroed_on_request_and_given_back_beyond_the_cap() {
    let settings = Settings { keep_bytes: 8 * MIB, ..Settings::default() };
    alone("freed_memory_is_recycled_zeroed_on_request_and_given_back_beyond_the_cap", settings, |arena| {
        drop(vec![1u8; 4 * MIB]);
        assert_eq!(arena.statistics().dirty_bytes, 4 * MIB as u64);
        let zeros = vec![0u8; 4 * MIB];
        assert!(arena.statistics().recycled >= 1 && zeros.iter().all(|&byte| byte == 0));
        drop(zeros);
        let many: Vec<_> = (0..10).map(|_| vec![1u8; 2 * MIB]).collect();
        drop(many);
        let now = arena.statistics();
        assert!(now.dirty_bytes <= 8 * MIB as u64 && now.punched_bytes >= 12 * MIB as u64, "{now:?}");
        assert_eq!((now.live_bytes, now.held_bytes <= 8 * MIB as u64), (0, true), "{now:?}");
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn a_growing_block_stays_where_it_is() {
    alone("a_growing_block_stays_where_it_is", Settings::default(), |arena| {
        let mut bytes: Vec<u8> = Vec::with_capacity(MIB);
        let mut moves = 0;
        let mut address = bytes.as_ptr();
        for number in 0..64 * MIB {
            bytes.push(number as u8);
            moves += usize::from(bytes.as_ptr() != address);
            address = bytes.as_ptr();
        }
        assert!(moves <= 4, "{moves} moves");
        assert!(bytes.iter().enumerate().all(|(number, &byte)| byte == number as u8));
        bytes.truncate(MIB);
        bytes.shrink_to_fit();
        assert!(arena.statistics().live_bytes < 2 * MIB as u64);
        assert!(bytes.iter().enumerate().all(|(number, &byte)| byte == number as u8));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn parent_and_child_do_not_see_each_others_writes() {
    alone("parent_and_child_do_not_see_each_others_writes", Settings::default(), |arena| {
        let mut block = vec![1u8; MIB];
        let (mut from_child, mut to_child) = pipes();
        let child = in_child(|| {
            to_child.wait();
            let unseen = block.iter().all(|&byte| byte == 1);
            block.fill(2);
            let own = vec![3u8; MIB];
            from_child.post();
            to_child.wait();
            let kept = block.iter().all(|&byte| byte == 2) && in_file(arena, &own) == own;
            unseen && kept && arena.find(&block) == Found::Elsewhere
        });
        block[..MIB / 2].fill(4);
        assert_eq!(arena.find(&block), Found::Rewritten);
        assert_eq!(in_file(arena, &block[MIB / 2..]), vec![1u8; MIB / 2]);
        let early = vec![5u8; MIB];
        assert_ne!(here(arena, &early).0, here(arena, &block[MIB / 2..]).0, "a child is left: a new generation");
        to_child.post();
        from_child.wait();
        assert!(block[..MIB / 2].iter().all(|&byte| byte == 4) && block[MIB / 2..].iter().all(|&byte| byte == 1));
        drop(block);
        let late = vec![6u8; MIB];
        to_child.post();
        assert!(succeeded(child));
        assert_eq!((in_file(arena, &early), in_file(arena, &late)), (vec![5; MIB], vec![6; MIB]));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn memory_thaws_when_the_last_grandchild_is_gone() {
    alone_in_one_thread("memory_thaws_when_the_last_grandchild_is_gone", |arena| {
        let mut block = vec![1u8; MIB];
        let generation = here(arena, &block).0;
        assert!(succeeded(in_child(|| vec![2u8; MIB][0] == 2)));
        block[..8192].fill(3);
        assert_eq!(arena.find(&block), Found::Rewritten);
        let next = vec![4u8; MIB];
        assert_eq!((here(arena, &next).0, in_file(arena, &block)), (generation, block.clone()));
        assert_eq!((arena.statistics().freezes, arena.statistics().thaws), (1, 1));

        let (mut done, mut go) = pipes();
        let child = in_child(|| {
            in_child(|| {
                go.wait();
                done.post();
                true
            }) > 0
        });
        assert!(succeeded(child));
        let other = vec![5u8; MIB];
        assert_ne!(here(arena, &other).0, generation, "a grandchild is left");
        go.post();
        done.wait();
        assert_eq!(arena.statistics().thaws, 1);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn generations_are_used_again() {
    alone("generations_are_used_again", Settings::default(), |arena| {
        let (_done, mut go) = pipes();
        let mut children = Vec::new();
        for round in 0..200 {
            let block = vec![round as u8; MIB];
            children.push(in_child(|| {
                go.wait();
                block[MIB - 1] == round as u8
            }));
            // Kept beyond the fork, gone before the one after the next.
            let _next = vec![1u8; MIB];
        }
        assert!(arena.statistics().generations > 128, "{:?}", arena.statistics());
        for _ in &children {
            go.post();
        }
        assert!(children.into_iter().all(succeeded));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn more_forks_than_generations_pass_through() {
    alone("more_forks_than_generations_pass_through", Settings::default(), |arena| {
        let (_done, mut go) = pipes();
        let mut blocks = Vec::new();
        let mut children = Vec::new();
        for round in 0..80u8 {
            blocks.push(vec![round; MIB]);
            children.push(in_child(|| {
                go.wait();
                blocks.iter().enumerate().all(|(number, block)| block.iter().all(|&byte| byte == number as u8))
            }));
        }
        let now = arena.statistics();
        assert!(now.passed_through > 0 && now.generations == 64, "{now:?}");
        assert_eq!(arena.find(&blocks[79]), Found::Elsewhere);
        for _ in &children {
            go.post();
        }
        assert!(children.into_iter().all(succeeded));
        blocks.clear();
        let again = vec![1u8; MIB];
        assert_eq!(in_file(arena, &again), again);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn what_is_freed_after_a_fork_goes_back_when_no_child_is_left() {
    let settings = Settings { limit_bytes: 256 * MIB, keep_bytes: MIB, ..Settings::default() };
    alone("what_is_freed_after_a_fork_goes_back_when_no_child_is_left", settings, |arena| {
        let kept = vec![1u8; MIB];
        let large = [vec![2u8; 70 * MIB], vec![3u8; 40 * MIB], vec![4u8; 20 * MIB]];
        let (_, mut go) = pipes();
        let child = in_child(|| {
            go.wait();
            (2..).zip(&large).all(|(mark, block)| block.iter().all(|&byte| byte == mark))
        });
        let other = vec![5u8; MIB];
        assert_ne!(here(arena, &other).0, here(arena, &kept).0);
        let [first, second, third] = large;
        drop(first);
        assert!(arena.statistics().held_bytes >= 130 * MIB as u64, "the child still sees it");
        assert!(Vec::<u8>::new().try_reserve_exact(200 * MIB).is_err());
        go.post();
        assert!(succeeded(child));
        // Asked for under the limit, or when enough was freed.
        assert!(Vec::<u8>::new().try_reserve_exact(180 * MIB).is_ok());
        assert!(arena.statistics().held_bytes < 70 * MIB as u64);
        drop(second);
        assert!(third.iter().all(|&byte| byte == 4) && kept.iter().all(|&byte| byte == 1));
        assert_eq!(in_file(arena, &kept), kept);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn beyond_the_limit_requests_are_refused_and_kept_memory_is_given_back_first() {
    let settings = Settings { keep_bytes: 40 * MIB, ..Settings::within(64 * MIB) };
    alone("beyond_the_limit_requests_are_refused_and_kept_memory_is_given_back_first", settings, |arena| {
        let refused = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_err();
        assert!(refused(65 * MIB) && !refused(60 * MIB));
        drop(vec![1u8; 40 * MIB]);
        assert_eq!(arena.statistics().dirty_bytes, 40 * MIB as u64);
        let half = vec![1u8; 41 * MIB];
        assert!(arena.statistics().held_bytes <= 64 * MIB as u64);
        assert!(refused(30 * MIB) && !refused(20 * MIB));
        let mut grown = vec![1u8; MIB];
        assert!(grown.try_reserve_exact(30 * MIB).is_err());
        drop(half);
        assert!(grown.try_reserve_exact(30 * MIB).is_ok());
        assert!(arena.statistics().refused >= 3);
        // Addresses are no memory.
        assert!(matches!(maps::map(1 << 30, libc::PROT_NONE, false), Served::At(_)));
        assert_eq!(maps::map(1 << 30, libc::PROT_READ | libc::PROT_WRITE, false), Served::Refused);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn maps_behave_as_the_kernels_do() {
    alone("maps_behave_as_the_kernels_do", Settings::default(), |arena| {
        let wide = map(40 * MIB);
        assert_eq!(wide.as_ptr() as usize % (64 * MIB), 0);
        wide.fill(1);
        assert_eq!(in_file(arena, &wide[..MIB]), vec![1; MIB]);
        // Zeros come back, not the old bytes.
        assert_eq!(maps::advise(range(&wide[MIB..2 * MIB]), libc::MADV_DONTNEED), Some(true));
        assert!(wide[MIB..2 * MIB].iter().all(|&byte| byte == 0) && wide[MIB - 1] == 1 && wide[2 * MIB] == 1);
        // A hole, odd pages included; the parts around it live on.
        maps::unmap(range(&wide[4 * MIB + 4096..6 * MIB + 8192]));
        assert!(wide[..4 * MIB + 4096][3 * MIB..].iter().all(|&byte| byte == 1) && wide[6 * MIB + 8192] == 1);
        // Decommit and commit by MAP_FIXED, and through a closed door.
        assert!(maps::protect(wide.as_ptr() as usize, MIB, libc::PROT_NONE));
        assert_eq!(maps::advise(range(&wide[..MIB]), libc::MADV_DONTNEED), Some(true));
        assert!(matches!(maps::fixed(range(&wide[..MIB]), libc::PROT_READ | libc::PROT_WRITE, true), maps::Fixed::Done));
        assert!(wide[..MIB].iter().all(|&byte| byte == 0));
        wide[..MIB].fill(8);
        assert_eq!(in_file(arena, &wide[..MIB]), vec![8; MIB]);
        maps::unmap(range(wide));
        assert_eq!(arena.statistics().live_bytes, 0, "odd pages hold no unit");
        let used = map(4 * MIB);
        assert!(used.iter().all(|&byte| byte == 0));
        used.fill(3);
        let at = used.as_ptr() as usize;
        assert_eq!(maps::remap(at, 4 * MIB, 3 * MIB, false), Served::At(at));
        // What has one protection moves with it; what has several does not.
        assert!(maps::protect(at, MIB, libc::PROT_NONE));
        assert_eq!(maps::remap(at, 3 * MIB, 9 * MIB, true), Served::Elsewhere);
        assert!(maps::protect(at, 3 * MIB, libc::PROT_NONE));
        let Served::At(moved) = maps::remap(at, 3 * MIB, 9 * MIB, true) else { panic!("not moved") };
        assert!(maps::protect(moved, 9 * MIB, libc::PROT_READ));
        // SAFETY: the map that was just made, and is readable now.
        let moved = unsafe { std::slice::from_raw_parts(moved as *const u8, 9 * MIB) };
        assert!(moved[..3 * MIB].iter().all(|&byte| byte == 3) && moved[3 * MIB..].iter().all(|&byte| byte == 0));
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn a_map_moves_with_its_bytes() {
    alone("a_map_moves_with_its_bytes", Settings::default(), |_| {
        let used = map(3 * MIB);
        used.fill(3);
        let Served::At(at) = maps::remap(used.as_ptr() as usize, 3 * MIB, 9 * MIB, true) else { panic!("not moved") };
        // SAFETY: the map that was just made.
        let moved = unsafe { std::slice::from_raw_parts(at as *const u8, 9 * MIB) };
        assert!(moved[..3 * MIB].iter().all(|&byte| byte == 3) && moved[3 * MIB..].iter().all(|&byte| byte == 0));
        maps::unmap(range(moved));
        assert_eq!(of_process().unwrap().statistics().live_bytes, 0);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn what_stands_over_our_addresses_is_not_the_files() {
    alone("what_stands_over_our_addresses_is_not_the_files", Settings::default(), |arena| {
        let bytes = map(8 * MIB);
        bytes.fill(1);
        let over = range(&bytes[2 * MIB..3 * MIB]);
        // Not anonymous: the kernel's, and marked.
        assert!(matches!(maps::fixed(over.clone(), libc::PROT_READ, false), maps::Fixed::Kernel));
        assert_eq!(arena.find(&bytes[2 * MIB..3 * MIB]), Found::Rewritten);
        assert_eq!(arena.find(&bytes[..3 * MIB]), Found::Rewritten);
        here(arena, &bytes[..2 * MIB]);
        maps::unmap(range(bytes));
        let again = map(8 * MIB);
        again.fill(2);
        assert_eq!(in_file(arena, again), again);
        // In a frozen window zeros are not the file's bytes either.
        assert!(succeeded(in_child(|| true)));
        assert_eq!(maps::advise(range(&again[..MIB]), libc::MADV_DONTNEED), Some(true));
        assert!(again[..MIB].iter().all(|&byte| byte == 0) && again[MIB] == 2);
        assert_eq!(arena.find(&again[..MIB]), Found::Rewritten);
        assert_eq!(in_file(arena, &again[MIB..]), &again[MIB..]);
        let next = vec![1u8; MIB];
        assert_ne!(here(arena, &next).0, here(arena, &again[MIB..]).0, "replaced pages are not thawed");
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn a_freeze_keeps_protections() {
    alone("a_freeze_keeps_protections", Settings::default(), |_| {
        let bytes = map(8 * MIB);
        bytes.fill(1);
        assert!(maps::protect(bytes.as_ptr() as usize + MIB, MIB, libc::PROT_READ));
        assert!(maps::protect(bytes.as_ptr() as usize + 4 * MIB, 4096, libc::PROT_NONE));
        assert!(succeeded(in_child(|| bytes[MIB] == 1)));
        let told = std::fs::read_to_string("/proc/self/maps").unwrap();
        for (offset, letters) in [(0, "rw-p"), (MIB, "r--p"), (2 * MIB, "rw-p"), (4 * MIB, "---p"), (4 * MIB + 4096, "rw-p")] {
            let start = format!("{:x}-", bytes.as_ptr() as usize + offset);
            let line = told.lines().find(|line| line.starts_with(&start)).unwrap();
            assert!(line.contains(letters) && line.contains("memfd:forebay-arena"), "{line}");
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn a_descriptor_that_is_not_ours_any_more_is_not_given_out() {
    alone("a_descriptor_that_is_not_ours_any_more_is_not_given_out", Settings::default(), |arena| {
        let block = vec![1u8; MIB];
        let generation = here(arena, &block).0;
        let file = crate::descriptors().next().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the descriptor is not used by anybody but the arena, whose mistrust is tested.
        assert!(unsafe { libc::dup2(null.as_raw_fd(), file as i32) } >= 0);
        assert!(arena.descriptor(generation).is_err());
        assert!(arena.statistics().held_bytes == 0);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn after_retiring_the_file_can_be_sealed_while_threads_run_on() {
    alone("after_retiring_the_file_can_be_sealed_while_threads_run_on", Settings::default(), |_| {
        let child = in_child(|| {
            let arena = of_process().unwrap();
            let mut block = vec![7u8; 4 * MIB];
            let (generation, offset) = here(arena, &block);
            let file = arena.descriptor(generation).unwrap();
            // SAFETY: numbers only.
            let seal = || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) } == 0;
            assert!(!seal(), "it is mapped for writing");
            let (mut go, mut done) = pipes();
            let at = block.as_mut_ptr() as usize;
            std::thread::spawn(move || {
                go.wait();
                // SAFETY: the block lives as long as the process, and the other thread reads this byte after the bell.
                unsafe { (at as *mut u8).write(9) };
                done.post();
            });
            assert!(arena.retire());
            assert!(seal());
            go.post();
            done.wait();
            let mut read = [0u8; 2];
            // SAFETY: `read` has room for two bytes.
            assert_eq!(unsafe { libc::pread(file.as_raw_fd(), read.as_mut_ptr().cast(), 2, offset as i64) }, 2);
            // SAFETY: the process ends with its memory held: to free it would wait for ever.
            unsafe { libc::_exit(i32::from(block[0] != 9 || read != [7, 7])) }
        });
        assert!(succeeded(child));
    });
}

// ------------------------------------------------------------------------------------------------ stress

/// Two pipes: one to, one from a child.
fn pipes() -> (Bell, Bell) {
    (Bell::new(), Bell::new())
}

/// A pipe: a byte written wakes one reader.
#[derive(Clone, Copy)]
struct Bell {
    read: i32,
    write: i32,
}

impl Bell {
    fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        Self { read: ends[0], write: ends[1] }
    }

    fn post(&mut self) {
        // SAFETY: one byte.
        assert_eq!(unsafe { libc::write(self.write, [0u8].as_ptr().cast(), 1) }, 1);
    }

    fn wait(&mut self) {
        // SAFETY: room for one byte.
        assert_eq!(unsafe { libc::read(self.read, [0u8].as_mut_ptr().cast(), 1) }, 1);
    }
}

/// Blocks of one thread, filled so that any mix-up shows.
struct Hoard {
    random: u64,
    blocks: Vec<(Vec<u64>, u64)>,
    maps: Vec<(&'static mut [u8], u64)>,
}

impl Hoard {
    fn new(seed: u64) -> Self {
        Self { random: seed * 0x9e37_79b9_7f4a_7c15 + 1, blocks: Vec::new(), maps: Vec::new() }
    }

    fn next(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    fn words(&mut self) -> usize {
        let power = self.next(8);
        (self.next(16 << power) + 1) * 512
    }

    fn fill(block: &mut [u64], mark: u64) {
        for (number, word) in block.iter_mut().enumerate().step_by(64) {
            *word = mark ^ number as u64;
        }
    }

    fn is_whole(block: &[u64], mark: u64) -> bool {
        let wrong = block.iter().enumerate().step_by(64).find(|&(number, &word)| word != mark ^ number as u64);
        told(wrong.is_none(), || format!("block {:p} of {} words: {wrong:x?}, mark {mark:x}", block.as_ptr(), block.len()))
    }

    fn is_filled(bytes: &[u8], byte: u8) -> bool {
        let wrong = bytes.iter().enumerate().step_by(4096).find(|&(_, &found)| found != byte);
        told(wrong.is_none(), || format!("map {:p} of {} bytes: {wrong:x?} instead of {byte:x}", bytes.as_ptr(), bytes.len()))
    }

    fn is_all_whole(&self) -> bool {
        self.blocks.iter().all(|(block, mark)| Self::is_whole(block, *mark))
            && self.maps.iter().all(|(bytes, mark)| Self::is_filled(bytes, *mark as u8))
    }

    fn step(&mut self) -> bool {
        let mark = self.random;
        match self.next(10) {
            0..3 => {
                let length = self.words();
                let mut block = Vec::with_capacity(length);
                block.resize(length, 0);
                Self::fill(&mut block, mark);
                self.blocks.push((block, mark));
            }
            3 => {
                let block = vec![0u64; self.words()];
                let wrong = block.iter().position(|&word| word != 0);
                return told(wrong.is_none(), || format!("zeros {:p} of {} words: {wrong:?}", block.as_ptr(), block.len()));
            }
            4 | 5 if !self.blocks.is_empty() => {
                let (number, length) = (self.next(self.blocks.len()), self.words());
                let (block, mark) = &mut self.blocks[number];
                if block.len() > length {
                    block.truncate(length);
                    block.shrink_to_fit();
                } else {
                    block.reserve_exact(length - block.len());
                    block.resize(length, 0);
                }
                let whole = Self::is_whole(&block[..1], *mark);
                Self::fill(block, *mark);
                return whole;
            }
            6 => {
                let bytes = map((self.next(12) + 2) * MIB + self.next(100) * 4096);
                if !Self::is_filled(bytes, 0) {
                    return false;
                }
                bytes.iter_mut().step_by(4096).for_each(|byte| *byte = mark as u8);
                self.maps.push((bytes, mark));
            }
            7 if !self.maps.is_empty() => return self.cut_a_map(),
            _ if self.blocks.len() > 12 || self.next(3) == 0 && !self.blocks.is_empty() => {
                let number = self.next(self.blocks.len());
                let (block, mark) = self.blocks.swap_remove(number);
                return Self::is_whole(&block, mark);
            }
            _ => {}
        }
        true
    }

    /// Unmaps a map in two parts, or empties some of its pages and unmaps it.
    fn cut_a_map(&mut self) -> bool {
        let number = self.next(self.maps.len());
        let (bytes, mark) = self.maps.swap_remove(number);
        let whole = Self::is_filled(bytes, mark as u8);
        let cut = self.next(bytes.len() / 4096) * 4096;
        let zeros = self.next(bytes.len() / 4096) * 4096;
        maps::advise(range(&bytes[zeros..]), libc::MADV_DONTNEED);
        let zeroed = Self::is_filled(&bytes[zeros..], 0);
        maps::unmap(range(&bytes[..cut]));
        let rest = Self::is_filled(&bytes[cut..zeros.max(cut)], mark as u8);
        maps::unmap(range(&bytes[cut..]));
        whole && zeroed && rest
    }

    fn clear(&mut self) {
        self.blocks.clear();
        self.maps.drain(..).for_each(|(bytes, _)| maps::unmap(range(bytes)));
    }
}

/// Passes `ok` on, and says what is wrong if something is. (A panic would not do in a forked child.)
fn told(ok: bool, what: impl FnOnce() -> String) -> bool {
    if !ok {
        eprintln!("process {}: {}", std::process::id(), what());
    }
    ok
}

fn stress(threads: u64, rounds: usize, forks: usize) -> Statistics {
    let workers: Vec<_> = (1..=threads)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut hoard = Hoard::new(seed);
                let whole = (0..rounds).all(|_| hoard.step()) && hoard.is_all_whole();
                hoard.clear();
                whole
            })
        })
        .collect();
    let mut hoard = Hoard::new(77);
    let mut children = Vec::new();
    for _ in 0..forks {
        assert!((0..rounds / forks / 4).all(|_| hoard.step()));
        children.push(in_child(|| hoard.is_all_whole() && (0..60).all(|_| hoard.step()) && hoard.is_all_whole()));
    }
    assert!(workers.into_iter().all(|worker| worker.join().unwrap()));
    assert!(children.into_iter().all(succeeded), "a child saw wrong bytes");
    assert!(hoard.is_all_whole());
    hoard.clear();
    of_process().unwrap().statistics()
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn threads_forks_and_random_sizes() {
    let settings = Settings { keep_bytes: 32 * MIB, ..Settings::default() };
    alone("threads_forks_and_random_sizes", settings, |_| {
        let now = stress(4, 600, 12);
        assert!(now.freezes > 5 && now.recycled > 0 && now.live_bytes < 4 * MIB as u64, "{now:?}");
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn threads_on_different_processors_share_no_lock() {
    alone("threads_on_different_processors_share_no_lock", Settings::default(), |arena| {
        // SAFETY: all zeros is an empty set, which the kernel fills.
        let allowed: Vec<usize> = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
            (0..libc::CPU_SETSIZE as usize).filter(|&processor| libc::CPU_ISSET(processor, &set)).collect()
        };
        let of_shard =
            |shard: u32| allowed.iter().copied().find(|&processor| processor as u32 % crate::space::shard_count() == shard);
        let (Some(one), Some(other)) = (of_shard(0), of_shard(1)) else {
            println!("skipped: the processors that this may run on have one shard");
            return;
        };
        let mine = |processor: usize| {
            // SAFETY: all zeros is an empty set.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(processor, &mut set);
                assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set), 0);
            }
            let (here, block) = (crate::space::here(), vec![1u8; MIB]);
            (here, block)
        };
        let first = std::thread::spawn(move || mine(one).0).join().unwrap();
        // Its lock is held, and yet a thread on another processor allocates, grows, frees, and finds.
        let held = crate::space::shard(first).lock();
        let worked = std::thread::spawn(move || {
            let (here, mut block) = mine(other);
            block.extend_from_slice(&[2u8; 3 * MIB]);
            let found = matches!(arena.find(&block), Found::Here { .. });
            drop(block);
            drop(vec![0u8; 2 * MIB]);
            (here, found)
        });
        let (second, found) = worked.join().unwrap();
        drop(held);
        assert!(found && second != first);
    });
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no memory files")]
fn one_thread_forks_and_thaws() {
    alone_in_one_thread("one_thread_forks_and_thaws", |_| {
        let mut hoard = Hoard::new(5);
        for _ in 0..25 {
            assert!((0..12).all(|_| hoard.step()));
            assert!(succeeded(in_child(|| hoard.is_all_whole() && (0..20).all(|_| hoard.step()) && hoard.is_all_whole())));
            assert!(hoard.is_all_whole());
        }
        hoard.clear();
        let now = of_process().unwrap().statistics();
        assert!(now.thaws > 10, "{now:?}");
    });
}
