//! Files of tables, to read anywhere and to write once: on the local disk or in an object store.
//!
//! A [`Reader`] is what the Parquet reader takes. In an object store each read is a request, so whoever knows what it will
//! read says so first ([`Reader::prefetch`]). A [`Writer`] sends large files in parts while they are written; nothing is there
//! under the file's name before it is closed.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, WriteMultipart};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use super::Location;
use super::remote::{self, Failure, Opened, Place, wait};

/// Bytes of a part of a file that is sent to an object store, and of files that are sent at once.
const PART_BYTES: usize = 16 << 20;
/// Parts under way at once.
const PARTS_AT_ONCE_MAX: usize = 3;
/// Ranges of an object that are fetched at once.
const RANGES_AT_ONCE_MAX: usize = 8;
/// Bytes read at the end of a file for its footer, which then mostly needs no second request.
const TAIL_BYTES: u64 = 64 << 10;
/// Bytes read ahead where nobody said how much is needed.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// Bytes read ahead where all of a file is read.
const READ_THROUGH_BYTES: u64 = 8 << 20;

/// A file that is read at any place, by any number of threads.
pub(crate) enum Reader {
    Local(File),
    Remote(Remote),
}

/// An object, and the parts of it that were fetched before they are read.
pub(crate) struct Remote {
    opened: Opened,
    place: Place,
    bytes: u64,
    /// The one version that is read, of an object that is not ours; ours never change.
    version: Option<String>,
    parts: Vec<(u64, Bytes)>,
}

impl Reader {
    /// Opens a file; with its size, if that is known, one request is saved.
    pub(crate) fn open(location: &Location, bytes: Option<u64>) -> io::Result<Self> {
        match location {
            Location::Local(path) => File::open(path).map(Self::Local),
            Location::Remote(place) => {
                let opened = remote::opened(place)?;
                let bytes = match bytes {
                    Some(bytes) => bytes,
                    None => {
                        let (store, path) = (Arc::clone(&opened.store), place.path());
                        let found = wait(async move { store.head(&path).await });
                        found.map_err(opened.failed("read", place))?.size
                    }
                };
                Ok(Self::Remote(Remote { opened, place: place.clone(), bytes, version: None, parts: Vec::new() }))
            }
        }
    }

    /// Opens a file of another program: what is read of an object is of this version, or an error.
    pub(crate) fn open_version(location: &Location, bytes: u64, version: Option<String>) -> io::Result<Self> {
        Ok(match Self::open(location, Some(bytes))? {
            Self::Remote(remote) => Self::Remote(Remote { version, ..remote }),
            local => local,
        })
    }

    /// The file from its beginning to its end.
    pub(crate) fn through(self) -> Stream {
        match self {
            Self::Local(file) => Stream::Local(BufReader::new(file)),
            Self::Remote(file) => Stream::Remote { file, at: 0, buffer: Bytes::new(), ahead: READ_THROUGH_BYTES },
        }
    }

    /// Fetches the end of the file, where a Parquet file's footer is.
    pub(crate) fn prefetch_tail(&mut self) -> io::Result<()> {
        let bytes = self.len();
        self.prefetch(&[bytes.saturating_sub(TAIL_BYTES)..bytes])
    }

    /// Fetches ranges that will be read, at the same time. On a local disk nothing happens.
    pub(crate) fn prefetch(&mut self, ranges: &[Range<u64>]) -> io::Result<()> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Remote(remote) => remote.prefetch(ranges),
        }
    }
}

impl Remote {
    fn prefetch(&mut self, ranges: &[Range<u64>]) -> io::Result<()> {
        let ranges: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let (store, path, wanted) = (Arc::clone(&self.opened.store), self.place.path(), ranges.clone());
        let fetched = match &self.version {
            None => wait(async move { store.get_ranges(&path, &wanted).await }),
            Some(_) => {
                let each: Vec<_> = wanted.into_iter().map(|range| self.options(range)).collect();
                wait(async move {
                    let each = each.into_iter().map(|options| async { store.get_opts(&path, options).await?.bytes().await });
                    futures::stream::iter(each).buffered(RANGES_AT_ONCE_MAX).try_collect::<Vec<Bytes>>().await
                })
            }
        };
        let fetched = fetched.map_err(self.opened.failed("read", &self.place))?;
        self.parts.extend(ranges.iter().map(|range| range.start).zip(fetched));
        Ok(())
    }

    /// What was fetched before, from `start` on.
    fn known(&self, start: u64) -> Option<Bytes> {
        self.parts.iter().find_map(|(at, bytes)| {
            let skip = usize::try_from(start.checked_sub(*at)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        })
    }

    fn fetch(&self, range: Range<u64>) -> Result<Bytes, Failure> {
        let (store, path, options) = (Arc::clone(&self.opened.store), self.place.path(), self.options(range));
        let got = wait(async move { store.get_opts(&path, options).await?.bytes().await });
        got.map_err(self.opened.failed("read", &self.place))
    }

    fn options(&self, range: Range<u64>) -> GetOptions {
        GetOptions { range: Some(range.into()), if_match: self.version.clone(), ..GetOptions::default() }
    }

    fn bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = start + length as u64;
        if end > self.bytes {
            return Err(ParquetError::EOF(format!("the file ends at {}, before {end}", self.bytes)));
        }
        let got = match self.known(start).filter(|bytes| bytes.len() >= length) {
            Some(known) => known.slice(..length),
            None if length == 0 => Bytes::new(),
            None => self.fetch(start..end).map_err(|failure| ParquetError::External(Box::new(failure)))?,
        };
        if got.len() == length {
            return Ok(got);
        }
        Err(ParquetError::EOF(format!("the store gave {} bytes of {length}", got.len())))
    }
}

impl Length for Reader {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => Length::len(file),
            Self::Remote(remote) => remote.bytes,
        }
    }
}

impl ChunkReader for Reader {
    type T = Stream;

    fn get_read(&self, start: u64) -> ParquetResult<Stream> {
        match self {
            Self::Local(file) => {
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(start))?;
                Ok(Stream::Local(BufReader::new(file)))
            }
            Self::Remote(remote) => {
                let again = Remote {
                    opened: remote.opened.clone(),
                    place: remote.place.clone(),
                    bytes: remote.bytes,
                    version: remote.version.clone(),
                    parts: remote.parts.clone(),
                };
                Ok(Stream::Remote { file: again, at: start, buffer: Bytes::new(), ahead: READ_AHEAD_BYTES })
            }
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        match self {
            Self::Local(file) => file.get_bytes(start, length),
            Self::Remote(remote) => remote.bytes(start, length),
        }
    }
}

/// A file that is read from one place on.
pub(crate) enum Stream {
    Local(BufReader<File>),
    Remote { file: Remote, at: u64, buffer: Bytes, ahead: u64 },
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (file, at, buffer, ahead) = match self {
            Self::Local(file) => return file.read(into),
            Self::Remote { file, at, buffer, ahead } => (file, at, buffer, *ahead),
        };
        if buffer.is_empty() {
            let end = file.bytes.min(*at + ahead.max(into.len() as u64));
            if *at >= end {
                return Ok(0);
            }
            *buffer = match file.known(*at) {
                Some(known) => known,
                None => file.fetch(*at..end)?,
            };
        }
        let count = buffer.len().min(into.len());
        into[..count].copy_from_slice(&buffer.split_to(count));
        *at += count as u64;
        Ok(count)
    }
}

/// A file that is written once, from its beginning to its end.
pub(crate) enum Writer {
    Local(File),
    Remote(Box<Upload>),
}

/// An object under way.
pub(crate) struct Upload {
    opened: Opened,
    place: Place,
    buffer: Vec<u8>,
    /// What takes the parts, once there is more than one.
    parts: Option<WriteMultipart>,
}

impl Writer {
    /// A file that must not exist yet.
    pub(crate) fn create(location: &Location) -> io::Result<Self> {
        match location {
            Location::Local(path) => OpenOptions::new().write(true).create_new(true).open(path).map(Self::Local),
            Location::Remote(place) => {
                let upload = Upload { opened: remote::opened(place)?, place: place.clone(), buffer: Vec::new(), parts: None };
                Ok(Self::Remote(Box::new(upload)))
            }
        }
    }

    /// Makes the file durable, and in an object store visible.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Local(file) => file.sync_all(),
            Self::Remote(upload) => upload.close(),
        }
    }
}

impl Upload {
    fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let parts = match self.parts.take() {
            Some(parts) => parts,
            None => {
                let (store, path) = (Arc::clone(&self.opened.store), self.place.path());
                let begun = wait(async move { store.put_multipart(&path).await });
                // Its own parts would be cut from its own copy; here each `put` is one part.
                WriteMultipart::new_with_chunk_size(begun.map_err(self.opened.failed("write", &self.place))?, PART_BYTES)
            }
        };
        let sent = wait(async move {
            let mut parts = parts;
            let ready = parts.wait_for_capacity(PARTS_AT_ONCE_MAX).await;
            parts.put(Bytes::from(bytes));
            (parts, ready)
        });
        self.parts = Some(sent.0);
        sent.1.map_err(self.opened.failed("write", &self.place)).map_err(io::Error::from)
    }

    fn close(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        let failed = self.opened.failed("write", &self.place);
        let Some(parts) = self.parts.take() else {
            return put_new(&self.opened, &self.place, rest).map_err(io::Error::from);
        };
        let done = wait(async move {
            let mut parts = parts;
            parts.put(Bytes::from(rest));
            parts.finish().await
        });
        done.map(drop).map_err(failed).map_err(io::Error::from)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // What cannot be taken back is swept by the bucket's own rules for unfinished uploads.
            let _ = wait(parts.abort());
        }
    }
}

/// Puts a small object that must not be there yet. An answer that was lost is no failure: names are never used twice.
pub(crate) fn put_new(opened: &Opened, place: &Place, bytes: Vec<u8>) -> Result<(), Failure> {
    let (store, path) = (Arc::clone(&opened.store), place.path());
    let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
    let put = wait(async move { store.put_opts(&path, PutPayload::from(bytes), options).await });
    put.map(drop).map_err(opened.failed("write", place))
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.write(bytes),
            Self::Remote(upload) => {
                upload.buffer.extend_from_slice(bytes);
                if upload.buffer.len() >= PART_BYTES {
                    let part = std::mem::take(&mut upload.buffer);
                    upload.send(part)?;
                }
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local(file) => file.flush(),
            Self::Remote(_) => Ok(()),
        }
    }
}
