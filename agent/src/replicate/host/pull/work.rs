//! Working off what was admitted: several jobs at a time, few for any one origin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2pcdn_core::object::ObjectRecord;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::receive::{Blame, PullError};
use super::sources::Rounds;
use super::{Ends, Pull, Puller, Running, State, waiting_bytes};
use crate::identity::{Peer, Signed};
use crate::replicate::batch::MAX_BATCH_BYTES;
use crate::replicate::messages::{ACKNOWLEDGEMENTS_PATH, Acknowledgements, Done, MAX_BATCH, MAX_MESSAGE_BYTES};
use crate::store::{Incoming, IncomingError, Small};

/// Jobs under way at the same time: an object each, or a batch of small ones.
const MAX_JOBS: usize = 16;
/// Of these, for one origin: sources that are only just fast enough hold up no other origin.
const MAX_JOBS_PER_ORIGIN: usize = 4;
/// Time that jobs have to put away what they have when the agent stops.
const PUT_AWAY: Duration = Duration::from_secs(3);
/// The time of a turn: an object that takes longer makes way for another origin's while all jobs are taken.
pub(super) const TURN: Duration = Duration::from_secs(60);
/// So often in the time of a turn is looked whether one is over.
const LOOKS_PER_TURN: u32 = 8;

/// What one task does.
enum Job {
    One(Box<Pull>, Ends),
    Batch(Vec<Pull>),
}

/// The entry of a job among those under way; gone when it is dropped.
struct Entry {
    puller: Arc<Puller>,
    origin: String,
    /// Paths and sequences.
    names: Vec<(String, u64)>,
    /// Waits again in the end.
    again: Option<(Pull, Ends)>,
}

impl Puller {
    /// Pulls whatever was admitted until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut jobs = JoinSet::new();
        let mut look = interval(self.turn / LOOKS_PER_TURN);
        loop {
            while jobs.len() < MAX_JOBS
                && let Some((job, entry)) = self.next_job(&cancel)
            {
                let (puller, stop) = (self.clone(), cancel.clone());
                jobs.spawn(async move {
                    let mut entry = entry;
                    entry.again = puller.work(job, &stop).await;
                });
            }
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = jobs.join_next(), if !jobs.is_empty() => {}
                () = self.wake.notified() => {}
                _ = look.tick(), if jobs.len() >= MAX_JOBS => self.state().end_turn(self.turn),
            }
        }
        // Whoever is late is cut off, as by a crash.
        let _ = timeout(PUT_AWAY, async { while jobs.join_next().await.is_some() {} }).await;
    }

    fn next_job(self: &Arc<Self>, stop: &CancellationToken) -> Option<(Job, Entry)> {
        let mut state = self.state();
        let (origin, job) = state.take_job(stop)?;
        let (pulls, ends) = match &job {
            Job::One(pull, ends) => (std::slice::from_ref(&**pull), Some(ends)),
            Job::Batch(pulls) => (&pulls[..], None),
        };
        let names = pulls.iter().map(|pull| (pull.record.path.clone(), pull.record.sequence)).collect();
        let running = state.running.entry(origin.clone()).or_default();
        for Pull { record, .. } in pulls {
            let (sha256, sequence) = (record.sha256, record.sequence);
            let entry = Running { sha256, sequence, begun: Instant::now(), ends: ends.cloned() };
            running.insert(record.path.clone(), entry);
        }
        *state.jobs.entry(origin.clone()).or_default() += 1;
        drop(state);
        Some((job, Entry { puller: self.clone(), origin, names, again: None }))
    }

    /// What is left of a job whose turn was over.
    async fn work(&self, job: Job, stop: &CancellationToken) -> Option<(Pull, Ends)> {
        // The operator may have said no while it waited.
        let is_wanted = |pull: &Pull| self.terms.refuses(&pull.record).is_none();
        match job {
            Job::One(pull, ends) if is_wanted(&pull) => {
                let (origin, path) = (pull.record.origin.clone(), pull.record.path.clone());
                match self.pull_one(*pull, &ends, stop).await {
                    Ok(None) => tracing::debug!(%origin, %path, "replica committed"),
                    Ok(Some(pull)) => return Some((pull, ends)),
                    Err(PullError::Cancelled) => {}
                    Err(error) => tracing::warn!(%origin, %path, %error, "replica not taken in"),
                }
            }
            Job::One(..) => {}
            Job::Batch(mut pulls) => {
                pulls.retain(is_wanted);
                let origin = pulls.first().map(|pull| pull.origin.clone())?;
                if let Err((left, error)) = self.pull_batch(&origin, pulls, stop).await
                    && !matches!(error, PullError::Cancelled)
                {
                    let origin = &origin.record.domain;
                    let path = left.first().map(|pull| &*pull.record.path).unwrap_or_default();
                    tracing::warn!(%origin, objects = left.len(), path, %error, "replicas not taken in");
                }
            }
        }
        None
    }

    /// Makes one object a replica; returns it if its turn was over before all of it was here.
    async fn pull_one(&self, pull: Pull, ends: &Ends, stop: &CancellationToken) -> Result<Option<Pull>, PullError> {
        let mut incoming = self.store.begin(&pull.record).await.map_err(IncomingError::from)?;
        if let Err(error) = self.receive_from_any(&pull, &mut incoming, &ends.turn).await {
            let is_unwanted = ends.cancel.is_cancelled();
            // What stops with the agent goes on with it; of what is outdated nobody wants the rest.
            if is_unwanted && !stop.is_cancelled() {
                incoming.discard().await;
            } else {
                incoming.suspend().await;
            }
            let goes_on = matches!(error, PullError::Cancelled) && !is_unwanted;
            return if goes_on { Ok(Some(pull)) } else { Err(error) };
        }
        let Pull { origin, record, signed, reservation, .. } = pull;
        if self.terms.refuses(&record).is_some() {
            incoming.discard().await;
            return Err(PullError::Cancelled);
        }
        let acknowledgement = self.acknowledge(&record, &signed)?;
        self.store.commit(incoming, signed, reservation).await?;
        if self.take_back_refused(&record).await {
            return Err(PullError::Cancelled);
        }
        self.metrics.pulled.inc();
        self.send(&origin, vec![acknowledgement]).await;
        Ok(None)
    }

    /// Drops what was committed while the operator said no: its origin has not heard of it, and never will.
    async fn take_back_refused(&self, record: &ObjectRecord) -> bool {
        if self.terms.refuses(record).is_none() {
            return false;
        }
        let held = self.store.find(&record.origin, &record.path).filter(|held| held.record == *record);
        let taken_back = async {
            if let Some(held) = held {
                self.store.retire(&held).await?;
            }
            self.store.remove_unused(&record.sha256).await
        };
        if let Err(error) = taken_back.await {
            tracing::error!(origin = %record.origin, path = %record.path, %error, "dropping what is refused");
        }
        true
    }

    async fn receive_from_any(
        &self,
        pull: &Pull,
        incoming: &mut Incoming,
        cancel: &CancellationToken,
    ) -> Result<(), PullError> {
        let mut rounds = Rounds::new(pull.all_sources());
        let mut last = PullError::Missing;
        while incoming.received() < pull.record.size {
            let Some(source) = next_source(&mut rounds, cancel).await? else { return Err(last) };
            let Err(error) = self.receive(&source, &pull.record, incoming, cancel).await else { continue };
            note(&pull.record, &source, &error);
            match error.blame() {
                Blame::Here => return Err(error),
                Blame::Source => rounds.give_up_last(),
                Blame::Nobody => {}
            }
            last = error;
        }
        Ok(())
    }

    async fn pull_batch(
        &self,
        origin: &Peer,
        pulls: Vec<Pull>,
        stop: &CancellationToken,
    ) -> Result<(), (Vec<Pull>, PullError)> {
        let mut rounds = Rounds::new(pulls.first().map(Pull::all_sources).unwrap_or_default());
        let mut left = pulls;
        let mut last = PullError::Missing;
        while !left.is_empty() {
            let source = match next_source(&mut rounds, stop).await {
                Ok(Some(source)) => source,
                Ok(None) => return Err((left, last)),
                Err(error) => return Err((left, error)),
            };
            let mut got = Vec::new();
            let result = self.receive_batch(&source, &mut left, &mut got, stop).await;
            if let Err(error) = self.take_in(origin, got).await {
                return Err((left, error));
            }
            // What it does not have now, it does not have in the next round either.
            let Some(error) = result.err().or((!left.is_empty()).then_some(PullError::Missing)) else { break };
            left.first().inspect(|pull| note(&pull.record, &source, &error));
            match error.blame() {
                Blame::Here => return Err((left, error)),
                Blame::Source => rounds.give_up_last(),
                Blame::Nobody => {}
            }
            last = error;
        }
        Ok(())
    }

    /// Makes small objects replicas together, and says so in one message.
    async fn take_in(&self, origin: &Peer, got: Vec<(Pull, Bytes)>) -> Result<(), PullError> {
        let (mut acknowledgements, mut objects) = (Vec::new(), Vec::new());
        // The operator may have said no while they came.
        for (pull, bytes) in got.into_iter().filter(|(pull, _)| self.terms.refuses(&pull.record).is_none()) {
            let Pull { record, signed, reservation, .. } = pull;
            acknowledgements.push((self.acknowledge(&record, &signed)?, record));
            objects.push(Small { bytes, signed, reservation });
        }
        if objects.is_empty() {
            return Ok(());
        }
        let outcomes = self.store.commit_small(objects).await;
        let mut problem = None;
        let mut committed = Vec::new();
        for ((acknowledgement, record), outcome) in acknowledgements.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) if self.take_back_refused(&record).await => {}
                Ok(()) => committed.push(acknowledgement),
                Err(IncomingError::Outdated) => {}
                Err(error) => problem = Some(error),
            }
        }
        self.metrics.pulled.inc_by(committed.len() as u64);
        if !committed.is_empty() {
            self.send(origin, committed).await;
        }
        problem.map_or(Ok(()), |error| Err(error.into()))
    }

    /// If this is lost, the origin offers the objects again and learns that they are held.
    async fn send(&self, origin: &Peer, acknowledgements: Vec<Signed>) {
        let message = Acknowledgements { acknowledgements };
        let sent = self.client.json(&origin.record, ACKNOWLEDGEMENTS_PATH, &message, MAX_MESSAGE_BYTES).await;
        if let Err(error) = sent.map(|Done { .. }| ()) {
            tracing::debug!(origin = %origin.record.domain, %error, "acknowledging");
        }
    }
}

impl State {
    /// The next object, or, if it is a small one, those that can come with it in one answer.
    fn take_job(&mut self, stop: &CancellationToken) -> Option<(String, Job)> {
        let (jobs, waiting) = (&self.jobs, &mut self.waiting);
        let jobs_of = |origin: &str| jobs.get(origin).copied().unwrap_or(0);
        // Whoever has the fewest under way comes first.
        let (origin, first) =
            (0..MAX_JOBS_PER_ORIGIN).find_map(|most| waiting.pop(|origin| jobs_of(origin) <= most))?;
        if !first.is_small() {
            let cancel = stop.child_token();
            let turn = cancel.child_token();
            return Some((origin, Job::One(first.into(), Ends { cancel, turn })));
        }
        let mut room = MAX_BATCH_BYTES - first.record.size;
        let rest = self.waiting.gather(&origin, MAX_BATCH - 1, |pull| {
            let is_same_way =
                pull.sources.first().map(|peer| peer.key()) == first.sources.first().map(|peer| peer.key());
            let fits = pull.is_small() && is_same_way && pull.record.size <= room;
            room -= if fits { pull.record.size } else { 0 };
            fits
        });
        Some((origin, Job::Batch([first].into_iter().chain(rest).collect())))
    }

    /// While all jobs are taken and an origin waits that has none, ends the longest of those that are under way for more than a `turn`, of
    /// the origin that has most: sources that are only just fast enough would otherwise hold the jobs for hours.
    pub(super) fn end_turn(&self, turn: Duration) {
        // One that is over may not have been joined yet.
        if self.jobs.values().sum::<usize>() < MAX_JOBS {
            return;
        }
        if self.waiting.origins().all(|origin| self.jobs.contains_key(origin)) {
            return;
        }
        let under_way = self.running.iter().flat_map(|(origin, paths)| {
            let jobs = self.jobs.get(origin).copied().unwrap_or(0);
            paths.values().filter_map(move |running| Some((jobs, running.begun.elapsed(), running.ends.as_ref()?)))
        });
        let longest =
            under_way.max_by_key(|(jobs, time, ends)| (ends.turn.is_cancelled(), *time >= turn, *jobs, *time));
        // One that is ending already makes way soon.
        if let Some((_, _, ends)) = longest.filter(|(_, time, _)| *time >= turn) {
            ends.turn.cancel();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.puller.state();
        if let Some(running) = state.running.get_mut(&self.origin) {
            for (path, sequence) in &self.names {
                // A newer version may be under way in its place.
                if running.get(path).is_some_and(|entry| entry.sequence == *sequence) {
                    running.remove(path);
                }
            }
            if running.is_empty() {
                state.running.remove(&self.origin);
            }
        }
        if let Some(jobs) = state.jobs.get_mut(&self.origin) {
            *jobs -= 1;
            if *jobs == 0 {
                state.jobs.remove(&self.origin);
            }
        }
        let mut left = Vec::new();
        // What became unwanted meanwhile has a newer version, or none, in its place.
        if let Some((pull, _)) = self.again.take_if(|(_, ends)| !ends.cancel.is_cancelled()) {
            let (path, bytes) = (pull.record.path.clone(), waiting_bytes(&pull.signed));
            // Where there is no room, its origin offers it again.
            let _ = state.waiting.push(&self.origin, &path, bytes, pull, &mut left);
        }
        drop(state);
        // Reservations are given back after the lock.
        drop(left);
    }
}

async fn next_source(
    rounds: &mut Rounds<Arc<Peer>>,
    cancel: &CancellationToken,
) -> Result<Option<Arc<Peer>>, PullError> {
    let Some((source, pause)) = rounds.next() else { return Ok(None) };
    cancel.run_until_cancelled(sleep(pause)).await.ok_or(PullError::Cancelled)?;
    Ok(Some(source))
}

fn note(record: &ObjectRecord, source: &Peer, error: &PullError) {
    tracing::debug!(origin = %record.origin, path = %record.path, source = %source.record.domain, %error, "pulling");
}
