//! Tables and segments of this worker, held by reference counts: a segment is closed, and its memory free, when no
//! table that lies in it is held any more. Three children of one parent share one copy.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_runtime::NewSegment;
use forebay_sipc::call::{SEGMENTS_PER_CALL, SegmentRef};
use forebay_sipc::{Limits, Message};

/// A sealed segment.
#[derive(Debug)]
pub struct Segment {
    /// Unique on this worker.
    pub id: u64,
    /// Bytes.
    pub length: u64,
    /// The memory file.
    pub file: Arc<OwnedFd>,
}

/// A published table: its description, and the segments it lies in.
#[derive(Debug)]
pub struct Table {
    /// The encoded message.
    pub message: Arc<Vec<u8>>,
    /// Every segment the message refers to.
    pub segments: Vec<Arc<Segment>>,
}

/// Gives out identities of segments.
#[derive(Debug, Default)]
pub struct SegmentIds(AtomicU64);

impl SegmentIds {
    /// The first of as many as a call needs, from 1.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(SEGMENTS_PER_CALL, Ordering::Relaxed) + 1
    }
}

impl Table {
    /// Publishes what a function answered. The message is checked, because user code had a hand in it: it may refer only
    /// to segments the function was given and to the one it wrote.
    pub fn publish(message: Vec<u8>, written: &[NewSegment], first_id: u64, given: &[Arc<Segment>]) -> Result<Self, String> {
        let decoded = Message::decode(&message, &Limits::default()).map_err(|error| error.to_string())?;
        let mut segments = Vec::with_capacity(decoded.segments().len());
        for wanted in decoded.segments() {
            let is_own = (first_id..first_id + SEGMENTS_PER_CALL).contains(&wanted.id);
            let known = given.iter().find(|segment| segment.id == wanted.id).cloned();
            let own = || written.iter().find(|segment| is_own && segment.id == wanted.id);
            let made = || own().map(|new| Arc::new(Segment { id: new.id, length: new.length, file: Arc::clone(&new.file) }));
            let segment =
                known.or_else(made).ok_or_else(|| format!("it refers to segment {}, which it was not given", wanted.id))?;
            if segment.length < wanted.length {
                return Err(format!("it takes segment {} for {} bytes, it has {}", wanted.id, wanted.length, segment.length));
            }
            segments.push(segment);
        }
        Ok(Self { message: Arc::new(message), segments })
    }
}

/// The distinct segments of some tables, as a call names them.
pub fn distinct(tables: &[Arc<Table>]) -> (Vec<Arc<Segment>>, Vec<SegmentRef>) {
    let mut segments: Vec<Arc<Segment>> = tables.iter().flat_map(|table| table.segments.iter().cloned()).collect();
    segments.sort_by_key(|segment| segment.id);
    segments.dedup_by_key(|segment| segment.id);
    let names = segments.iter().map(|segment| SegmentRef { id: segment.id, length: segment.length }).collect();
    (segments, names)
}
