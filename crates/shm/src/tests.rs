//! Segments, their protection, outputs and channels, against the real kernel.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use forebay_sipc::call::SegmentRef;
use forebay_sipc::call::{Copied, CopyReason, Keep};
use forebay_sipc::{Limits, Message};
use forebay_types::Coded;
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::channel::{BLOBS_MAX, DESCRIPTORS_MAX, HEADER_BYTES_MAX};
use crate::*;

fn code(error: &Error) -> String {
    error.report().code.to_string()
}

fn segment(bytes: &[u8]) -> (OwnedFd, u64) {
    let mut writer = SegmentWriter::new();
    writer.append(bytes).unwrap();
    writer.finish().unwrap()
}

#[test]
fn what_is_appended_is_read_back_at_its_place() {
    let mut writer = SegmentWriter::new();
    assert_eq!(writer.append(&[1; 100]).unwrap(), 0);
    assert_eq!(writer.append(&[2; 1]).unwrap(), 128);
    assert_eq!(writer.append(&[]).unwrap(), 192);
    assert_eq!(writer.append(&[3; 5000]).unwrap(), 192);
    let (file, length) = writer.finish().unwrap();
    assert_eq!(length, 5192);
    seal(&file).unwrap();
    seal(&file).unwrap();
    let buffer = Mapping::map(1, &file, length).unwrap().buffer();
    drop(file);
    assert_eq!(&buffer[128..129], [2]);
    assert_eq!(&buffer[192..], [3; 5000]);
    assert_eq!(&buffer.slice(5191)[..], [3]);
    assert!(SegmentWriter::new().finish().is_none());
}

#[test]
fn nobody_changes_a_sealed_segment() {
    let (file, length) = segment(&[7; 10_000]);
    assert!(!is_sealed(&file));
    seal(&file).unwrap();
    assert!(is_sealed(&file));
    let mapped = Mapping::map(1, &file, length).unwrap();

    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reopened = rustix::fs::open(&again, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for fd in [file.as_fd(), reopened.as_fd()] {
        assert_eq!(rustix::io::pwrite(fd, &[0], 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(fd, 1), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(fd, 100_000), Err(Errno::PERM));
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(fd, punch, 0, 4096), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(fd, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
        // SAFETY: a new mapping touches no existing memory, and it is refused anyway.
        let map =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0) };
        assert_eq!(map.unwrap_err(), Errno::PERM);
    }
    let (start, _) = mapped.range();
    // SAFETY: changes nothing: the kernel refuses to make a read-only mapping of a sealed file writable.
    let protect = unsafe {
        rustix::mm::mprotect(start as *mut _, 4096, rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE)
    };
    assert_eq!(protect, Err(Errno::ACCESS));
    assert!(mapped.buffer().iter().all(|byte| *byte == 7));
}

#[test]
fn a_writable_mapping_keeps_a_segment_from_being_sealed() {
    let (file, _) = segment(&[1; 4096]);
    // SAFETY: a new mapping touches no existing memory.
    let map =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0) };
    let map = map.unwrap();
    let error = seal(&file).unwrap_err();
    assert_eq!(code(&error), "IPC0103");
    // SAFETY: the mapping made above, to which nothing refers.
    unsafe { rustix::mm::munmap(map, 4096) }.unwrap();
    seal(&file).unwrap();
}

#[test]
fn ipc0102_files_that_could_change_or_are_too_short_are_not_mapped() {
    let (file, length) = segment(&[1; 4096]);
    let error = Mapping::map(5, &file, length).unwrap_err();
    assert_eq!((code(&error).as_str(), error.to_string().as_str()), ("IPC0102", "segment 5 cannot be mapped: it is not sealed"));
    seal(&file).unwrap();
    for length in [4097, 1 << 40, u64::MAX] {
        assert_eq!(code(&Mapping::map(5, &file, length).unwrap_err()), "IPC0102", "{length}");
    }
    let plain = tempfile::tempfile().unwrap();
    assert_eq!(code(&Mapping::map(5, &plain, 0).unwrap_err()), "IPC0102");
    let (socket, _other) = Channel::pair().unwrap();
    assert_eq!(code(&Mapping::map(5, &socket, 0).unwrap_err()), "IPC0102");
    assert!(Mapping::map(5, &file, 0).unwrap().buffer().is_empty());
}

#[test]
fn ipc0101_ipc0107_shortages_have_codes_of_their_own() {
    assert_eq!(code(&Error::writing(5, Errno::NOSPC)), "IPC0101");
    assert_eq!(code(&Error::writing(5, Errno::NOMEM)), "IPC0101");
    assert_eq!(code(&Error::writing(5, Errno::MFILE)), "IPC0107");
    assert_eq!(code(&Error::system("create a segment", Errno::NFILE)), "IPC0107");
    assert_eq!(code(&Error::system("map a segment", Errno::BADF)), "IPC0103");
}

/// In a process of its own, because limits are per process: `RLIMIT_FSIZE` makes the kernel refuse longer files.
#[test]
fn ipc0101_a_segment_that_may_not_grow_says_so() {
    const CHILD: &str = "FOREBAY_TEST_SHORT_OF_MEMORY";
    if std::env::var_os(CHILD).is_some() {
        let error = SegmentWriter::new().append(&vec![1; 1 << 20]).unwrap_err();
        assert_eq!(code(&error), "IPC0101", "{error}");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let test = "tests::ipc0101_a_segment_that_may_not_grow_says_so";
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" --exact \"$1\" --test-threads=1";
    let out = std::process::Command::new("sh").args(["-c", script]).arg(me).arg(test).env(CHILD, "1").output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

fn table() -> (SchemaRef, RecordBatch) {
    let words: Vec<String> = (0..5_000).map(|i| format!("word number {i}")).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(0..5_000)),
        Arc::new(StringArray::from(words)),
        Arc::new((0..5_000).map(|i| Some(["a", "b", "c"][i % 3])).collect::<DictionaryArray<Int32Type>>()),
    ];
    let fields: Vec<Field> =
        columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    (schema, batch)
}

/// One function without an arena: describes batches over inputs; what is new is trimmed and sealed.
fn run(id: u64, inputs: &Arc<Inputs>, schema: &SchemaRef, batches: &[RecordBatch]) -> (Vec<u8>, Written) {
    let written = write(id, inputs, schema, batches.to_vec()).unwrap();
    for segment in &written.segments {
        trim(&segment.file, &Keep::decode(&segment.keep.encode()).unwrap()).unwrap();
        seal(&segment.file).unwrap();
    }
    (written.message.encode(), written)
}

fn inputs(segments: &[&NewSegment]) -> Arc<Inputs> {
    let refs: Vec<SegmentRef> = segments.iter().map(|s| SegmentRef { id: s.id, length: s.keep.length }).collect();
    let files: Vec<_> = segments.iter().map(|segment| segment.file.as_fd()).collect();
    Inputs::map(&refs, &files).unwrap()
}

#[test]
fn a_chain_of_functions_copies_only_what_is_new() {
    let (schema, batch) = table();
    let (bytes, first) = run(1, &Inputs::none(), &schema, std::slice::from_ref(&batch));
    assert!(first.bytes.copied > 100_000 && first.bytes.inline > 0 && first.bytes.reshared == 0, "{:?}", first.bytes);

    let segment = &first.segments[0];
    let given = inputs(&[segment]);
    let message = Message::decode(&bytes, &Limits::default()).unwrap();
    let read = given.rebuild(&message).unwrap();
    assert_eq!(read.batches, [batch.clone()]);
    assert_eq!(given.rebuild_checked(&message).unwrap().batches, [batch.clone()]);
    assert_eq!(read.realigned_bytes, 0);

    let (again, passed) = run(2, &given, &schema, &read.batches);
    assert_eq!((passed.bytes.copied, passed.segments.len()), (0, 0), "{:?}", passed.bytes);
    assert_eq!(passed.bytes.reshared, first.bytes.copied);
    let again = Message::decode(&again, &Limits::default()).unwrap();
    assert_eq!(again.segments(), first.message.segments());
    assert_eq!(given.rebuild(&again).unwrap().batches, [batch.clone()]);

    let new: ArrayRef = Arc::new(Int64Array::from_iter_values((0..5_000).map(|i| i * 2)));
    let wider = Arc::new(Schema::new(vec![schema.field(1).clone(), Field::new("new", DataType::Int64, false)]));
    let added = RecordBatch::try_new(Arc::clone(&wider), vec![read.batches[0].column(1).slice(100, 4_000), new.slice(0, 4_000)]);
    let added = added.unwrap();
    let (third, written) = run(3, &given, &wider, std::slice::from_ref(&added));
    assert_eq!(written.bytes.copied, 32_000, "{:?}", written.bytes);
    let both = inputs(&[&written.segments[0], segment]);
    let third = Message::decode(&third, &Limits::default()).unwrap();
    assert_eq!(both.rebuild(&third).unwrap().batches, [added]);
}

#[test]
fn a_buffer_referred_to_twice_is_stored_once() {
    let (schema, batch) = table();
    let twice = Arc::new(Schema::new(vec![schema.field(0).clone(), schema.field(0).clone().with_name("again")]));
    let column = batch.column(0);
    let batch = RecordBatch::try_new(Arc::clone(&twice), vec![Arc::clone(column), Arc::clone(column)]).unwrap();
    let (_, written) = run(1, &Inputs::none(), &twice, &[batch]);
    assert_eq!(written.bytes.copied, 40_000);
}

#[test]
fn a_dictionary_of_many_batches_is_stored_once() {
    let values: ArrayRef = Arc::new(StringArray::from_iter_values((0..1_000).map(|i| format!("value {i}"))));
    let field = Field::new("d", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), false);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = |start: i32| {
        let keys = arrow::array::Int32Array::from_iter_values(start * 100..start * 100 + 100);
        let column = DictionaryArray::new(keys, Arc::clone(&values));
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(column)]).unwrap()
    };
    let batches: Vec<RecordBatch> = (0..10).map(batch).collect();
    let (_, written) = run(1, &Inputs::none(), &schema, &batches);
    assert!(written.bytes.copied < 16_000, "{:?}", written.bytes);
    let read = inputs(&[&written.segments[0]]).rebuild(&written.message).unwrap();
    let last = read.batches[9].column(0).as_dictionary::<Int32Type>();
    assert_eq!(last.downcast_dict::<StringArray>().unwrap().into_iter().last().unwrap(), Some("value 999"));
}

#[test]
fn a_few_rows_do_not_keep_a_large_segment() {
    let rows = 12 << 20;
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Int64, false)]));
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
    let (_, first) = run(1, &Inputs::none(), &schema, &[batch]);
    let given = inputs(&[&first.segments[0]]);
    let table = given.rebuild(&first.message).unwrap();
    let half = table.batches[0].slice(1000, rows as usize / 2);
    let (_, shared) = run(200, &given, &schema, std::slice::from_ref(&half));
    assert_eq!((shared.bytes.copied, shared.bytes.reshared, shared.segments.len()), (0, 4 * rows as u64, 0));
    let few = table.batches[0].slice(1000, 10_000);
    let (_, copied) = run(400, &given, &schema, std::slice::from_ref(&few));
    assert_eq!((copied.bytes.copied, copied.bytes.reshared), (80_000, 0));
    assert_eq!(copied.copies, [Copied { reason: CopyReason::Compacted, bytes: 80_000 }]);
    assert!(copied.message.segments().iter().all(|segment| segment.id == 400), "the large segment is not held any more");
    let read = inputs(&[&copied.segments[0]]).rebuild(&copied.message).unwrap();
    assert_eq!(read.batches, [few]);
}

/// Trims; then every byte is what it was or zero, and no memory is left but for what is kept.
fn check_trim(file: &OwnedFd, bytes: &[u8], keep: &Keep) {
    trim(file, keep).unwrap();
    let length = usize::try_from(keep.length).unwrap();
    assert_eq!(rustix::fs::fstat(file).unwrap().st_size as u64, keep.length);
    let mut left = vec![9; length];
    let mut read = 0;
    while read < length {
        read += rustix::io::pread(file, &mut left[read..], read as u64).unwrap();
    }
    let mut expected = vec![0; length];
    for range in &keep.live {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        expected[range.clone()].copy_from_slice(&bytes[range]);
    }
    let different = left.iter().zip(&expected).position(|(left, expected)| left != expected);
    assert_eq!(different, None, "a byte of {keep:?}");
    let pages: u64 = keep.live.iter().map(|range| range.end.div_ceil(4096) - range.start / 4096).sum();
    assert!(rustix::fs::fstat(file).unwrap().st_blocks as u64 * 512 <= (pages + 1) * 4096, "{keep:?}");
}

#[test]
fn trimming_leaves_nothing_but_what_is_kept() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i % 251 + 1).unwrap()).collect();
    for live in
        [vec![], vec![0..100_000_u64], vec![5..6, 7..4096, 8192..8193, 50_000..70_001], vec![99_999..100_000], vec![4095..4097]]
    {
        let (file, _) = segment(&bytes);
        check_trim(&file, &bytes, &Keep { length: 99_990.max(live.last().map_or(0, |range| range.end)), live });
    }
    let (file, _) = segment(&bytes);
    let all = |length| Keep { length, live: vec![0..length] };
    assert_eq!(code(&trim(&file, &all(100_001)).unwrap_err()), "IPC0105");
    assert_eq!(code(&trim(tempfile::tempfile().unwrap(), &all(0)).unwrap_err()), "IPC0105");
    seal(&file).unwrap();
    assert_eq!(code(&trim(&file, &all(5)).unwrap_err()), "IPC0103", "a published segment cannot be trimmed");
}

/// Long gaps, over and beside the edges of huge pages, if the kernel gives any.
#[test]
fn trimming_takes_huge_pages_apart() {
    const MIB: u64 = 1 << 20;
    let bytes: Vec<u8> = (0..12 * MIB + 77).map(|i| u8::try_from(i % 251 + 1).unwrap()).collect();
    for live in [
        vec![100..300_000, MIB + 5..MIB + 9, 5 * MIB..6 * MIB + 1, 11 * MIB + 4095..12 * MIB],
        vec![2 * MIB..4 * MIB, 4 * MIB + 262_144..8 * MIB, 8 * MIB + 262_145..10 * MIB - 1],
        vec![7 * MIB + 123..7 * MIB + 124],
    ] {
        let (file, _) = segment(&bytes);
        // SAFETY: a new mapping of our file, which nobody else knows and which is gone before the file is trimmed. Advice and all
        // results but the address may fail: then the pages are small.
        unsafe {
            let length = bytes.len();
            let at = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(at, libc::MAP_FAILED);
            libc::madvise(at, length, libc::MADV_HUGEPAGE);
            libc::madvise(at, length, libc::MADV_COLLAPSE);
            assert_eq!(libc::munmap(at, length), 0);
        }
        check_trim(&file, &bytes, &Keep { length: live.last().unwrap().end + 3, live });
    }
}

#[test]
fn segments_and_descriptors_must_match() {
    let (file, length) = segment(&[1; 100]);
    seal(&file).unwrap();
    let one = SegmentRef { id: 1, length };
    assert_eq!(code(&Inputs::map(&[one.clone()], &[] as &[OwnedFd]).unwrap_err()), "IPC0105");
    assert_eq!(code(&Inputs::map(&[one.clone(), one.clone()], &[&file, &file]).unwrap_err()), "IPC0105");
    let inputs = Inputs::map(&[one], &[&file]).unwrap();
    assert_eq!(inputs.length(1), Some(100));
    assert_eq!(inputs.length(2), None);
    assert_eq!(inputs.find(&[1, 2, 3]), None);
}

fn frame(header: &str, blobs: &[&[u8]], fds: Vec<OwnedFd>) -> Frame {
    Frame { header: header.into(), blobs: blobs.iter().map(|b| b.to_vec()).collect(), fds }
}

#[test]
fn frames_arrive_whole_and_in_order() {
    let (a, b) = Channel::pair().unwrap();
    let big = vec![5_u8; 3 << 20];
    let sender = std::thread::spawn(move || {
        a.send(&frame("{}", &[], vec![])).unwrap();
        a.send(&frame("", &[b"", b"one", &big], vec![])).unwrap();
        a.send(&frame("last", &[], vec![])).unwrap();
    });
    assert_eq!(b.recv().unwrap().unwrap().header, b"{}");
    let second = b.recv().unwrap().unwrap();
    assert_eq!(second.blobs.iter().map(Vec::len).collect::<Vec<_>>(), [0, 3, 3 << 20]);
    assert_eq!(b.recv().unwrap().unwrap().header, b"last");
    sender.join().unwrap();
    assert!(b.recv().unwrap().is_none());
    assert!(b.recv().unwrap().is_none());
}

#[test]
fn descriptors_arrive_in_order_close_on_exec_more_than_one_message_holds() {
    let (a, b) = Channel::pair().unwrap();
    let files: Vec<OwnedFd> = (0..300_u64).map(|i| segment(&i.to_le_bytes()).0).collect();
    let sender = std::thread::spawn(move || {
        a.send(&frame("first", &[b"blob"], files)).unwrap();
        a.send(&frame("second", &[], vec![segment(b"x").0])).unwrap();
    });
    let first = b.recv().unwrap().unwrap();
    assert_eq!((first.fds.len(), first.blobs.len(), first.header.as_slice()), (300, 1, b"first".as_slice()));
    for (i, fd) in first.fds.iter().enumerate() {
        let mut bytes = [0; 8];
        rustix::io::pread(fd, &mut bytes[..], 0).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), i as u64);
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(b.recv().unwrap().unwrap().fds.len(), 1);
    sender.join().unwrap();
}

#[test]
fn received_descriptors_are_closed_with_their_frame() {
    let (a, b) = Channel::pair().unwrap();
    // The pipe reports hang-up when its last writing end, the frame's, is closed.
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    a.send(&frame("{}", &[], vec![write])).unwrap();
    let received = b.recv().unwrap().unwrap();
    assert_eq!(received.fds.len(), 1);
    drop(received);
    let mut byte = [0];
    assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 0, "no writing end is left");
}

#[test]
fn ipc0104_a_peer_that_goes_away_is_an_error_not_a_signal() {
    let (a, b) = Channel::pair().unwrap();
    drop(b);
    let error = a.send(&frame("{}", &[&[0; 100_000]], vec![])).unwrap_err();
    assert_eq!(code(&error), "IPC0104");
    let (a, b) = Channel::pair().unwrap();
    rustix::net::send(&a, b"FBY1\x10", rustix::net::SendFlags::empty()).unwrap();
    drop(a);
    assert_eq!(code(&b.recv().unwrap_err()), "IPC0104");
}

fn raw(bytes: &[u8]) -> Result<Option<Frame>, Error> {
    let (a, b) = Channel::pair().unwrap();
    rustix::net::send(&a, bytes, rustix::net::SendFlags::empty()).unwrap();
    drop(a);
    b.recv()
}

fn prelude(numbers: [u32; 3]) -> Vec<u8> {
    [b"FBY1".to_vec(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect()].concat()
}

#[test]
fn ipc0105_hostile_frames_are_refused_without_allocating_what_they_announce() {
    for bytes in [
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        prelude([u32::MAX, 0, 0]),
        prelude([0, u32::MAX, 0]),
        prelude([0, 0, u32::MAX]),
        [prelude([0, 1, 0]), u32::MAX.to_le_bytes().to_vec()].concat(),
        [prelude([1, 0, 1]), b"xx".to_vec()].concat(),
    ] {
        assert_eq!(code(&raw(&bytes).unwrap_err()), "IPC0105", "{bytes:?}");
    }
    let announced = HEADER_BYTES_MAX as u32;
    assert_eq!(code(&raw(&prelude([announced, 0, 0])).unwrap_err()), "IPC0104");
}

#[test]
fn ipc0106_frames_over_the_limits_are_not_sent() {
    let (a, b) = Channel::pair().unwrap();
    let many = vec![Vec::new(); BLOBS_MAX + 1];
    let error = a.send(&Frame { blobs: many, ..Frame::default() }).unwrap_err();
    assert_eq!(code(&error), "IPC0106");
    let fd = segment(b"x").0;
    let fds = vec![fd.as_fd(); DESCRIPTORS_MAX + 1];
    assert_eq!(code(&a.send_parts(b"{}", &[], &fds).unwrap_err()), "IPC0106");
    a.send(&frame("still usable", &[], vec![])).unwrap();
    assert_eq!(b.recv().unwrap().unwrap().header, b"still usable");
}

#[test]
fn waiting_can_be_ended_by_the_caller() {
    let (_a, b) = Channel::pair().unwrap();
    let mut asked = 0;
    let result = b.recv_while(&mut || {
        asked += 1;
        if asked < 3 { Ok(()) } else { Err("enough") }
    });
    assert_eq!(result.err(), Some("enough"));
}

#[test]
fn sockets_may_have_long_paths() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a".repeat(100)).join("b".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    for path in [folder.path().join("short.sock"), deep.join("long.sock")] {
        assert_eq!(Channel::connect(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let listener = Listener::bind(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        assert_eq!(server.peer_uid().unwrap(), rustix::process::getuid().as_raw());
        client.send(&frame("hello", &[], vec![])).unwrap();
        assert_eq!(server.recv().unwrap().unwrap().header, b"hello");
        drop(listener);
        assert_eq!(Channel::connect(&path).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        Listener::bind(&path).unwrap();
    }
}

#[test]
fn handles_of_one_end_share_it() {
    let (a, b) = Channel::pair().unwrap();
    let c = a.try_clone().unwrap();
    let reader = std::thread::spawn(move || c.recv().unwrap().is_none());
    a.shutdown();
    assert!(reader.join().unwrap(), "a shutdown wakes readers of the same end");
    assert!(b.recv().unwrap().is_none());
}

/// The child half of the next test: takes its channel from standard input.
fn child() {
    die_with_parent().unwrap();
    let channel = Channel::from_stdin().unwrap();
    let call = channel.recv().unwrap().unwrap();
    assert_eq!(rustix::io::read(std::io::stdin(), &mut [0; 1]).unwrap(), 0, "standard input is /dev/null now");
    channel.send(&call).unwrap();
}

#[test]
fn a_child_takes_its_channel_from_standard_input() {
    const CHILD: &str = "FOREBAY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let (ours, theirs) = Channel::pair().unwrap();
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::a_child_takes_its_channel_from_standard_input", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(OwnedFd::from(theirs))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    ours.send(&frame("echo", &[b"blob"], vec![segment(b"bytes").0])).unwrap();
    let back = ours.recv().unwrap().unwrap();
    assert_eq!((back.header.as_slice(), back.blobs.len(), back.fds.len()), (b"echo".as_slice(), 1, 1));
    assert!(process.wait().unwrap().success());
    assert!(ours.recv().unwrap().is_none());
}

proptest! {
    #[test]
    fn any_bytes_from_a_peer_end_in_a_frame_an_error_or_the_end(bytes in prop::collection::vec(any::<u8>(), 0..200), polite in any::<bool>()) {
        let mut bytes = bytes;
        if polite && bytes.len() >= 16 {
            bytes[..4].copy_from_slice(b"FBY1");
            for at in [4, 8, 12] {
                bytes[at + 1..at + 4].fill(0);
            }
        }
        let _ = raw(&bytes);
    }

    #[test]
    fn addresses_are_found_where_they_are(sizes in prop::collection::vec(0_usize..20_000, 1..8), at in any::<prop::sample::Index>(), length in 0_usize..5_000) {
        let segments: Vec<(OwnedFd, u64)> = sizes.iter().map(|n| segment(&vec![1; *n])).collect();
        segments.iter().for_each(|(file, _)| seal(file).unwrap());
        let refs: Vec<SegmentRef> = segments.iter().enumerate().map(|(i, s)| SegmentRef { id: i as u64, length: s.1 }).collect();
        let files: Vec<&OwnedFd> = segments.iter().map(|(file, _)| file).collect();
        let inputs = Inputs::map(&refs, &files).unwrap();
        for SegmentRef { id, length: size } in &refs {
            let buffer = forebay_sipc::Source::segment(inputs.as_ref(), *id).unwrap();
            prop_assert_eq!(buffer.len() as u64, *size);
            if *size > 0 {
                let start = at.index(*size as usize);
                let length = length.min(*size as usize - start);
                prop_assert_eq!(inputs.find(&buffer[start..start + length]), Some((*id, start as u64)));
            }
        }
    }

    /// The cheap check over mapped memory, too, returns whatever is done to a message.
    #[test]
    fn mutated_messages_over_mapped_segments_never_panic(at in any::<prop::sample::Index>(), value in prop_oneof![any::<u64>(), Just(u64::MAX), 0_u64..300], width in 1_usize..=8) {
        thread_local!(static SAMPLE: (Vec<u8>, Arc<Inputs>) = {
            let (schema, batch) = table();
            let (bytes, written) = run(1, &Inputs::none(), &schema, &[batch]);
            (bytes, inputs(&[&written.segments[0]]))
        });
        let (mut bytes, inputs) = SAMPLE.with(Clone::clone);
        let at = at.index(bytes.len() - 8);
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        if let Ok(message) = Message::decode(&bytes, &Limits::default()) {
            let _ = inputs.rebuild(&message);
        }
    }
}
