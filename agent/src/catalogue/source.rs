//! Where the bytes of the site's own objects are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::area::Area;
use super::files::{ContentDirectory, FileStamp};
use super::{CatalogueError, OwnObject};
use crate::settings::{Share, Site};
use crate::store::StoreError;

/// Where the bytes of the objects are.
#[derive(Clone)]
pub enum Source {
    /// In the directory that the embedded origin serves.
    Directory(Arc<ContentDirectory>),
    /// At the site itself; copies of what was learned lie here.
    Site(Arc<Area>),
}

/// Why there is no source; this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The content directory.
    #[error("site.directory: {0}")]
    Directory(#[from] CatalogueError),
    /// The area for learned objects.
    #[error("the area for learned objects: {0}")]
    Area(#[from] StoreError),
}

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 * 1024;

impl Source {
    /// Opens the directory that the settings name, or an empty area in the state directory; none if the site only hosts.
    pub async fn open(site: &Site, share: &Share, state: &Path) -> Result<Option<Self>, SourceError> {
        match &site.directory {
            Some(directory) => {
                let opened = ContentDirectory::at(directory);
                let file = |source| CatalogueError::File { path: directory.display().to_string(), source };
                Ok(Some(Self::Directory(Arc::new(opened.map_err(file)?))))
            }
            None if site.learn => {
                Ok(Some(Self::Site(Arc::new(Area::open(&state.join("own"), share.cache_bytes).await?))))
            }
            None => Ok(None),
        }
    }

    /// See [`Catalogue::bytes`](super::Catalogue::bytes).
    pub(super) async fn bytes(
        &self,
        object: &OwnObject,
        range: Range<u64>,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        match self {
            Source::Directory(directory) => {
                let (directory, path, stamp) = (directory.clone(), object.record.path.clone(), object.stamp);
                let reading = tokio::task::spawn_blocking(move || read_file(&directory, &path, stamp, range));
                let (first, rest) = reading.await.map_err(io::Error::other)??;
                let first = stream::iter([Ok(first)]);
                Ok(match rest {
                    None => Box::pin(first),
                    Some((file, bytes)) => {
                        let rest = tokio::fs::File::from_std(file).take(bytes);
                        Box::pin(first.chain(ReaderStream::with_capacity(rest, READ_BYTES)))
                    }
                })
            }
            Source::Site(area) => {
                let bytes = area.read(&object.record.sha256, range).await.map_err(io::Error::other)?;
                Ok(Box::pin(bytes.map_err(io::Error::other)))
            }
        }
    }
}

/// The first bytes of a range of a file, and the file with what is left to be read of the range, if anything is.
fn read_file(
    directory: &ContentDirectory,
    path: &str,
    stamp: Option<FileStamp>,
    range: Range<u64>,
) -> io::Result<(Bytes, Option<(File, u64)>)> {
    let (mut file, present) = directory.open_file(path)?;
    if Some(present) != stamp {
        return Err(io::ErrorKind::NotFound.into());
    }
    file.seek(SeekFrom::Start(range.start))?;
    let size = range.end - range.start;
    let mut first = vec![0; size.min(READ_BYTES as u64) as usize];
    file.read_exact(&mut first)?;
    let left = size - first.len() as u64;
    Ok((first.into(), (left > 0).then_some((file, left))))
}
