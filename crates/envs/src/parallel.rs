//! The same work on many things at once: files are made one by one by the kernel, and waiting for one need not hold up the others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Threads that work on files at a time; more wait for the same disk.
const THREADS_MAX: usize = 8;

/// Things below which a further thread costs more than it brings.
const THREAD_ITEMS_MIN: usize = 64;

/// Does `work` on every item, in no order, in several threads. Ends early with the first error.
pub(crate) fn each<T: Sync, E: Send>(items: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(THREADS_MAX).min(items.len() / THREAD_ITEMS_MIN).max(1);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let first: Mutex<Option<E>> = Mutex::new(None);
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = work(item) {
                failed.store(true, Ordering::Relaxed);
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without a further thread this one does it all.
            let _ = std::thread::Builder::new().name("files".to_owned()).spawn_scoped(scope, run);
        }
        run();
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_and_the_first_error_ends_it() {
        for count in [0, 1, 63, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let sum = AtomicUsize::new(0);
            let done = each(&items, |item| {
                sum.fetch_add(item + 1, Ordering::Relaxed);
                Ok::<_, ()>(())
            });
            assert_eq!((done, sum.into_inner()), (Ok(()), count * (count + 1) / 2));
        }
        let items: Vec<usize> = (0..1000).collect();
        let seen = AtomicUsize::new(0);
        let failed = each(&items, |item| {
            seen.fetch_add(1, Ordering::Relaxed);
            if *item == 0 { Err(*item) } else { Ok(()) }
        });
        assert_eq!(failed, Err(0));
    }
}
