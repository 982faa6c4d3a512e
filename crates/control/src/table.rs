//! Tables beside answers: an SIPC message in the frame's first blob, its segments as the frame's descriptors.

use std::os::fd::OwnedFd;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use forebay_shm::Inputs;
use forebay_sipc::call::SegmentRef;
use forebay_sipc::{Limits, Message};
use serde_json::Value;

use crate::api;
use crate::error::Error;

/// Maps the table beside a `QueryResult`. The descriptors may be closed afterwards.
pub(crate) fn read(result: &Value, blobs: &[Vec<u8>], fds: &[OwnedFd]) -> Result<(SchemaRef, Vec<RecordBatch>), api::Error> {
    let unreadable = |why: String| api::Error::from(Error::BadAnswer { why });
    let segments: Vec<SegmentRef> =
        serde_json::from_value(result["segments"].clone()).map_err(|error| unreadable(error.to_string()))?;
    let [message] = blobs else { return Err(unreadable("there is no table beside it".to_owned())) };
    let message = Message::decode(message, &Limits::default()).map_err(|error| unreadable(error.to_string()))?;
    let inputs = Inputs::map(&segments, fds).map_err(|error| unreadable(error.to_string()))?;
    let table = inputs.rebuild(&message).map_err(|error| unreadable(error.to_string()))?;
    Ok((table.schema, table.batches))
}
