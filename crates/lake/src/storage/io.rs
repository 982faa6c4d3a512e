//! Metadata files for the Iceberg library, wherever they are: its own access to the local disk, ours to object stores.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, LocalFsStorage, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};

use super::remote::{self, Failure, Place, runtime};

/// Access to files at any location we know of.
pub(crate) fn file_io() -> FileIO {
    FileIOBuilder::new(Arc::new(AnywhereFactory)).build()
}

/// Makes [`Anywhere`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AnywhereFactory;

#[typetag::serde(name = "ForebayStorageFactory")]
impl StorageFactory for AnywhereFactory {
    fn build(&self, _config: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(Anywhere { local: LocalFsStorage::new() }))
    }
}

/// The local disk and every object store.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Anywhere {
    local: LocalFsStorage,
}

/// The place in an object store, if the location is in one.
fn place(location: &str) -> Result<Option<Place>> {
    match Place::parse(location) {
        None => Ok(None),
        Some(Ok(place)) => Ok(Some(place)),
        Some(Err(())) => Err(Error::new(ErrorKind::DataInvalid, format!("`{location}` is not a location in a bucket"))),
    }
}

fn told(failure: Failure) -> Error {
    Error::new(ErrorKind::Unexpected, failure.to_string()).with_source(failure)
}

/// Makes a call on the threads that are there for it: the caller's runtime may have no clock or network.
async fn call<T: Send + 'static>(
    verb: &'static str,
    place: &Place,
    work: impl FnOnce(Arc<dyn ObjectStore>, Path) -> BoxFuture<'static, object_store::Result<T>>,
) -> Result<T> {
    let opened = remote::opened(place).map_err(told)?;
    let work = work(Arc::clone(&opened.store), place.path());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    runtime().spawn(async move {
        // Who waited may have been cancelled.
        let _ = sender.send(work.await);
    });
    let done = receiver.await.map_err(|_| Error::new(ErrorKind::Unexpected, "the call was given up"))?;
    done.map_err(opened.failed(verb, place)).map_err(told)
}

async fn read(place: &Place) -> Result<Bytes> {
    call("read", place, |store, path| async move { store.get(&path).await?.bytes().await }.boxed()).await
}

async fn write(place: &Place, bytes: Bytes) -> Result<()> {
    let put = |store: Arc<dyn ObjectStore>, path| async move { store.put(&path, PutPayload::from(bytes)).await }.boxed();
    call("write", place, put).await.map(drop)
}

async fn size(place: &Place) -> Result<u64> {
    Ok(call("read", place, |store, path| async move { store.head(&path).await }.boxed()).await?.size)
}

async fn remove(place: &Place) -> Result<()> {
    call("delete", place, |store, path| async move { store.delete(&path).await }.boxed()).await
}

#[async_trait]
#[typetag::serde(name = "ForebayStorage")]
impl Storage for Anywhere {
    async fn exists(&self, location: &str) -> Result<bool> {
        let Some(place) = place(location)? else { return self.local.exists(location).await };
        match call("read", &place, |store, path| async move { store.head(&path).await }.boxed()).await {
            Ok(_) => Ok(true),
            Err(error) => match Failure::within(&error).map(|failure| failure.trouble) {
                Some(remote::Trouble::Missing) => Ok(false),
                _ => Err(error),
            },
        }
    }

    async fn metadata(&self, location: &str) -> Result<FileMetadata> {
        let Some(place) = place(location)? else { return self.local.metadata(location).await };
        Ok(FileMetadata { size: size(&place).await? })
    }

    async fn read(&self, location: &str) -> Result<Bytes> {
        let Some(place) = place(location)? else { return self.local.read(location).await };
        read(&place).await
    }

    async fn reader(&self, location: &str) -> Result<Box<dyn FileRead>> {
        let Some(place) = place(location)? else { return self.local.reader(location).await };
        Ok(Box::new(Object { place }))
    }

    async fn write(&self, location: &str, bytes: Bytes) -> Result<()> {
        let Some(place) = place(location)? else { return self.local.write(location, bytes).await };
        write(&place, bytes).await
    }

    async fn writer(&self, location: &str) -> Result<Box<dyn FileWrite>> {
        let Some(place) = place(location)? else { return self.local.writer(location).await };
        Ok(Box::new(Whole { place, bytes: Some(Vec::new()) }))
    }

    async fn delete(&self, location: &str) -> Result<()> {
        let Some(place) = place(location)? else { return self.local.delete(location).await };
        remove(&place).await
    }

    async fn delete_prefix(&self, location: &str) -> Result<()> {
        if place(location)?.is_none() {
            return self.local.delete_prefix(location).await;
        }
        Err(Error::new(ErrorKind::FeatureUnsupported, "whole folders of object stores are not deleted"))
    }

    async fn delete_stream(&self, mut locations: BoxStream<'static, String>) -> Result<()> {
        while let Some(location) = locations.next().await {
            self.delete(&location).await?;
        }
        Ok(())
    }

    fn new_input(&self, location: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), location.to_owned()))
    }

    fn new_output(&self, location: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), location.to_owned()))
    }
}

/// An object that is read in pieces.
struct Object {
    place: Place,
}

#[async_trait]
impl FileRead for Object {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        call("read", &self.place, |store, path| async move { store.get_range(&path, range).await }.boxed()).await
    }
}

/// A small file, which is there when it is closed.
struct Whole {
    place: Place,
    /// `None`: closed.
    bytes: Option<Vec<u8>>,
}

#[async_trait]
impl FileWrite for Whole {
    async fn write(&mut self, more: Bytes) -> Result<()> {
        match &mut self.bytes {
            Some(bytes) => bytes.extend_from_slice(&more),
            None => return Err(Error::new(ErrorKind::Unexpected, "the file is closed already")),
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        match self.bytes.take() {
            Some(bytes) => write(&self.place, bytes.into()).await,
            None => Err(Error::new(ErrorKind::Unexpected, "the file is closed already")),
        }
    }
}
