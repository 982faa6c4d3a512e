//! What allocating and freeing costs when 1, 2, 4 and 8 threads do it at once: the arena against libc, in one process, in turn.
//!
//! Each thread keeps eight blocks of 64 KiB to 4 MiB and replaces one after the other, touching one byte per page of the new one
//! (`touch`) or only the first (`bare`). Told is the wall-clock time per replacement and per thread that a processor can run, the
//! median of five rounds. `cargo run --release -p forebay-arena --example contention`

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::time::Instant;

use forebay_arena::{Allocator, Settings};

const KEPT: usize = 8;
/// Of all threads together.
const REPLACEMENTS: usize = 4000;

fn main() {
    assert!(forebay_arena::start(&Settings::default()), "the host does not allow an arena");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{processors} processors; microseconds per replacement");
    println!("{:>7} {:>6} {:>8} {:>8} {:>6}", "threads", "work", "libc", "arena", "ratio");
    for touched in [false, true] {
        for threads in [1, 2, 4, 8] {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..5 {
                times[0].push(run(&System, threads, touched, processors));
                times[1].push(run(&Allocator, threads, touched, processors));
            }
            let [libc, arena] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            });
            let work = if touched { "touch" } else { "bare" };
            println!("{threads:>7} {work:>6} {libc:>8.2} {arena:>8.2} {:>6.2}", arena / libc);
        }
    }
}

fn run(allocator: &(impl GlobalAlloc + Sync), threads: usize, touched: bool, processors: usize) -> f64 {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..threads {
            scope.spawn(move || replace(allocator, seed as u64 + 1, REPLACEMENTS / threads, touched));
        }
    });
    began.elapsed().as_secs_f64() * 1e6 * threads.min(processors) as f64 / REPLACEMENTS as f64
}

fn replace(allocator: &impl GlobalAlloc, seed: u64, replacements: usize, touched: bool) {
    let mut random = seed * 0x9e37_79b9_7f4a_7c15;
    let mut blocks: [Option<(*mut u8, Layout)>; KEPT] = [None; KEPT];
    for number in 0..replacements + KEPT {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let bytes = (64 << 10 << (random % 6)) + (random >> 20) as usize % (64 << 10);
        // SAFETY: each block is freed once, with its layout, and only written within.
        unsafe {
            if let Some((block, layout)) = blocks[number % KEPT].take() {
                allocator.dealloc(block, layout);
            }
            if number < replacements {
                let layout = Layout::from_size_align_unchecked(bytes, 16);
                let block = allocator.alloc(layout);
                assert!(!block.is_null(), "no memory");
                let step = if touched { 4096 } else { bytes };
                (0..bytes).step_by(step).for_each(|at| block.add(at).write_volatile(1));
                blocks[number % KEPT] = Some((block, layout));
            }
        }
    }
}
