//! Plain strings as views over the same bytes.
//!
//! Engines judge by the capacity of a view array's buffers whether it keeps much more memory than it uses, and if so copy its
//! strings together. A buffer that is a slice of a mapped segment has the capacity of the whole segment, so that everything
//! would be copied: here every buffer gets an allocation that spans exactly its bytes.

use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::builder::make_view;
use arrow::array::{Array, ArrayRef, AsArray, GenericByteArray, GenericByteViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, BinaryViewType, ByteArrayType, ByteViewType, DataType, GenericBinaryType, GenericStringType, StringViewType,
};

/// Strings up to this length are part of their view.
const INLINE_BYTES_MAX: usize = 12;
/// Bytes a view's offset can reach into its buffer: Arrow has it as `i32`.
const BLOCK_BYTES_MAX: usize = i32::MAX as usize;

/// The layout of views for a layout of strings or binaries; other types are `None`.
#[must_use]
pub fn view_type(kind: &DataType) -> Option<DataType> {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some(DataType::BinaryView),
        _ => None,
    }
}

/// Strings or binaries as views over the bytes of `array`, none of which are copied: 16 bytes per row are made, or nothing if
/// they are views already. The buffers span no more than the array does, so slices should be taken before. `None` for other
/// types, and if a value is longer than 2 GiB.
#[must_use]
pub fn as_views(array: &ArrayRef) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::Utf8 => from_plain::<GenericStringType<i32>, StringViewType>(array.as_bytes()),
        DataType::LargeUtf8 => from_plain::<GenericStringType<i64>, StringViewType>(array.as_bytes()),
        DataType::Binary => from_plain::<GenericBinaryType<i32>, BinaryViewType>(array.as_bytes()),
        DataType::LargeBinary => from_plain::<GenericBinaryType<i64>, BinaryViewType>(array.as_bytes()),
        DataType::Utf8View => Some(exact::<StringViewType>(array.as_byte_view())),
        DataType::BinaryView => Some(exact::<BinaryViewType>(array.as_byte_view())),
        _ => None,
    }
}

fn from_plain<S, V>(array: &GenericByteArray<S>) -> Option<ArrayRef>
where
    S: ByteArrayType,
    V: ByteViewType<Native = S::Native>,
{
    let (offsets, bytes) = (array.value_offsets(), array.values());
    let mut views: Vec<u128> = Vec::with_capacity(array.len());
    let mut blocks: Vec<Buffer> = Vec::new();
    // First byte of the current block, and the end of its last long value.
    let (mut start, mut end) = (offsets[0].as_usize(), offsets[0].as_usize());
    for (row, pair) in offsets.windows(2).enumerate() {
        let (from, to) = (pair[0].as_usize(), pair[1].as_usize());
        let value = &bytes[from..to];
        if array.is_null(row) {
            views.push(0);
        } else if value.len() <= INLINE_BYTES_MAX {
            views.push(make_view(value, 0, 0));
        } else if value.len() > BLOCK_BYTES_MAX {
            return None;
        } else {
            if to - start > BLOCK_BYTES_MAX {
                blocks.push(owned(bytes.slice_with_length(start, end - start)));
                start = from;
            }
            end = to;
            views.push(make_view(value, u32::try_from(blocks.len()).ok()?, u32::try_from(from - start).ok()?));
        }
    }
    if end > start {
        blocks.push(owned(bytes.slice_with_length(start, end - start)));
    }
    // SAFETY: safe construction would check every byte for UTF-8 again, which reads the whole column. Each view was made of a
    // value of `array`, whose bytes lie where the view says in the block it names; they are valid for type `V` because they are
    // valid for `S`, which has the same native type. Views are as many as rows, and `array` has its nulls for those.
    let views = unsafe { GenericByteViewArray::<V>::new_unchecked(ScalarBuffer::from(views), blocks, array.nulls().cloned()) };
    Some(Arc::new(views))
}

/// The same views over buffers that are as long as they are.
fn exact<V: ByteViewType>(array: &GenericByteViewArray<V>) -> ArrayRef {
    let buffers: Vec<Buffer> = array.data_buffers().iter().cloned().map(owned).collect();
    // SAFETY: views and nulls are those of a valid array, and every buffer holds the same bytes at the same place as before.
    Arc::new(unsafe { GenericByteViewArray::<V>::new_unchecked(array.views().clone(), buffers, array.nulls().cloned()) })
}

/// A buffer over the same bytes, whose allocation is no larger than they are.
fn owned(buffer: Buffer) -> Buffer {
    if buffer.capacity() == buffer.len() {
        return buffer;
    }
    let Some(address) = NonNull::new(buffer.as_ptr().cast_mut()) else { return buffer };
    let length = buffer.len();
    // SAFETY: the bytes are valid for reads and do not change as long as `buffer` lives, which the new buffer owns.
    unsafe { Buffer::from_custom_allocation(address, length, Arc::new(buffer)) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, LargeBinaryArray, LargeStringArray, StringArray, StringViewArray};
    use arrow::compute::cast;
    use proptest::prelude::*;

    use super::*;

    fn inside(array: &dyn Array, bytes: &Buffer) -> bool {
        let range = bytes.as_ptr_range();
        let data = array.to_data();
        data.buffers()[1..].iter().all(|buffer| range.contains(&buffer.as_ptr()) && buffer.capacity() == buffer.len())
    }

    proptest! {
        /// Views of any slice are the same values, over the same bytes, and keep no more than the slice spans.
        #[test]
        fn views_are_the_values_where_they_are(
            words in proptest::collection::vec(proptest::option::of("[a-zü]{0,20}"), 0..40), from in 0_usize..40, rows in 0_usize..40,
        ) {
            let from = from.min(words.len());
            let rows = rows.min(words.len() - from);
            let plain = StringArray::from_iter(words.iter().map(Option::as_deref));
            let large = LargeStringArray::from_iter(words.iter().map(Option::as_deref));
            let binary = BinaryArray::from_iter(words.iter().map(|word| word.as_ref().map(String::as_bytes)));
            let large_binary = LargeBinaryArray::from_iter(words.iter().map(|word| word.as_ref().map(String::as_bytes)));
            let arrays: [(ArrayRef, Buffer); 4] = [
                (Arc::new(plain.clone()), plain.values().clone()),
                (Arc::new(large.clone()), large.values().clone()),
                (Arc::new(binary.clone()), binary.values().clone()),
                (Arc::new(large_binary.clone()), large_binary.values().clone()),
            ];
            for (array, bytes) in arrays {
                let array = array.slice(from, rows);
                let views = as_views(&array).expect("strings");
                prop_assert_eq!(Some(views.data_type().clone()), view_type(array.data_type()));
                prop_assert_eq!(&cast(&views, array.data_type()).expect("it turns back"), &array);
                prop_assert!(views.to_data().validate_full().is_ok());
                prop_assert!(inside(&views, &bytes));
            }
        }
    }

    #[test]
    fn slices_keep_what_they_span_and_short_strings_keep_nothing() {
        let long = StringArray::from_iter_values((0..100).map(|row| format!("a text with number {row:04}")));
        let array: ArrayRef = Arc::new(long);
        let views = as_views(&array.slice(10, 5)).expect("strings");
        assert_eq!(views.as_string_view().data_buffers().iter().map(Buffer::len).collect::<Vec<_>>(), [5 * 23]);
        let short: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|row| row.to_string())));
        assert!(as_views(&short).expect("strings").as_string_view().data_buffers().is_empty());
    }

    #[test]
    fn views_stay_and_lose_the_capacity_around_them() {
        let block = Buffer::from_vec(b"nothing here, then a text of some length, and nothing".to_vec());
        let views = StringViewArray::try_new(
            ScalarBuffer::from(vec![make_view(&block[19..40], 0, 1)]),
            vec![block.slice_with_length(18, 24)],
            None,
        );
        let views: ArrayRef = Arc::new(views.expect("valid views"));
        let exact = as_views(&views).expect("views");
        assert_eq!(&exact, &views);
        assert!(inside(&exact, &block) && !inside(&views, &block));
        assert_eq!(exact.as_string_view().views().inner().as_ptr(), views.as_string_view().views().inner().as_ptr());
        assert!(as_views(&(Arc::new(Int64Array::from(vec![1])) as ArrayRef)).is_none());
    }
}
