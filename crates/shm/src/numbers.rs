//! Views as numbers: 16 bytes that an engine moves about without knowing what they stand for.
//!
//! An engine that gathers rows of views may decide to copy the strings together. Where it only has to carry a column from one place
//! to another it can be given numbers instead: a view is a number of 128 bits once its buffer is named for all arrays alike.
//!
//! ```text
//! view      length 32 | prefix 32 | buffer of this array 32 | offset 32       up to 12 bytes: length 32 | the bytes
//! number    length 32 | prefix 32 | buffer of all arrays 32 | offset 32                       the same
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, GenericByteViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, Decimal128Type, StringViewType};

/// Strings up to this length are part of their view.
const INLINE_BYTES_MAX: u32 = 12;
/// The bits of a view that name its buffer.
const BUFFER_BITS: u128 = (u32::MAX as u128) << 64;

/// The type of numbers that stand for views. Nothing may compute with them.
pub const NUMBER: DataType = DataType::Decimal128(38, 0);

/// The buffers that numbers name. They live as long as this does.
#[derive(Debug, Default)]
pub struct ViewNumbers {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    buffers: Vec<Buffer>,
    places: HashMap<(usize, usize), u32>,
}

impl ViewNumbers {
    /// An array of views as numbers. `None` for other arrays. Costs 16 bytes per row.
    #[must_use]
    pub fn encode(&self, array: &ArrayRef) -> Option<ArrayRef> {
        match array.data_type() {
            DataType::Utf8View => Some(self.encode_views::<StringViewType>(array.as_byte_view())),
            DataType::BinaryView => Some(self.encode_views::<BinaryViewType>(array.as_byte_view())),
            _ => None,
        }
    }

    /// Numbers of [`ViewNumbers::encode`] as views of type `kind`, the type they had, over the buffers that they need. `None` for
    /// other arrays and types, and if a number names bytes that are not there.
    #[must_use]
    pub fn decode(&self, numbers: &ArrayRef, kind: &DataType) -> Option<ArrayRef> {
        let numbers = numbers.as_primitive_opt::<Decimal128Type>()?;
        match kind {
            DataType::Utf8View => self.decode_views::<StringViewType>(numbers),
            DataType::BinaryView => self.decode_views::<BinaryViewType>(numbers),
            _ => None,
        }
    }

    fn encode_views<T: ByteViewType>(&self, array: &GenericByteViewArray<T>) -> ArrayRef {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let places: Vec<u32> = array.data_buffers().iter().map(|buffer| known.place(buffer)).collect();
        drop(known);
        let number = |(row, view): (usize, &u128)| match array.is_valid(row) {
            false => 0,
            true if length(*view) <= INLINE_BYTES_MAX => (*view).cast_signed(),
            true => renamed(*view, places[buffer(*view) as usize]).cast_signed(),
        };
        let numbers: Vec<i128> = array.views().iter().enumerate().map(number).collect();
        Arc::new(Decimal128Array::new(ScalarBuffer::from(numbers), array.nulls().cloned()).with_data_type(NUMBER))
    }

    fn decode_views<T: ByteViewType>(&self, numbers: &Decimal128Array) -> Option<ArrayRef> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Of all buffers, the place in the new array.
        let mut places: Vec<Option<u32>> = vec![None; known.buffers.len()];
        let mut buffers: Vec<Buffer> = Vec::new();
        let mut views: Vec<u128> = Vec::with_capacity(numbers.len());
        for (row, number) in numbers.values().iter().enumerate() {
            let number = number.cast_unsigned();
            if numbers.is_null(row) {
                views.push(0);
                continue;
            }
            if length(number) <= INLINE_BYTES_MAX {
                views.push(number);
                continue;
            }
            let named = buffer(number) as usize;
            let bytes = known.buffers.get(named)?;
            let offset = (number >> 96) as usize;
            if offset + length(number) as usize > bytes.len() {
                return None;
            }
            let place = match places[named] {
                Some(place) => place,
                None => {
                    let place = u32::try_from(buffers.len()).ok()?;
                    buffers.push(bytes.clone());
                    places[named] = Some(place);
                    place
                }
            };
            views.push(renamed(number, place));
        }
        // SAFETY: safe construction would check every string for UTF-8 again, which reads them all. Each long view lies within the
        // buffer it names, as was just checked. That it is a value there, and UTF-8 where `T` is text, holds because numbers are
        // made by `encode` from valid arrays of the same type alone, and whoever carries them moves them whole.
        Some(Arc::new(unsafe {
            GenericByteViewArray::<T>::new_unchecked(ScalarBuffer::from(views), buffers, numbers.nulls().cloned())
        }))
    }
}

impl Known {
    fn place(&mut self, buffer: &Buffer) -> u32 {
        let next = u32::try_from(self.buffers.len()).expect("fewer than 2^32 buffers: each takes more than a byte of memory");
        let buffers = &mut self.buffers;
        *self.places.entry((buffer.as_ptr() as usize, buffer.len())).or_insert_with(|| {
            buffers.push(buffer.clone());
            next
        })
    }
}

fn length(view: u128) -> u32 {
    (view & u128::from(u32::MAX)) as u32
}

fn buffer(view: u128) -> u32 {
    ((view & BUFFER_BITS) >> 64) as u32
}

fn renamed(view: u128, buffer: u32) -> u128 {
    view & !BUFFER_BITS | u128::from(buffer) << 64
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryViewArray, Int64Array, StringViewArray, UInt32Array};
    use arrow::compute::{concat, take};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Numbers of several arrays, put together and picked from, are the strings they were, and no other buffers are kept.
        #[test]
        fn numbers_are_the_strings_they_stand_for(
            arrays in proptest::collection::vec(proptest::collection::vec(proptest::option::of("[a-zü]{0,20}"), 1..20), 1..5),
            picked in proptest::collection::vec(0_usize..1000, 0..30),
        ) {
            let all = ViewNumbers::default();
            let views: Vec<ArrayRef> = arrays.iter().map(|words| Arc::new(StringViewArray::from_iter(words.iter().map(Option::as_deref))) as ArrayRef).collect();
            let numbers: Vec<ArrayRef> = views.iter().map(|array| all.encode(array).expect("views")).collect();
            let together = |arrays: &[ArrayRef]| concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>()).expect("of one type");
            let (views, numbers) = (together(&views), together(&numbers));
            let rows = UInt32Array::from_iter_values(picked.iter().map(|row| u32::try_from(row % views.len()).expect("small")));
            let (expected, numbers) = (take(&views, &rows, None).expect("inside"), take(&numbers, &rows, None).expect("inside"));
            let back = all.decode(&numbers, &DataType::Utf8View).expect("known numbers");
            prop_assert_eq!(&back, &expected);
            prop_assert!(back.to_data().validate_full().is_ok());
            let long = back.as_string_view().iter().flatten().filter(|word| word.len() > 12).count();
            prop_assert!(back.as_string_view().data_buffers().len() <= long);
        }
    }

    #[test]
    fn other_arrays_and_foreign_numbers_are_refused() {
        let all = ViewNumbers::default();
        assert!(all.encode(&(Arc::new(Int64Array::from(vec![1])) as ArrayRef)).is_none());
        let views: ArrayRef = Arc::new(BinaryViewArray::from_iter_values([b"more than twelve bytes"]));
        let numbers = all.encode(&views).expect("views");
        assert_eq!(numbers.data_type(), &NUMBER);
        assert_eq!(&all.decode(&numbers, &DataType::BinaryView).expect("known"), &views);
        assert!(all.decode(&numbers, &DataType::Utf8).is_none());
        assert!(ViewNumbers::default().decode(&numbers, &DataType::BinaryView).is_none());
    }
}
