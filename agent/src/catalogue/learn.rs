//! Learns objects from the site itself: what visitors ask for is fetched through the public listener, as a stranger would, and judged.
//!
//! Fetches are few (two at a time, twenty a second, so many bytes a second) and stop first under load: once a tenth of what could
//! leave the site does, only one at a time remains, and only for what mends the load: objects that visitors ask for all the time
//! and of which there is no copy elsewhere yet, and conditional requests that keep redirects going.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use p2pcdn_core::decide::ONE_PPM;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::area::Area;
use super::cacheable::{Shareable, WhyNot, conditions, judge, kept, updated};
use super::fetch::{Answer, FetchError, Version};
use super::hints::Hint;
use super::schedule::{Job, Schedule};
use super::{Catalogue, CatalogueError, Description, Hints, RECORD_LIFE_S, is_in_time};
use crate::clock::{monotonic_ms, now_s};
use crate::identity::Connector;
use crate::load::LoadMeter;
use crate::replicate::Bandwidth;
use crate::store::StoreError;

/// Learns objects from the site itself.
pub struct Learner {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) area: Arc<Area>,
    pub(super) connector: Arc<Connector>,
    pub(super) bandwidth: Bandwidth,
    load: Arc<Mutex<LoadMeter>>,
    schedule: Mutex<Schedule>,
    /// Held while catalogue and area change together.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// How the end of a job is noted.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The schedule is looked at this often, and then at most so many fetches start.
const TICK: Duration = Duration::from_millis(100);
const STARTS_PER_TICK: usize = 2;
/// From this share of redirects on, fetches are for what mends the load.
const LOADED_PPM: u32 = ONE_PPM / 10;

impl Learner {
    /// A learner that has learned nothing yet.
    pub fn new(
        catalogue: Arc<Catalogue>,
        area: Arc<Area>,
        connector: Arc<Connector>,
        load: Arc<Mutex<LoadMeter>>,
        time_scale: f64,
    ) -> Self {
        Self {
            bandwidth: Bandwidth::new(catalogue.share.learn_bytes_per_s),
            catalogue,
            area,
            connector,
            load,
            schedule: Mutex::new(Schedule::new(time_scale)),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Learns until cancelled.
    pub async fn run(self: Arc<Self>, mut hints: Hints, cancel: CancellationToken) {
        let mut jobs = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        let mut starts = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(hint) = hints.0.recv() => self.take_hint(hint).await,
                Some(_) = jobs.join_next() => {}
                _ = tick.tick() => starts = STARTS_PER_TICK,
            }
            let forgotten = self.schedule().forgotten();
            for path in forgotten {
                self.remove_or_log(&path).await;
            }
            while let Some(job) = if starts > 0 { self.next() } else { None } {
                starts -= 1;
                let learner = self.clone();
                jobs.spawn(async move { learner.work(job).await });
            }
        }
    }

    async fn take_hint(&self, hint: Hint) {
        let now_ms = monotonic_ms();
        match hint {
            Hint::Wanted(path, requests) => self.schedule().wanted(&path, requests, now_ms),
            Hint::Contradicted(path) => self.schedule().contradicted(&path, now_ms),
            Hint::Questioned(path) => self.schedule().questioned(&path, now_ms),
            Hint::Purged(paths) => {
                paths.iter().for_each(|path| self.schedule().purged(path));
                let _changing = self.changing.lock().await;
                if let Err(error) = self.delete_orphans().await {
                    tracing::error!(%error, "deleting what was purged");
                }
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let now_ms = monotonic_ms();
        let steering = self.load.lock().unwrap_or_else(PoisonError::into_inner).steering(now_ms);
        let mut schedule = self.schedule();
        let has_room = schedule.held() < self.catalogue.share.max_objects;
        schedule.next(now_ms, steering.fraction_ppm >= LOADED_PPM, has_room)
    }

    async fn work(&self, job: Job) {
        let (path, head) = match job {
            Job::Learn(path) => (path, None),
            Job::Revalidate(path, head) => (path, Some(head)),
        };
        let purges = self.catalogue.purges();
        let asked = self.ask(&path, head.as_ref().map(conditions).unwrap_or_default()).await;
        let done = match asked {
            Ok(Answer::Version(version)) => self.replace(&path, *version, purges).await,
            Ok(Answer::NotModified(headers)) => self.renew(&path, head.unwrap_or_default(), &headers, purges).await,
            Ok(Answer::Not(why)) => self.refuse(&path, &why).await,
            Err(error) => Err(error.into()),
        };
        match done {
            Ok(()) => {}
            Err(Failure::Catalogue(CatalogueError::Purged)) => self.schedule().abandoned(&path, monotonic_ms()),
            Err(error) => {
                tracing::info!(%path, %error, "not learned for the moment");
                self.schedule().failed(&path, monotonic_ms());
            }
        }
    }

    /// Puts a version in place of the former one, if there is one.
    async fn replace(&self, path: &str, version: Version, purges: u64) -> Result<(), Failure> {
        let Version { shareable, headers, whole } = version;
        let _changing = self.changing.lock().await;
        let former = self.catalogue.find(path);
        let (sha256, chunks, size) = (whole.sha256, whole.chunks.clone(), whole.size);
        self.area.keep(whole).await?;
        let description = describe(&shareable, purges, sha256, chunks, size);
        let put = self.catalogue.put(path, description);
        for digest in former.iter().map(|former| former.record.sha256).chain([sha256]) {
            self.delete_unused(&digest).await?;
        }
        put?;
        tracing::debug!(%path, bytes = size, "learned");
        self.note(path, &headers, &shareable);
        Ok(())
    }

    /// Extends the freshness of the present version.
    async fn renew(&self, path: &str, head: HeaderMap, not_modified: &HeaderMap, purges: u64) -> Result<(), Failure> {
        let headers = updated(&head, not_modified);
        let is_another = conditions(&headers) != conditions(&head) && not_modified.contains_key(http::header::ETAG);
        let now = std::time::SystemTime::now();
        let (Some(object), false) = (self.catalogue.find(path), is_another) else {
            // Nothing that a 304 could be about: it has to be fetched as if for the first time.
            self.remove(path).await?;
            let mut schedule = self.schedule();
            schedule.purged(path);
            schedule.abandoned(path, monotonic_ms());
            return Ok(());
        };
        let shareable = match judge(http::StatusCode::OK, &headers, now, now, self.catalogue.share.heuristic) {
            Ok(shareable) => shareable,
            Err(why) => return self.refuse(path, &why).await,
        };
        let record = &object.record;
        let is_same_statement = record.max_age_s == shareable.max_age_s
            && record.stale_if_error_s == shareable.stale_if_error_s
            && (record.sharing, record.embedding) == (shareable.sharing, shareable.embedding)
            && is_in_time(record, now_s());
        // The same record suffices as long as the table has the object; else its holders have to be asked anew.
        if !(is_same_statement
            && self.catalogue.extend(&object, shareable.etag.as_deref(), shareable.fresh_until_s, purges))
        {
            let description = describe(&shareable, purges, record.sha256, record.chunks.clone(), record.size);
            self.catalogue.put(path, description)?;
        }
        self.note(path, &headers, &shareable);
        Ok(())
    }

    async fn refuse(&self, path: &str, why: &WhyNot) -> Result<(), Failure> {
        tracing::info!(%path, %why, "stays local");
        self.schedule().refused(path, monotonic_ms());
        Ok(self.remove(path).await?)
    }

    fn note(&self, path: &str, headers: &HeaderMap, shareable: &Shareable) {
        let unix_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let fresh_ms = (u64::from(shareable.fresh_until_s) * 1000).saturating_sub(unix_ms);
        // The record has to be renewed in time, however long the object is fresh.
        let look_within_ms = RECORD_LIFE_S * 3 / 4 * 1000;
        self.schedule().learned(path, kept(headers), fresh_ms, look_within_ms, monotonic_ms());
    }

    pub(super) fn give_up_for(&self, path: &str, bytes: u64) -> Vec<String> {
        let size_of = |path: &str| self.catalogue.find(path).map_or(0, |object| object.record.size);
        self.schedule().give_up_for(path, bytes, size_of, monotonic_ms())
    }

    async fn remove_or_log(&self, path: &str) {
        if let Err(error) = self.remove(path).await {
            tracing::error!(%path, %error, "removing an object that nobody asks for");
        }
    }

    async fn delete_orphans(&self) -> Result<(), StoreError> {
        for digest in self.area.digests() {
            self.delete_unused(&digest).await?;
        }
        Ok(())
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(
    shareable: &Shareable,
    purges: u64,
    sha256: p2pcdn_core::object::Sha256,
    chunks: Vec<p2pcdn_core::object::Sha256>,
    size: u64,
) -> Description {
    Description {
        class: shareable.class,
        content_type: shareable.content_type,
        sha256,
        chunks,
        size,
        etag: shareable.etag.clone(),
        max_age_s: shareable.max_age_s,
        fresh_until_s: shareable.fresh_until_s,
        stale_if_error_s: shareable.stale_if_error_s,
        sharing: shareable.sharing,
        embedding: shareable.embedding,
        stamp: None,
        purges,
    }
}
