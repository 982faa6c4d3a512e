//! The memory of a query or a SQL model, so that sorts which run at the same time leave each other room.
//!
//! A sort that merges what it has spilled takes all memory it can get, to read as many files at once as possible, and gives none of
//! it back before its last row. A join by sorting has several such merges at a time, and sorts that have yet to begin. So a merge
//! gets a share; with it, it merges in more rounds.
//!
//! Batches on their way between partitions are let pass: in DataFusion 54 a repartition that spills for two writers at once may wait for
//! ever (apache/datafusion#24883), and counted among those that can spill it would take its part of the memory from sorts.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, resources_datafusion_err};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// What a merge calls itself.
const MERGE: &str = "ExternalSorterMerge";

/// A merge gets at least one part of so many: its first rounds need two files at a time.
const SHARES_MAX: usize = 16;

/// What batches on their way between partitions are accounted for.
const PASSING: &str = "RepartitionExec";

/// What groups call themselves.
const GROUPS: &str = "GroupedHashAggregateStream";

/// A fair pool in which all merges together get half.
#[derive(Debug)]
pub(crate) struct SharedPool {
    fair: FairSpillPool,
    /// Nothing but groups counts.
    groups_only: bool,
    bytes: usize,
    merges: AtomicUsize,
    /// Bytes between partitions, beside those of the fair pool.
    passing: AtomicUsize,
}

impl SharedPool {
    pub fn new(bytes: usize) -> Self {
        let (merges, passing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { fair: FairSpillPool::new(bytes), groups_only: false, bytes, merges, passing }
    }

    /// For operators over tables in shared memory, whose buffers would be counted as theirs, once for each batch: nothing is
    /// counted but groups, which copy what they keep.
    pub fn of_groups(bytes: usize) -> Self {
        Self { groups_only: true, ..Self::new(bytes) }
    }

    fn passes(&self, consumer: &MemoryConsumer) -> bool {
        let name = consumer.name();
        name.starts_with(PASSING) || self.groups_only && !name.starts_with(GROUPS)
    }

    fn share(&self) -> usize {
        (self.bytes / 2 / self.merges.load(Ordering::Relaxed).max(1)).max(self.bytes / SHARES_MAX)
    }
}

fn is_merge(consumer: &MemoryConsumer) -> bool {
    consumer.name().starts_with(MERGE)
}

impl fmt::Display for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

impl MemoryPool for SharedPool {
    fn name(&self) -> &str {
        "shared"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if is_merge(consumer) {
            self.merges.fetch_add(1, Ordering::Relaxed);
        }
        if !self.passes(consumer) {
            self.fair.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if is_merge(consumer) {
            self.merges.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.passes(consumer) {
            self.fair.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        if self.passes(reservation.consumer()) {
            self.passing.fetch_add(additional, Ordering::Relaxed);
        } else {
            self.fair.grow(reservation, additional);
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if self.passes(reservation.consumer()) {
            self.passing.fetch_sub(shrink, Ordering::Relaxed);
        } else {
            self.fair.shrink(reservation, shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        if self.passes(reservation.consumer()) {
            self.grow(reservation, additional);
            return Ok(());
        }
        if is_merge(reservation.consumer()) && reservation.size().saturating_add(additional) > self.share() {
            return Err(resources_datafusion_err!("a merge of spilled rows would need more than {} bytes", self.share()));
        }
        self.fair.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.fair.reserved() + self.passing.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
