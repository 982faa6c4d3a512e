//! Round trips of every type, hostile bytes, and the golden message of version 1.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::*;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use proptest::prelude::*;

use crate::call::{CopyReason, Keep, Preview};
use crate::*;

/// Copies into one `Vec` per segment; buffers that lie in `given` are found there.
struct Vault {
    segment: Vec<u8>,
    given: Option<Buffer>,
    given_is: Home,
    live: Vec<Range<usize>>,
    inline_below: usize,
    placed: usize,
}

impl Default for Vault {
    fn default() -> Self {
        Self { segment: Vec::new(), given: None, given_is: Home::Input, live: Vec::new(), inline_below: 0, placed: 0 }
    }
}

impl Vault {
    /// Where the bytes are in what was given.
    fn given_at(&self, bytes: &[u8]) -> Option<u64> {
        let given = self.given.as_ref()?;
        let start = (bytes.as_ptr() as usize).checked_sub(given.as_ptr() as usize)?;
        (start + bytes.len() <= given.len()).then_some(start as u64)
    }
}

const OWN: u64 = 7;
const GIVEN: u64 = 3;

impl Placer for Vault {
    fn home(&self, bytes: &[u8]) -> Option<Home> {
        self.given_at(bytes).map(|_| self.given_is)
    }

    fn place(&mut self, buffer: &Buffer, live: &[Range<usize>], _made: Option<CopyReason>) -> Result<Placement, Error> {
        if buffer.len() < self.inline_below {
            return Ok(Placement::Inline);
        }
        if let Some(offset) = self.given_at(buffer.as_slice()) {
            self.live.extend(live.iter().map(|range| range.start + offset as usize..range.end + offset as usize));
            return Ok(Placement::Segment { id: GIVEN, offset });
        }
        self.segment.resize(self.segment.len().next_multiple_of(64), 0);
        let offset = self.segment.len() as u64;
        self.segment.extend_from_slice(buffer.as_slice());
        self.placed += buffer.len();
        Ok(Placement::Segment { id: OWN, offset })
    }

    fn segment_length(&self, id: u64) -> u64 {
        if id == OWN { self.segment.len() as u64 } else { self.given.as_ref().unwrap().len() as u64 }
    }
}

/// Describes, encodes, decodes and rebuilds with every value checked; `inline_below` moves the border of inline buffers.
fn round_trip(schema: &SchemaRef, batches: &[RecordBatch], inline_below: usize) -> Table {
    let mut vault = Vault { inline_below, ..Vault::default() };
    let message = describe(schema, batches, &mut vault).unwrap();
    let bytes = message.encode();
    let decoded = Message::decode(&bytes, &Limits::default()).unwrap();
    assert_eq!(decoded.encode(), bytes, "a message decodes to itself");
    let segment = Buffer::from(vault.segment.as_slice());
    let table = decoded.rebuild(&|id| (id == OWN).then(|| segment.clone())).unwrap();
    assert_eq!(table.realigned_bytes, 0);
    table
}

fn check(array: ArrayRef) {
    let field = Field::new("column", array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let whole = RecordBatch::try_new(schema.clone(), vec![array.clone()]).unwrap();
    let n = array.len();
    for (start, length) in [(0, n), (1.min(n), n.saturating_sub(1)), (n / 3, n / 2), (n, 0), (n.saturating_sub(1), 1.min(n))] {
        let slice = whole.slice(start, length);
        for inline_below in [0, 64, usize::MAX] {
            let table = round_trip(&schema, std::slice::from_ref(&slice), inline_below);
            assert_eq!(table.schema, schema);
            let back = concat_batches(&schema, &table.batches).unwrap();
            assert_eq!(&slice, &back, "rows {start}..{} of {:?}", start + length, array.data_type());
            for batch in &table.batches {
                batch.column(0).to_data().validate_full().unwrap();
            }
        }
    }
}

fn strings(n: usize) -> Vec<Option<String>> {
    (0..n).map(|i| (i % 5 != 3).then(|| "größe ".repeat(i % 7) + &i.to_string())).collect()
}

fn numbers(n: usize) -> Int64Array {
    (0..n as i64).map(|i| (i % 4 != 1).then_some(i * 1_000_003)).collect()
}

fn every_type(n: usize) -> Vec<ArrayRef> {
    let words = strings(n);
    let ints = Arc::new(numbers(n)) as ArrayRef;
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(NullArray::new(n)),
        Arc::new((0..n).map(|i| (i % 3 != 0).then_some(i % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(StringArray::from(words.clone())),
        Arc::new(LargeStringArray::from(words.clone())),
        Arc::new(StringViewArray::from(words.clone())),
        Arc::new(BinaryArray::from_iter(words.iter().map(|w| w.as_ref().map(String::as_bytes)))),
        Arc::new(LargeBinaryArray::from_iter(words.iter().map(|w| w.as_ref().map(String::as_bytes)))),
        Arc::new(BinaryViewArray::from_iter(words.iter().map(|w| w.as_ref().map(String::as_bytes)))),
        Arc::new(words.iter().map(|w| w.as_deref()).collect::<DictionaryArray<Int32Type>>()),
        Arc::new((0..n).map(|i| (i % 5 != 0).then_some(["a", "b", "c"][i % 3])).collect::<DictionaryArray<UInt8Type>>()),
        Arc::new(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size((0..n).map(|i| (i % 3 > 0).then_some([i as u8; 5])), 5).unwrap(),
        ),
        ints.clone(),
    ];
    let as_i64: [DataType; 11] = [
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Date64,
    ];
    let small: ArrayRef = Arc::new((0..n as i64).map(|i| (i % 4 != 1).then_some(i % 100)).collect::<Int64Array>());
    arrays.extend(as_i64.iter().map(|t| arrow::compute::cast(&small, t).unwrap()));
    for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
        arrays.push(arrow::compute::cast(&ints, &DataType::Timestamp(unit, None)).unwrap());
        arrays.push(arrow::compute::cast(&ints, &DataType::Timestamp(unit, Some("Europe/Berlin".into()))).unwrap());
        arrays.push(arrow::compute::cast(&ints, &DataType::Duration(unit)).unwrap());
    }
    let dates = Int32Array::from_iter_values(0..n as i32);
    arrays.push(Arc::new(dates.reinterpret_cast::<Date32Type>()));
    arrays.push(Arc::new(dates.reinterpret_cast::<Time32SecondType>()));
    arrays.push(Arc::new(numbers(n).reinterpret_cast::<Time64NanosecondType>()));
    arrays.push(Arc::new(dates.reinterpret_cast::<IntervalYearMonthType>()));
    arrays.push(Arc::new(IntervalDayTimeArray::from_iter_values((0..n as i32).map(|i| IntervalDayTime::new(i, 2)))));
    arrays.push(Arc::new(IntervalMonthDayNanoArray::from_iter_values((0..n as i32).map(|i| IntervalMonthDayNano::new(i, 2, 3)))));
    arrays.push(Arc::new(Decimal32Array::from_iter_values(0..n as i32).with_precision_and_scale(9, 2).unwrap()));
    arrays.push(Arc::new(Decimal64Array::from_iter_values(0..n as i64).with_precision_and_scale(18, 2).unwrap()));
    arrays.push(Arc::new(Decimal128Array::from_iter_values((0..n).map(|i| i as i128)).with_precision_and_scale(38, -3).unwrap()));
    arrays.push(Arc::new(
        Decimal256Array::from_iter_values((0..n).map(|i| i256::from_i128(i as i128))).with_precision_and_scale(76, 5).unwrap(),
    ));
    arrays.extend(nested(n, &ints));
    arrays
}

fn nested(n: usize, ints: &ArrayRef) -> Vec<ArrayRef> {
    let item = |t: &DataType| Arc::new(Field::new("item", t.clone(), true));
    let nulls = Some(NullBuffer::from_iter((0..n).map(|i| i % 6 != 2)));
    let words: ArrayRef = Arc::new(StringArray::from(strings(2 * n)));
    let views: ArrayRef = Arc::new(StringViewArray::from(strings(2 * n)));
    let twos = || OffsetBuffer::<i32>::from_lengths(std::iter::repeat_n(2, n));
    let list: ArrayRef = Arc::new(ListArray::new(item(&DataType::Utf8), twos(), words.clone(), nulls.clone()));
    let large: ArrayRef = Arc::new(LargeListArray::new(
        item(list.data_type()),
        OffsetBuffer::from_lengths(std::iter::repeat_n(1, n)),
        list.clone(),
        nulls.clone(),
    ));
    let fixed: ArrayRef = Arc::new(FixedSizeListArray::new(item(&DataType::Utf8View), 2, views.clone(), nulls.clone()));
    let offsets = ScalarBuffer::from_iter((0..n as i32).map(|i| 2 * i));
    let sizes = ScalarBuffer::from_iter((0..n as i32).map(|i| i % 3 % 2));
    let list_view: ArrayRef = Arc::new(ListViewArray::new(item(&DataType::Utf8), offsets, sizes, words.clone(), nulls.clone()));
    let structs: ArrayRef = Arc::new(StructArray::new(
        Fields::from(vec![Field::new("größe", DataType::Int64, true), Field::new("list", list.data_type().clone(), true)]),
        vec![ints.clone(), list.clone()],
        nulls.clone(),
    ));
    let keys: ArrayRef = Arc::new(StringArray::from_iter_values((0..2 * n).map(|i| format!("k{i}"))));
    let entries = StructArray::new(
        Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8View, true)]),
        vec![keys, views],
        None,
    );
    let entries_field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let map: ArrayRef = Arc::new(MapArray::new(entries_field, twos(), entries, nulls, false));
    let ends = Int32Array::from_iter_values((1..=n as i32 / 2).map(|i| 2 * i).chain((n % 2 == 1).then_some(n as i32)));
    let values = StringArray::from(strings(ends.len()));
    let mut arrays = vec![list, large, fixed, list_view, structs, map];
    if n > 0 {
        arrays.push(Arc::new(RunArray::<Int32Type>::try_new(&ends, &values).unwrap()));
    }
    arrays.extend(unions(n, ints));
    arrays
}

fn unions(n: usize, ints: &ArrayRef) -> Vec<ArrayRef> {
    let fields =
        UnionFields::try_new(vec![2, 5], vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)])
            .unwrap();
    let ids: ScalarBuffer<i8> = (0..n).map(|i| if i % 3 == 0 { 2 } else { 5 }).collect();
    let words: ArrayRef = Arc::new(StringArray::from(strings(n)));
    let children = vec![ints.clone(), words];
    let offsets: ScalarBuffer<i32> = (0..n as i32).collect();
    vec![
        Arc::new(UnionArray::try_new(fields.clone(), ids.clone(), None, children.clone()).unwrap()),
        Arc::new(UnionArray::try_new(fields, ids, Some(offsets), children).unwrap()),
    ]
}

#[test]
fn every_type_comes_back_equal_whole_and_sliced() {
    for n in [0, 1, 2, 29, 100] {
        every_type(n).into_iter().for_each(check);
    }
}

#[test]
fn nested_types_inside_nested_types_come_back_equal() {
    for array in every_type(23) {
        let item = Arc::new(Field::new("item", array.data_type().clone(), true));
        let lengths = [5, 0, 7, 1, 10];
        check(Arc::new(ListArray::new(item.clone(), OffsetBuffer::from_lengths(lengths), array.clone(), None)));
        check(Arc::new(StructArray::new(vec![item].into(), vec![array], None)));
    }
}

#[test]
fn empty_tables_keep_schema_and_metadata() {
    let field_id =
        |id: &str| HashMap::from([("PARQUET:field_id".to_owned(), id.to_owned()), ("unit".to_owned(), "m".to_owned())]);
    let inner = Arc::new(Field::new("item", DataType::Int8, true).with_metadata(field_id("2")));
    let fields = vec![Field::new("größe 🚀", DataType::List(inner), true).with_metadata(field_id("1"))];
    let schema = Arc::new(Schema::new_with_metadata(fields, HashMap::from([("k".to_owned(), "v".to_owned())])));
    let table = round_trip(&schema, &[], 0);
    assert_eq!(table.rows(), 0);
    assert_eq!(table.schema.metadata(), schema.metadata());
    let field = table.schema.field(0);
    assert_eq!(field.name(), "größe 🚀");
    assert_eq!(field.metadata(), &HashMap::from([("unit".to_owned(), "m".to_owned())]));
    let DataType::List(inner) = field.data_type() else { panic!("{field}") };
    assert_eq!(inner.metadata(), &HashMap::from([("unit".to_owned(), "m".to_owned())]));
    assert_eq!(round_trip(&schema, &[RecordBatch::new_empty(schema.clone())], 0).batches.len(), 0);
}

#[test]
fn tables_without_columns_keep_their_rows() {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let batch = RecordBatch::try_new_with_options(schema.clone(), vec![], &options).unwrap();
    assert_eq!(round_trip(&schema, &[batch.clone(), batch], 0).rows(), 10);
}

fn wide() -> (SchemaRef, Vec<RecordBatch>) {
    let arrays = every_type(50);
    let fields: Vec<Field> =
        arrays.iter().enumerate().map(|(i, a)| Field::new(format!("c{i}"), a.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    (schema, vec![batch.slice(3, 20), batch.slice(30, 20)])
}

#[test]
fn projection_drops_columns_and_unused_segments() {
    let (schema, batches) = wide();
    let mut vault = Vault { inline_below: 100, ..Vault::default() };
    let message = describe(&schema, &batches, &mut vault).unwrap();
    assert_eq!(message.rows(), 40);
    assert_eq!(message.column_bytes().len(), schema.fields().len());
    assert!(message.column_bytes()[2] > 0);
    assert_eq!(message.segments().len(), 1);
    let some = message.project(&["c4", "c1"]).unwrap();
    let some = Message::decode(&some.encode(), &Limits::default()).unwrap();
    let segment = Buffer::from(vault.segment.as_slice());
    let table = some.rebuild(&|_| Some(segment.clone())).unwrap();
    assert_eq!(table.batches[1], batches[1].project(&[4, 1]).unwrap());
    let inline = message.project(&["c1"]).unwrap();
    assert!(inline.segments().is_empty(), "booleans are inline here: {:?}", inline.segments());
    assert!(inline.encode().len() < message.encode().len() / 4);
    assert_eq!(message.project(&[] as &[&str]).unwrap().rows(), 40);
    assert!(matches!(message.project(&["nope"]), Err(Error::Column { name, .. }) if name == "nope"));
}

#[test]
fn buffers_in_a_segment_are_referred_to_not_placed_again() {
    let (schema, batches) = wide();
    let mut vault = Vault::default();
    let first = describe(&schema, &batches, &mut vault).unwrap();
    let segment = Buffer::from(vault.segment.as_slice());
    let table = first.rebuild(&|_| Some(segment.clone())).unwrap();
    let mut second = Vault { given: Some(segment.clone()), ..Vault::default() };
    let again = describe(&schema, &table.batches, &mut second).unwrap();
    assert_eq!(second.placed, 0, "a table that is passed through is not copied");
    assert_eq!(again.segments().len(), 1);
    let back = again.rebuild(&|id| (id == GIVEN).then(|| segment.clone())).unwrap();
    assert_eq!(back.batches, batches);
}

#[test]
fn slices_do_not_drag_their_parents_along() {
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..10_000).map(|i| format!("a rather long string {i}"))));
    let views: ArrayRef = arrow::compute::cast(&words, &DataType::Utf8View).unwrap();
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1; 10_000]), words.clone(), None));
    for array in [words, views, list] {
        let schema = Arc::new(Schema::new(vec![Field::new("c", array.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![array]).unwrap().slice(5_000, 10);
        let mut vault = Vault::default();
        describe(&schema, &[batch], &mut vault).unwrap();
        assert!(vault.placed < 1_000, "{} bytes for ten strings of {}", vault.placed, schema.field(0).data_type());
    }
}

/// The arrays with all their data in one buffer, which plays the function's own memory, and that buffer.
fn born_in_one_place(schema: &SchemaRef, batch: &RecordBatch) -> (RecordBatch, Buffer) {
    let mut vault = Vault::default();
    let message = describe(schema, std::slice::from_ref(batch), &mut vault).unwrap();
    let memory = Buffer::from(vault.segment.as_slice());
    let table = message.rebuild(&|_| Some(memory.clone())).unwrap();
    (table.batches[0].clone(), memory)
}

#[test]
fn only_what_a_slice_uses_is_live() {
    let word = |i: usize| format!("secret string number {i:05}");
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..1_000).map(word)));
    let views: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..1_000).map(word)));
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2; 500]), words.clone(), None));
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    let list_of_views: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2; 500]), views.clone(), None));
    for array in [words, views, list, list_of_views] {
        let schema = Arc::new(Schema::new(vec![Field::new("c", array.data_type().clone(), true)]));
        let rows = array.len();
        let (born, memory) = born_in_one_place(&schema, &RecordBatch::try_new(schema.clone(), vec![array]).unwrap());
        let part = born.slice(rows / 10, rows / 2);
        let mut vault = Vault { given: Some(memory.clone()), given_is: Home::Own, ..Vault::default() };
        let message = describe(&schema, std::slice::from_ref(&part), &mut vault).unwrap();
        // What is not live is erased before anybody reads it.
        let mut published = vec![0; memory.len()];
        vault.live.iter().for_each(|live| published[live.clone()].copy_from_slice(&memory[live.clone()]));
        let (own, published) = (Buffer::from(vault.segment.as_slice()), Buffer::from(published));
        let table = message.rebuild(&|id| Some(if id == OWN { own.clone() } else { published.clone() })).unwrap();
        assert_eq!(table.batches, [part]);
        let text = String::from_utf8_lossy(&published).into_owned() + &String::from_utf8_lossy(&own);
        let leaked = (0..1_000).filter(|i| !(100..600).contains(i) && text.contains(&word(*i))).count();
        assert_eq!(leaked, 0, "{}", schema.field(0).data_type());
        assert!(vault.placed < 3_000, "{} bytes of {} copied", vault.placed, schema.field(0).data_type());
    }
}

#[test]
fn views_of_many_batches_over_one_buffer_are_not_compacted_one_by_one() {
    let words: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..1_000).map(|i| format!("a rather long string {i:05}"))));
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8View, true)]));
    let (born, memory) = born_in_one_place(&schema, &RecordBatch::try_new(schema.clone(), vec![words]).unwrap());
    let parts: Vec<RecordBatch> = (0..10).map(|i| born.slice(i * 100, 100)).collect();
    let mut vault = Vault { given: Some(memory.clone()), given_is: Home::Own, ..Vault::default() };
    describe(&schema, &parts, &mut vault).unwrap();
    assert_eq!(vault.placed, 0);
    let mut vault = Vault { given: Some(memory), given_is: Home::Own, ..Vault::default() };
    describe(&schema, &parts[4..5], &mut vault).unwrap();
    assert!(vault.placed > 0 && vault.placed < 5_000, "a tenth of the strings is compacted: {} bytes", vault.placed);
}

#[test]
fn what_to_keep_of_a_segment_survives_the_wire() {
    let keep = Keep { length: 1 << 41, live: vec![0..5, 6..7, 4096..1 << 40] };
    let bytes = keep.encode();
    assert_eq!(Keep::decode(&bytes), Some(keep));
    let nothing = Keep { length: 0, live: Vec::new() };
    assert_eq!(Keep::decode(&nothing.encode()), Some(nothing));
    assert_eq!([Keep::decode(&[]), Keep::decode(&bytes[..17]), Keep::decode(&bytes[..16])], [None, None, None]);
    for live in [vec![5..5], vec![0..5, 5..6], vec![9..12, 0..3], vec![0..101]] {
        assert_eq!(Keep::decode(&Keep { length: 100, live }.encode()), None);
    }
}

#[test]
fn misaligned_buffers_are_copied_and_counted() {
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(0..100))]).unwrap();
    let mut vault = Vault::default();
    let message = describe(&schema, std::slice::from_ref(&batch), &mut vault).unwrap();
    let mut shifted = vec![0];
    shifted.extend_from_slice(&vault.segment);
    let shifted = Buffer::from(shifted.as_slice()).slice(1);
    let table = message.rebuild(&|_| Some(shifted.clone())).unwrap();
    assert_eq!(table.batches[0], batch);
    assert_eq!(table.realigned_bytes, 800);
}

fn report_code(error: &Error) -> String {
    use forebay_types::Coded;
    error.report().code.to_string()
}

fn sample() -> (Vec<u8>, Buffer) {
    let (schema, batches) = wide();
    let mut vault = Vault { inline_below: 100, ..Vault::default() };
    let bytes = describe(&schema, &batches, &mut vault).unwrap().encode();
    (bytes, Buffer::from(vault.segment.as_slice()))
}

#[test]
fn ipc0001_damaged_messages_are_refused() {
    let (bytes, _) = sample();
    for end in [0, 3, 10, 56, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(report_code(&Message::decode(&bytes[..end], &Limits::default()).unwrap_err()), "IPC0001");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(report_code(&Message::decode(&longer, &Limits::default()).unwrap_err()), "IPC0001");
}

#[test]
fn ipc0002_other_versions_are_refused() {
    let (mut bytes, _) = sample();
    bytes[4] = 2;
    let error = Message::decode(&bytes, &Limits::default()).unwrap_err();
    assert_eq!(report_code(&error), "IPC0002");
    assert!(error.to_string().contains("version 2"));
}

#[test]
fn ipc0003_limits_hold() {
    let (bytes, _) = sample();
    let d = Limits::default();
    for limits in [
        Limits { message_bytes_max: 100, ..d },
        Limits { columns_max: 3, ..d },
        Limits { batches_max: 1, ..d },
        Limits { segments_max: 0, ..d },
        Limits { rows_max: 5, ..d },
    ] {
        assert_eq!(report_code(&Message::decode(&bytes, &limits).unwrap_err()), "IPC0003", "{limits:?}");
    }
    assert!(Message::decode(&bytes, &Limits { depth_max: 2, ..d }).is_err());
}

#[test]
fn ipc0004_batches_of_another_schema_are_refused() {
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Int32, true)]));
    let other = Arc::new(Schema::new(vec![Field::new("c", DataType::Int64, true)]));
    let error = describe(&schema, &[RecordBatch::new_empty(other)], &mut Vault::default()).unwrap_err();
    assert_eq!(error.to_string(), "column `c` of a batch is Int64, the table's schema says Int32");
    assert_eq!(report_code(&error), "IPC0004");
    let error = describe(&schema, &[RecordBatch::new_empty(Arc::new(Schema::empty()))], &mut Vault::default()).unwrap_err();
    assert_eq!(report_code(&error), "IPC0004");
}

#[test]
fn ipc0005_missing_and_short_segments_are_named() {
    let (bytes, segment) = sample();
    let message = Message::decode(&bytes, &Limits::default()).unwrap();
    let error = message.rebuild(&|_| None).unwrap_err();
    assert_eq!((report_code(&error).as_str(), error.to_string().as_str()), ("IPC0005", "segment 7 is missing"));
    let error = message.rebuild(&|_| Some(segment.slice_with_length(0, 64))).unwrap_err();
    assert_eq!(report_code(&error), "IPC0005");
}

#[test]
fn ipc0006_an_unknown_column_lists_what_is_there() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)]));
    let message = describe(&schema, &[], &mut Vault::default()).unwrap();
    let error = message.project(&["c"]).unwrap_err();
    assert_eq!(error.to_string(), "there is no column `c`; the columns are `a`, `b`");
    assert_eq!(report_code(&error), "IPC0006");
}

#[test]
fn ipc0007_buffers_that_are_no_array_are_refused() {
    let schema = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(vec!["ä", "b"]))]).unwrap();
    let mut vault = Vault::default();
    let message = describe(&schema, &[batch], &mut vault).unwrap();
    vault.segment[64] = 0xff;
    let segment = Buffer::from(vault.segment.as_slice());
    assert_eq!(report_code(&message.rebuild(&|_| Some(segment.clone())).unwrap_err()), "IPC0007");
}

#[test]
fn ipc0008_a_placer_that_fails_says_why() {
    struct Full;
    impl Placer for Full {
        fn home(&self, _: &[u8]) -> Option<Home> {
            None
        }
        fn place(&mut self, buffer: &Buffer, _: &[Range<usize>], _: Option<CopyReason>) -> Result<Placement, Error> {
            Err(Error::Place { bytes: buffer.len(), source: "no room".into() })
        }
        fn segment_length(&self, _: u64) -> u64 {
            0
        }
    }
    let (schema, batches) = wide();
    let error = describe(&schema, &batches, &mut Full).unwrap_err();
    assert_eq!(report_code(&error), "IPC0008");
    assert!(forebay_types::Coded::report(&error).to_string().contains("no room"));
}

/// Version 1 as committed: it must stay readable, and be written the same way.
#[test]
fn golden_version_1() {
    let (schema, batches) = golden_table();
    let mut vault = Vault { inline_below: 64, ..Vault::default() };
    let bytes = describe(&schema, &batches, &mut vault).unwrap().encode();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
    if std::env::var_os("FOREBAY_WRITE_GOLDEN").is_some() {
        std::fs::write(folder.join("v1.sipc"), &bytes).unwrap();
        std::fs::write(folder.join("v1.segment"), &vault.segment).unwrap();
    }
    let golden = std::fs::read(folder.join("v1.sipc")).unwrap();
    let segment = Buffer::from(std::fs::read(folder.join("v1.segment")).unwrap().as_slice());
    let message = Message::decode(&golden, &Limits::default()).unwrap();
    let table = message.rebuild(&|id| (id == OWN).then(|| segment.clone())).unwrap();
    assert_eq!(table.schema, schema);
    assert_eq!(table.batches, batches);
    assert_eq!(golden, bytes, "the format has changed: raise VERSION and add a golden file");
}

fn golden_table() -> (SchemaRef, Vec<RecordBatch>) {
    let arrays: Vec<ArrayRef> = every_type(20).into_iter().filter(|a| !matches!(a.data_type(), DataType::Union(..))).collect();
    let fields: Vec<Field> =
        arrays.iter().enumerate().map(|(i, a)| Field::new(format!("c{i}"), a.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    (schema, vec![batch.slice(0, 9), batch.slice(9, 11)])
}

#[test]
fn previews_show_first_and_last_rows() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("word", DataType::Utf8, true)]));
    let batches: Vec<RecordBatch> = [0..7_i64, 7..25]
        .map(|range| {
            let words = StringArray::from_iter(range.clone().map(|i| (i != 24).then(|| "x".repeat(2 * i as usize))));
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(range)), Arc::new(words)]).unwrap()
        })
        .into();
    let text = |which| {
        let mut excerpt = Excerpt::new(which);
        batches.iter().for_each(|batch| excerpt.see(batch));
        excerpt.render(&schema).unwrap()
    };
    let head = text(Preview::Head);
    assert_eq!(head.lines().count(), 13, "{head}");
    assert!(head.starts_with("n  word\n─"), "{head}");
    assert!(head.ends_with("\n9  xxxxxxxxxxxxxxxxxx\nfirst 10 of 25 rows"), "{head}");
    let tail = text(Preview::Tail);
    assert!(tail.contains("\n15  xxxx") && tail.contains("…\n24  null\nlast 10 of 25 rows"), "{tail}");
    assert_eq!(Excerpt::new(Preview::Head).render(&schema).unwrap(), "n  word\n─  ────\n0 rows");
    let (schema, batches) = wide();
    let text = render(&schema, &batches).unwrap();
    assert!(text.lines().next().unwrap().contains("c7") && !text.lines().next().unwrap().contains("c20"), "{text}");
}

#[test]
fn calls_and_replies_are_json_as_documented() {
    use crate::call::*;
    let call = Call {
        node: "m".into(),
        segments: vec![SegmentRef { id: 1, length: 2 }],
        inputs: vec![CallInput { name: "data".into(), columns: None, dictionary: vec!["c".into()] }],
        work: Work::Python {
            project: "/p".into(),
            file: "models.py".into(),
            function: "m".into(),
            arguments: vec![Argument::Table { name: "data".into(), form: "pandas".into() }],
            truth: false,
            columns: None,
            strict: true,
        },
        output_segment: 9,
        preview: Some(Preview::Head),
        storage: Storage::default(),
    };
    let text = serde_json::to_string(&call).unwrap();
    assert!(!text.contains("storage"), "{text}");
    let told = Call { storage: Storage([("aws_secret_access_key".to_owned(), "s3cr3t".to_owned())].into()), ..call.clone() };
    assert!(!format!("{told:?}").contains("s3cr3t"));
    assert!(
        text.contains(r#""work":{"kind":"python""#) && text.contains(r#"{"is":"table","name":"data","form":"pandas"}"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Call>(&text).unwrap(), call);
    assert_eq!(
        serde_json::from_str::<Reply>(r#"{"reply":"truth","value":true}"#).unwrap(),
        Reply::Truth { value: true, message: None }
    );
    assert_eq!(Bytes { referenced: 1, reshared: 2, copied: 3, inline: 4 }.total(), 10);
}

/// A tree of random types over `n` rows, made by picking from every type and wrapping.
fn any_array() -> impl Strategy<Value = ArrayRef> {
    (0_usize..60, any::<prop::sample::Index>(), 0_usize..3).prop_map(|(n, pick, wraps)| {
        let mut array = pick.get(&every_type(n)).clone();
        for _ in 0..wraps {
            let item = Arc::new(Field::new("item", array.data_type().clone(), true));
            let lengths: Vec<usize> = std::iter::repeat_n(3, array.len() / 3).chain([array.len() % 3]).collect();
            array = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), array, None));
        }
        array
    })
}

proptest! {
    #[test]
    fn any_slices_of_any_array_come_back_equal(array in any_array(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4), inline in 0_usize..300) {
        let schema = Arc::new(Schema::new(vec![Field::new("c", array.data_type().clone(), true)]));
        let whole = RecordBatch::try_new(schema.clone(), vec![array]).unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.num_rows() + 1)).collect();
        cuts.sort_unstable();
        let batches: Vec<RecordBatch> = cuts.windows(2).map(|w| whole.slice(w[0], w[1] - w[0])).filter(|b| b.num_rows() > 0).collect();
        prop_assert_eq!(round_trip(&schema, &batches, inline).batches, batches);
    }

    /// Whatever is done to the bytes, decoding and rebuilding return; they never panic and never read outside.
    #[test]
    fn mutated_messages_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in prop::option::of(any::<prop::sample::Index>())) {
        thread_local!(static SAMPLE: (Vec<u8>, Buffer) = sample());
        let (mut bytes, segment) = SAMPLE.with(Clone::clone);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(message) = Message::decode(&bytes, &Limits::default()) {
            let _ = message.rebuild(&|_| Some(segment.clone()));
            let _ = message.encode();
            let _ = message.column_bytes();
        }
    }

    #[test]
    fn random_numbers_in_the_tree_never_panic(at in any::<prop::sample::Index>(), value in prop_oneof![any::<u64>(), Just(u64::MAX), 0_u64..100], narrow in any::<bool>()) {
        thread_local!(static SAMPLE: (Vec<u8>, Buffer) = sample());
        let (mut bytes, segment) = SAMPLE.with(Clone::clone);
        let at = at.index(bytes.len() / 8 - 1) * 8;
        let width = if narrow { 4 } else { 8 };
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        if let Ok(message) = Message::decode(&bytes, &Limits::default()) {
            let _ = message.rebuild(&|_| Some(segment.clone()));
        }
    }
}
