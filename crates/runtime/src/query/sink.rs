//! Where the rows of a query go: through a pipe as an Arrow stream, or into a table of this process.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::leaving;
use crate::limits::{PIPE_BATCHES_MAX, PIPE_BUFFER_BYTES};
use crate::sql::{Error, Rows, plain_batches};

/// Takes the rows of a query.
pub(crate) trait Sink: Send {
    /// Called before the first rows, and again if the query starts over, which it does only while there are no rows.
    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Error>;

    /// Takes a batch, which has rows. Waits while there is no room.
    fn rows(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), Error>>;

    /// Whether any rows have come.
    fn has_rows(&self) -> bool;
}

/// Keeps all rows.
#[derive(Debug, Default)]
pub(crate) struct Collect {
    schema: Option<SchemaRef>,
    batches: Vec<RecordBatch>,
}

impl Collect {
    /// The rows, in the order they came.
    pub fn finish(self) -> Result<Rows, Error> {
        let schema = self.schema.unwrap_or_else(|| std::sync::Arc::new(arrow::datatypes::Schema::empty()));
        crate::sql::plain_result(schema, self.batches)
    }
}

impl Sink for Collect {
    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Error> {
        self.batches.clear();
        self.schema = Some(SchemaRef::clone(schema));
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), Error>> {
        self.batches.push(batch);
        futures::future::ready(Ok(())).boxed()
    }

    // Rows that nobody has seen can be made again.
    fn has_rows(&self) -> bool {
        false
    }
}

/// Writes an Arrow IPC stream, on a thread of its own. The stream has an end mark only if the query came to its end.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: Option<OwnedFd>,
    writer: Option<(Sender<RecordBatch>, JoinHandle<Result<u64, ArrowError>>)>,
    has_rows: bool,
}

impl Pipe {
    pub fn new(out: OwnedFd) -> Self {
        Self { out: Some(out), writer: None, has_rows: false }
    }

    /// Ends the stream; the number of rows in it.
    pub async fn finish(mut self) -> Result<u64, Error> {
        let Some((sender, thread)) = self.writer.take() else { return Ok(0) };
        // An empty batch is the sign that nothing failed: without one the end mark is not written.
        let _ = sender.send(END.clone()).await;
        drop(sender);
        joined(thread).await
    }

    /// Why the writer has ended before its time.
    async fn failure(&mut self) -> Error {
        match self.writer.take() {
            Some((_, thread)) => match joined(thread).await {
                Err(error) => error,
                Ok(_) => Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
            },
            None => Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
        }
    }
}

static END: std::sync::LazyLock<RecordBatch> =
    std::sync::LazyLock::new(|| RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty())));

async fn joined(thread: JoinHandle<Result<u64, ArrowError>>) -> Result<u64, Error> {
    let ended = tokio::task::spawn_blocking(move || thread.join()).await;
    match ended {
        Ok(Ok(written)) => written.map_err(|error| Error::Query(DataFusionError::from(error))),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Err(Error::Query(DataFusionError::External(error.into()))),
    }
}

impl Sink for Pipe {
    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Error> {
        // The second time around the schema is the same, and is out already.
        let Some(out) = self.out.take() else { return Ok(()) };
        let (sender, receiver) = channel(PIPE_BATCHES_MAX);
        let schema = leaving(schema);
        let write = move || write(File::from(out), &schema, receiver);
        let thread = std::thread::Builder::new().name("pipe".into()).spawn(write)?;
        self.writer = Some((sender, thread));
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> BoxFuture<'_, Result<(), Error>> {
        self.has_rows = true;
        async move {
            let sent = match &self.writer {
                Some((sender, _)) => sender.send(batch).await.is_ok(),
                None => false,
            };
            if sent { Ok(()) } else { Err(self.failure().await) }
        }
        .boxed()
    }

    fn has_rows(&self) -> bool {
        self.has_rows
    }
}

fn write(out: File, schema: &SchemaRef, mut batches: Receiver<RecordBatch>) -> Result<u64, ArrowError> {
    let mut writer = StreamWriter::try_new(BufWriter::with_capacity(PIPE_BUFFER_BYTES, out), schema)?;
    // The client may show the columns long before the first row.
    writer.get_mut().flush()?;
    let mut rows = 0;
    while let Some(batch) = batches.blocking_recv() {
        if batch.num_rows() == 0 {
            writer.finish()?;
            writer.get_mut().flush()?;
            return Ok(rows);
        }
        rows += batch.num_rows() as u64;
        for batch in plain_batches(batch, schema)? {
            writer.write(&batch)?;
        }
        if batches.is_empty() {
            writer.get_mut().flush()?;
        }
    }
    Ok(rows)
}
