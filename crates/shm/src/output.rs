//! A function's output, described rather than copied: each buffer is where it was born, in an input, in the message, or,
//! when nothing else is left, copied.
//!
//! ```text
//! below 1 KiB                     inline       in the message
//! in an input's segment           reshared     (segment, offset) of the input
//! in this process's arena         referenced   (generation, offset); what is live of it will be kept
//! anywhere else                   copied       into the arena, or into a segment of its own where there is no arena
//! ```
//!
//! An input of which the table needs next to nothing is not reshared, or a few rows would pin gigabytes for as long as the
//! table lives; that part is copied instead ([`WORTH_KEEPING`]).
//!
//! Invariant: what is referred to in the arena is kept alive until the process ends, so its memory is not used again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use forebay_arena::{Arena, Found};
use forebay_sipc::call::{Bytes, Copied, CopyReason, Keep};
use forebay_sipc::limits::{INLINE_BUFFER_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, WORTH_KEEPING};
use forebay_sipc::{Home, Message, Placement, Placer, describe, ranges};

use crate::segment::ALIGNMENT_BYTES;
use crate::{Error, Inputs, SegmentWriter};

/// An input's segment that holds less than this is always worth keeping, in bytes.
const PINNED_BYTES_MIN: u64 = 64 << 20;

/// Copies go into pieces of the arena of at least this size, in bytes: it takes no smaller blocks.
const PIECE_BYTES_MIN: usize = 1 << 20;

/// What an output came to.
#[derive(Debug)]
pub struct Written {
    /// The table's description.
    pub message: Message,
    /// The new segments. They are neither trimmed nor sealed: the supervisor does that after this process has exited.
    pub segments: Vec<NewSegment>,
    /// Distinct bytes by how they got into the message.
    pub bytes: Bytes,
    /// Why bytes were copied.
    pub copies: Vec<Copied>,
}

/// A segment this process made.
#[derive(Debug)]
pub struct NewSegment {
    /// Identity.
    pub id: u64,
    /// The memory file.
    pub file: OwnedFd,
    /// What the table needs of it.
    pub keep: Keep,
}

/// Describes a table whose new segments have identities from `first_id` on. The batches stay in memory until the process ends.
///
/// # Errors
/// What [`describe`] returns; [`Error::Memory`] if copies find no room; [`Error::System`].
pub fn write(first_id: u64, inputs: &Arc<Inputs>, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Written, Error> {
    write_with(Output::new(first_id, Arc::clone(inputs)), schema, batches)
}

/// As [`write`], with all buffers inside the message as far as it may hold them. A small table then has no segment, and whoever reads
/// it need not wait for the end of this process.
///
/// # Errors
/// As [`write`].
pub fn write_inline(first_id: u64, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Written, Error> {
    let inline_buffer_max = native(INLINE_TOTAL_BYTES_MAX);
    write_with(Output { inline_buffer_max, ..Output::new(first_id, Inputs::none()) }, schema, batches)
}

fn write_with(mut output: Output, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Written, Error> {
    let inputs = Arc::clone(&output.inputs);
    output.not_worth_keeping = sparse(&inputs, output.arena.as_ref(), schema, &batches)?;
    let message = describe(schema, &batches, &mut output)?;
    // The arena's blocks must stay what they are until this process is gone, whatever its exit handlers do.
    std::mem::forget(batches);
    output.finish(message)
}

/// Places the buffers of one table and counts their bytes. A byte that is referred to several times counts once.
struct Output {
    first_id: u64,
    inputs: Arc<Inputs>,
    arena: Option<Arena>,
    not_worth_keeping: HashSet<u64>,
    /// By generation of the arena: end of the last buffer, and live ranges.
    born: BTreeMap<u32, (usize, Vec<Range<usize>>)>,
    /// Live ranges by input segment.
    reshared: BTreeMap<u64, Vec<Range<usize>>>,
    /// Of `born`: what was written by [`Output::copy`] or made by `describe`.
    made: BTreeMap<u32, Vec<Range<usize>>>,
    copies: BTreeMap<CopyReason, u64>,
    /// Where copies are, by address and length of the original, which is alive.
    copied: HashMap<(usize, usize), Placement>,
    inline: u64,
    /// Smaller buffers travel in the message, in bytes.
    inline_buffer_max: usize,
    /// The piece of the arena that is being filled with copies.
    piece: Vec<u8>,
    writer: SegmentWriter,
    /// What lies in the arena and is not part of the batches.
    held: Vec<Buffer>,
}

impl Output {
    fn new(first_id: u64, inputs: Arc<Inputs>) -> Self {
        Self {
            first_id,
            inputs,
            arena: forebay_arena::of_process(),
            not_worth_keeping: HashSet::new(),
            born: BTreeMap::new(),
            reshared: BTreeMap::new(),
            made: BTreeMap::new(),
            copies: BTreeMap::new(),
            copied: HashMap::new(),
            inline: 0,
            inline_buffer_max: INLINE_BUFFER_BYTES_MAX,
            piece: Vec::new(),
            writer: SegmentWriter::new(),
            held: Vec::new(),
        }
    }

    fn finish(self, message: Message) -> Result<Written, Error> {
        let Self { first_id, arena, mut born, mut made, reshared, copies, inline, piece, writer, held, .. } = self;
        std::mem::forget((piece, held));
        let sum = |ranges: &mut Vec<Range<usize>>| {
            ranges::merge(ranges);
            ranges::total(ranges) as u64
        };
        let reshared = reshared.into_values().map(|mut ranges| sum(&mut ranges)).sum();
        let all: u64 = born.values_mut().map(|(_, live)| sum(live)).sum();
        let made: u64 = made.values_mut().map(sum).sum();
        let mut segments = Vec::with_capacity(born.len() + 1);
        for (generation, (end, live)) in born {
            let arena = arena.as_ref().expect("only an arena has generations");
            let file =
                arena.descriptor(generation).map_err(|source| Error::System { action: "share this process's memory", source })?;
            segments.push(NewSegment { id: generation_id(first_id, generation), file, keep: keep(end as u64, live) });
        }
        if let Some((file, length)) = writer.finish() {
            segments.push(NewSegment { id: first_id, file, keep: keep(length, vec![0..native(length)]) });
        }
        let copied = copies.values().sum();
        let bytes = Bytes { referenced: all.saturating_sub(made), reshared, copied, inline };
        let copies = copies.into_iter().map(|(reason, bytes)| Copied { reason, bytes }).collect();
        Ok(Written { message, segments, bytes, copies })
    }

    /// The input's segment these bytes lie in, if it is worth keeping for them.
    fn in_input(&self, bytes: &[u8]) -> Option<(u64, u64)> {
        self.inputs.find(bytes).filter(|(id, _)| !self.not_worth_keeping.contains(id))
    }

    fn in_arena(&self, bytes: &[u8]) -> Found {
        self.arena.as_ref().map_or(Found::Elsewhere, |arena| arena.find(bytes))
    }

    fn refer(&mut self, generation: u32, offset: u64, length: usize, live: &[Range<usize>], is_made: bool) -> Placement {
        let at = native(offset);
        let shifted = || live.iter().map(|range| range.start + at..range.end + at);
        let (end, born) = self.born.entry(generation).or_default();
        *end = (*end).max(at + length);
        born.extend(shifted());
        if is_made {
            self.made.entry(generation).or_default().extend(shifted());
        }
        Placement::Segment { id: generation_id(self.first_id, generation), offset }
    }

    /// Copies what is live of a buffer; the rest becomes zeros.
    fn copy(&mut self, buffer: &Buffer, live: &[Range<usize>], reason: CopyReason) -> Result<Placement, Error> {
        let key = (buffer.as_ptr() as usize, buffer.len());
        if let Some(known) = self.copied.get(&key) {
            return Ok(*known);
        }
        let placement = match self.copy_into_arena(buffer, live) {
            Some(placement) => placement,
            None => Placement::Segment { id: self.first_id, offset: self.writer.append_parts(buffer, live)? },
        };
        *self.copies.entry(reason).or_default() += ranges::total(live) as u64;
        self.copied.insert(key, placement);
        Ok(placement)
    }

    fn copy_into_arena(&mut self, buffer: &Buffer, live: &[Range<usize>]) -> Option<Placement> {
        self.arena.as_ref()?;
        let mut start = self.piece.len().next_multiple_of(ALIGNMENT_BYTES as usize);
        if start + buffer.len() > self.piece.capacity() {
            let mut piece: Vec<u8> = Vec::new();
            piece.try_reserve_exact(buffer.len().max(PIECE_BYTES_MIN)).ok()?;
            let filled = std::mem::replace(&mut self.piece, piece);
            self.held.push(Buffer::from_vec(filled));
            start = 0;
        }
        self.piece.resize(start + buffer.len(), 0);
        for range in live {
            self.piece[start + range.start..start + range.end].copy_from_slice(&buffer.as_slice()[range.clone()]);
        }
        match self.in_arena(&self.piece[start..]) {
            Found::Here { generation, offset } => Some(self.refer(generation, offset, buffer.len(), live, true)),
            Found::Elsewhere | Found::Rewritten => {
                self.piece.truncate(start);
                None
            }
        }
    }
}

impl Placer for Output {
    fn home(&self, bytes: &[u8]) -> Option<Home> {
        match self.in_input(bytes) {
            Some(_) => Some(Home::Input),
            None => matches!(self.in_arena(bytes), Found::Here { .. }).then_some(Home::Own),
        }
    }

    fn place(
        &mut self,
        buffer: &Buffer,
        live: &[Range<usize>],
        made: Option<CopyReason>,
    ) -> Result<Placement, forebay_sipc::Error> {
        let length = buffer.len() as u64;
        if buffer.len() < self.inline_buffer_max && self.inline + length <= INLINE_TOTAL_BYTES_MAX {
            self.inline += length;
            return Ok(Placement::Inline);
        }
        if let Some((id, offset)) = self.in_input(buffer) {
            let at = native(offset);
            let shifted = live.iter().map(|range| range.start + at..range.end + at);
            self.reshared.entry(id).or_default().extend(shifted);
            return Ok(Placement::Segment { id, offset });
        }
        let reason = match (self.in_arena(buffer), made) {
            (Found::Here { generation, offset }, None) => return Ok(self.refer(generation, offset, buffer.len(), live, false)),
            (Found::Here { generation, offset }, Some(reason)) => {
                *self.copies.entry(reason).or_default() += ranges::total(live) as u64;
                self.held.push(buffer.clone());
                return Ok(self.refer(generation, offset, buffer.len(), live, true));
            }
            (_, Some(reason)) => {
                // Kept, so that no other buffer gets its address.
                self.held.push(buffer.clone());
                reason
            }
            (Found::Rewritten, None) => CopyReason::Rewritten,
            (Found::Elsewhere, None) if self.inputs.find(buffer).is_some() => CopyReason::Compacted,
            (Found::Elsewhere, None) => CopyReason::Elsewhere,
        };
        let placed = self.copy(buffer, live, reason);
        placed.map_err(|source| forebay_sipc::Error::Place { bytes: buffer.len(), source: Box::new(source) })
    }

    fn segment_length(&self, id: u64) -> u64 {
        if id == self.first_id {
            return self.writer.length();
        }
        let born = id.checked_sub(self.first_id + 1).and_then(|generation| u32::try_from(generation).ok());
        match born.and_then(|generation| self.born.get(&generation)) {
            Some((end, _)) => *end as u64,
            None => self.inputs.length(id).expect("placed in an input"),
        }
    }
}

/// The input segments of which the table needs so little that it had better be copied.
fn sparse(
    inputs: &Arc<Inputs>,
    arena: Option<&Arena>,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<HashSet<u64>, Error> {
    let large: Vec<(u64, u64)> = inputs.held().filter(|(_, bytes)| *bytes >= PINNED_BYTES_MIN).collect();
    if large.is_empty() {
        return Ok(HashSet::new());
    }
    let mut scales = Scales { inputs, arena, needed: HashMap::new() };
    describe(schema, batches, &mut scales)?;
    let mut sparse = HashSet::new();
    for (id, held) in large {
        let mut needed = scales.needed.remove(&id).unwrap_or_default();
        ranges::merge(&mut needed);
        if (ranges::total(&needed) as u64) < held / WORTH_KEEPING as u64 {
            sparse.insert(id);
        }
    }
    Ok(sparse)
}

/// Places nothing; weighs what a table needs of each input.
struct Scales<'a> {
    inputs: &'a Inputs,
    arena: Option<&'a Arena>,
    needed: HashMap<u64, Vec<Range<usize>>>,
}

impl Placer for Scales<'_> {
    fn home(&self, bytes: &[u8]) -> Option<Home> {
        if self.inputs.find(bytes).is_some() {
            return Some(Home::Input);
        }
        let arena = self.arena?;
        matches!(arena.find(bytes), Found::Here { .. }).then_some(Home::Own)
    }

    fn place(&mut self, buffer: &Buffer, live: &[Range<usize>], _: Option<CopyReason>) -> Result<Placement, forebay_sipc::Error> {
        if let Some((id, offset)) = self.inputs.find(buffer) {
            let at = native(offset);
            self.needed.entry(id).or_default().extend(live.iter().map(|range| range.start + at..range.end + at));
        }
        Ok(Placement::Segment { id: 0, offset: 0 })
    }

    fn segment_length(&self, _: u64) -> u64 {
        0
    }
}

fn keep(length: u64, live: Vec<Range<usize>>) -> Keep {
    Keep { length, live: live.into_iter().map(|range| range.start as u64..range.end as u64).collect() }
}

/// Identity of the segment that a generation of the arena becomes.
fn generation_id(first_id: u64, generation: u32) -> u64 {
    first_id + 1 + u64::from(generation)
}

fn native(number: u64) -> usize {
    usize::try_from(number).expect("offsets of mapped memory fit the machine")
}
