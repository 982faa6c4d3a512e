//! Every type comes back as it went in, with equal values.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::NullBuffer;
use arrow::datatypes::*;

use super::{Lake, all, batch, empty};
use crate::load;

/// A value for every row but each fifth.
fn some(row: i64) -> Option<i64> {
    (row % 5 != 3).then_some(row)
}

macro_rules! column {
    ($array:ty, $value:expr) => {
        Arc::new((0..40).map(|row| some(row).map($value)).collect::<$array>()) as ArrayRef
    };
}

fn small(row: i64) -> i8 {
    i8::try_from(row).unwrap()
}

fn numbers() -> Vec<(&'static str, ArrayRef)> {
    let decimals = |factor: i128| (0..40).map(move |row| some(row).map(|row| i128::from(row) * factor));
    let wide = decimals(10i128.pow(30)).collect::<Decimal128Array>().with_precision_and_scale(38, 5).unwrap();
    let narrow = decimals(-1_234_567).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap();
    let halves: Vec<Option<f32>> = (0..40).map(|row| some(row).map(|row| f32::from(small(row)) / 2.0)).collect();
    let half = arrow::compute::cast(&Float32Array::from(halves), &DataType::Float16).unwrap();
    vec![
        ("bool", column!(BooleanArray, |row| row % 2 == 0)),
        ("int8", column!(Int8Array, |row| small(row) - 20)),
        ("int16", column!(Int16Array, |row| i16::from(small(row)) * 800)),
        ("int32", column!(Int32Array, |row| i32::from(small(row)) << 25)),
        ("int64", column!(Int64Array, |row| (row - 20) << 57)),
        ("uint8", column!(UInt8Array, |row| 255 - small(row).cast_unsigned())),
        ("uint16", column!(UInt16Array, |row| u16::MAX - u16::from(small(row).cast_unsigned()))),
        ("uint32", column!(UInt32Array, |row| u32::MAX - u32::from(small(row).cast_unsigned()))),
        ("uint64", column!(UInt64Array, |row| u64::MAX - row.cast_unsigned())),
        ("float16", half),
        ("float32", column!(Float32Array, |row| f32::from(small(row)) / 3.0)),
        ("float64", column!(Float64Array, |row| f64::from(small(row)) / 3.0)),
        (
            "special",
            column!(Float64Array, |row| [f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE]
                [usize::try_from(row % 4).unwrap()]),
        ),
        ("decimal", Arc::new(narrow)),
        ("decimal38", Arc::new(wide)),
    ]
}

fn times() -> Vec<(&'static str, ArrayRef)> {
    let micros = || (0..40).map(|row| some(row).map(|row| (row - 20) * 3_600_000_001));
    let nanos = || micros().map(|value| value.map(|value| value * 1000));
    vec![
        ("date32", column!(Date32Array, |row| i32::from(small(row)) - 3)),
        ("date64", column!(Date64Array, |row| (row - 3) * 86_400_000)),
        ("time32_s", column!(Time32SecondArray, |row| i32::from(small(row)))),
        ("time32_ms", column!(Time32MillisecondArray, |row| i32::from(small(row)))),
        ("time64_us", column!(Time64MicrosecondArray, |row| row * 2_000_000_001)),
        ("time64_ns", column!(Time64NanosecondArray, |row| row * 1000)),
        ("s", column!(TimestampSecondArray, |row| (row - 20) * 100_001)),
        ("ms", column!(TimestampMillisecondArray, |row| (row - 20) * 100_001)),
        ("us", Arc::new(micros().collect::<TimestampMicrosecondArray>())),
        ("ns", Arc::new(nanos().collect::<TimestampNanosecondArray>())),
        ("utc", Arc::new(micros().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))),
        ("offset", Arc::new(micros().collect::<TimestampMicrosecondArray>().with_timezone("+02:00"))),
        ("berlin", Arc::new(nanos().collect::<TimestampNanosecondArray>().with_timezone("Europe/Berlin"))),
    ]
}

fn texts() -> Vec<(&'static str, ArrayRef)> {
    let words: Vec<Option<String>> = (0..40).map(|row| some(row).map(|row| format!("ü{row} \"a\\b")[..].repeat(2))).collect();
    let bytes: Vec<Option<Vec<u8>>> = (0..40).map(|row| some(row).map(|row| vec![small(row).cast_unsigned(), 0, 255])).collect();
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.iter().map(Option::as_deref), 3);
    vec![
        ("utf8", Arc::new(StringArray::from(words.clone()))),
        ("large_utf8", Arc::new(LargeStringArray::from(words))),
        ("binary", Arc::new(BinaryArray::from_iter(bytes.clone()))),
        ("large_binary", Arc::new(LargeBinaryArray::from_iter(bytes.clone()))),
        ("fixed", Arc::new(fixed.unwrap())),
    ]
}

fn list(row: i64) -> Option<Vec<Option<i64>>> {
    some(row).map(|row| (0..row % 4).map(|item| (item != 1).then_some(item)).collect())
}

fn nested() -> Vec<(&'static str, ArrayRef)> {
    let narrow = |row| list(row).map(|items| items.into_iter().map(|item| item.map(small).map(i8::cast_unsigned)));
    let pair = |row| some(row).map(|row| vec![Some(small(row)), None]);
    let inner: ArrayRef = column!(UInt64Array, |row| row.cast_unsigned());
    let required: ArrayRef = Arc::new(Int32Array::from_iter_values(0..40));
    let when: ArrayRef = column!(TimestampNanosecondArray, |row| row * 1000);
    let fields: Fields = vec![
        Field::new("größe", DataType::UInt64, true),
        Field::new("required", DataType::Int32, false),
        Field::new("when", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
    ]
    .into();
    let valid: NullBuffer = (0..40).map(|row| row % 7 != 2).collect::<Vec<bool>>().into();
    let plain = StructArray::try_new(fields, vec![inner, required, when], Some(valid)).unwrap();
    let item = Arc::new(Field::new("item", plain.data_type().clone(), true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths((0..40).map(|_| 1));
    let structs = ListArray::try_new(item, offsets, Arc::new(plain.clone()), None).unwrap();
    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int64Builder::new());
    for row in 0..40 {
        for key in 0..some(row).unwrap_or(0) % 3 {
            map.keys().append_value(format!("k{key}"));
            map.values().append_option((key != 1).then_some(row));
        }
        map.append(some(row).is_some()).unwrap();
    }
    vec![
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>((0..40).map(list)))),
        ("large_list", Arc::new(LargeListArray::from_iter_primitive::<UInt8Type, _, _>((0..40).map(narrow)))),
        ("fixed_list", Arc::new(FixedSizeListArray::from_iter_primitive::<Int8Type, _, _>((0..40).map(pair), 2))),
        ("struct", Arc::new(plain)),
        ("structs", Arc::new(structs)),
        ("map", Arc::new(map.finish())),
    ]
}

/// Writes rows and reads them back, from several commits.
async fn check(rows: &RecordBatch) {
    let lake = Lake::new();
    let written = lake.table("", rows).await;
    let info = load(&written.metadata_location).await.unwrap();
    assert_eq!(info.arrow_schema, rows.schema());
    let back = all(&written).await;
    for (index, field) in rows.schema().fields().iter().enumerate() {
        assert_eq!(back.column(index), rows.column(index), "{}", field.name());
    }
    let again = lake.write(Some(&written), crate::Mode::Append, "", &rows.slice(5, 10)).await.unwrap();
    let back = all(&again).await;
    assert_eq!(back.slice(40, 10), rows.slice(5, 10));
    let replaced = lake.write(Some(&again), crate::Mode::Replace, "", &empty(&rows.schema())).await.unwrap();
    assert_eq!(all(&replaced).await, empty(&rows.schema()));
}

#[tokio::test]
async fn numbers_round_trip() {
    check(&batch(numbers())).await;
}

#[tokio::test]
async fn times_round_trip() {
    check(&batch(times())).await;
}

#[tokio::test]
async fn texts_round_trip() {
    check(&batch(texts())).await;
}

#[tokio::test]
async fn nested_types_round_trip() {
    check(&batch(nested())).await;
}

#[tokio::test]
async fn nullability_round_trips() {
    let item = Arc::new(Field::new("item", DataType::Int64, false));
    let lists = ListArray::new(
        item,
        arrow::buffer::OffsetBuffer::from_lengths((0..40).map(|_| 1)),
        Arc::new(Int64Array::from_iter_values(0..40)),
        None,
    );
    let fields = vec![
        Field::new("required", DataType::Int64, false),
        Field::new("optional", DataType::Int64, true),
        Field::new("items", lists.data_type().clone(), false),
    ];
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
    let columns = vec![Arc::clone(&numbers), numbers, Arc::new(lists) as ArrayRef];
    check(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()).await;
}

#[tokio::test]
async fn dictionaries_and_null_columns_become_plain() {
    let words: DictionaryArray<Int32Type> = (0..40).map(|row| ["a", "b"].get(row % 3).copied()).collect();
    let nulls: ArrayRef = Arc::new(NullArray::new(40));
    let lake = Lake::new();
    let written = lake.table("", &batch(vec![("words", Arc::new(words.clone())), ("nulls", nulls)])).await;
    let back = all(&written).await;
    assert_eq!(back.column(0), &arrow::compute::cast(&words, &DataType::Utf8).unwrap());
    assert_eq!((back.column(1).data_type(), back.column(1).null_count()), (&DataType::Utf8, 40));
}

#[tokio::test]
async fn a_thousand_columns_and_any_name() {
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
    let mut names: Vec<String> = (0..1000).map(|index| format!("column {index}")).collect();
    names.extend(["größe 漢字", "a.b", "a b", "\"q\"", "'q'", "A", "a", "x=1/y", "_", "1"].map(str::to_owned));
    check(&batch(names.iter().map(|name| (name.as_str(), Arc::clone(&number))).collect())).await;
}

#[tokio::test]
async fn columns_partitioned_by_come_back_whatever_their_name_and_type() {
    for (name, column) in numbers().into_iter().chain(times()).chain(texts()) {
        let lake = Lake::new();
        let name = format!("größe {name}");
        let order: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
        let rows = batch(vec![(name.as_str(), column), ("id", order)]);
        let written = lake.table(&name, &rows).await;
        let back = all(&written).await;
        let order = arrow::compute::sort_to_indices(back.column(1), None, None).unwrap();
        assert_eq!(arrow::compute::take_record_batch(&back, &order).unwrap(), rows, "{name}");
    }
}
