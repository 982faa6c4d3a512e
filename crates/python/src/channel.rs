//! Channels and frames.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use forebay_shm::channel;
use forebay_sipc::call::SegmentRef;
use pyo3::exceptions::{PyConnectionError, PyIndexError, PyUnicodeDecodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::raise_shm;
use crate::table::{Inputs, Table};

/// One end of a connection to another process of forebay. One thread may send while another receives.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Channel {
    inner: Mutex<Option<Arc<channel::Channel>>>,
}

impl From<channel::Channel> for Channel {
    fn from(inner: channel::Channel) -> Self {
        Self { inner: Mutex::new(Some(Arc::new(inner))) }
    }
}

impl Channel {
    fn open(&self) -> PyResult<Arc<channel::Channel>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| PyConnectionError::new_err("the channel is closed"))
    }
}

#[pymethods]
impl Channel {
    /// Connects to the socket at `path`. Raises `OSError` if nobody listens there.
    #[staticmethod]
    fn connect(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(py.detach(|| channel::Channel::connect(&path))?.into())
    }

    /// Takes standard input as the channel, and puts `/dev/null` in its place.
    #[staticmethod]
    fn from_stdin() -> PyResult<Self> {
        Ok(channel::Channel::from_stdin().map_err(raise_shm)?.into())
    }

    /// Takes over a connected socket. The descriptor belongs to the channel from now on.
    #[staticmethod]
    fn from_fd(fd: RawFd) -> PyResult<Self> {
        if fd < 0 {
            return Err(PyValueError::new_err("a file descriptor is not negative"));
        }
        // SAFETY: the caller gives the descriptor away, as `socket.detach()` and `os.dup()` do; documented above.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(channel::Channel::from(socket).into())
    }

    /// Sends a frame: JSON text, binary blobs, and duplicates of open descriptors.
    #[pyo3(signature = (header, blobs=Vec::new(), fds=Vec::new()))]
    fn send(&self, py: Python<'_>, header: String, blobs: Vec<Vec<u8>>, fds: Vec<RawFd>) -> PyResult<()> {
        let channel = self.open()?;
        if fds.iter().any(|fd| *fd < 0) {
            return Err(PyValueError::new_err("a file descriptor is not negative"));
        }
        py.detach(|| {
            let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
            // SAFETY: borrowed for the system call only; a number that is not open makes it fail with EBADF.
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| unsafe { BorrowedFd::borrow_raw(*fd) }).collect();
            channel.send_parts(header.as_bytes(), &blobs, &fds)
        })
        .map_err(raise_shm)
    }

    /// Waits for the next frame; `None` when the other side has closed the channel. Signals (Ctrl-C) interrupt it.
    fn receive(&self, py: Python<'_>) -> PyResult<Option<Frame>> {
        let channel = self.open()?;
        let frame = py.detach(|| channel.recv_while(&mut || Python::attach(|py| py.check_signals())))?;
        let Some(frame) = frame.map_err(raise_shm)? else { return Ok(None) };
        let header = String::from_utf8(frame.header).map_err(|error| PyUnicodeDecodeError::new_err(error.to_string()))?;
        Ok(Some(Frame { header, blobs: frame.blobs, fds: frame.fds }))
    }

    /// The socket's descriptor, for `select`.
    fn fileno(&self) -> PyResult<RawFd> {
        use std::os::fd::AsFd;
        Ok(self.open()?.as_fd().as_raw_fd())
    }

    /// Ends the connection. May be called again.
    fn close(&self) {
        if let Some(channel) = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take() {
            channel.shutdown();
        }
    }

    /// Ends this process after its last frame: nothing more is written to shared memory, the other side sees the end, and no
    /// exit handler runs.
    fn leave(&self) -> PyResult<()> {
        forebay_shm::leave(&*self.open()?)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) {
        self.close();
    }
}

/// A received message. Its descriptors are closed with it.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Frame {
    /// JSON text.
    #[pyo3(get)]
    header: String,
    blobs: Vec<Vec<u8>>,
    fds: Vec<OwnedFd>,
}

#[pymethods]
impl Frame {
    /// The binary parts.
    #[getter]
    fn blobs<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.blobs.iter().map(|blob| PyBytes::new(py, blob)).collect()
    }

    /// The descriptors. They belong to the frame: duplicate one to keep it.
    #[getter]
    fn fds(&self) -> Vec<RawFd> {
        self.fds.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// Maps the frame's descriptors, whose segments are `[(id, length), …]` in the same order.
    fn inputs(&self, segments: Vec<(u64, u64)>) -> PyResult<Inputs> {
        let segments: Vec<SegmentRef> = segments.into_iter().map(|(id, length)| SegmentRef { id, length }).collect();
        Ok(forebay_shm::Inputs::map(&segments, &self.fds).map_err(raise_shm)?.into())
    }

    /// The table described by blob number `blob`, over the frame's segments, with plain strings instead of views.
    fn table(&self, blob: usize, segments: Vec<(u64, u64)>) -> PyResult<Table> {
        let message = self.blobs.get(blob).ok_or_else(|| PyIndexError::new_err("the frame has no such blob"))?;
        self.inputs(segments)?.table(message, None, false, Vec::new())
    }
}
