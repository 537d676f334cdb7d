//! Keeps the acquaintance with every listed domain: meets the invited, refreshes the pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2pcdn_core::peer::NodeKey as PublicKey;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::OUR_VERSIONS;
use super::connector::Connector;
use super::hello::{HELLO_PATH, Hello, HelloAnswer, MAX_HELLO_BYTES};
use super::introduction::{Introduction, IntroductionError, check, fetch_peer_record};
use super::knocks::{DialBacks, Knocks};
use super::membership::{Membership, MembershipError, RotationRefused};
use super::once_per::OncePerMinute;
use super::own_record::OwnRecord;
use super::peer_client::{PeerClient, PeerClientError};
use super::plain::plain;
use super::roster::{Introduced, Peer, Standing};
use super::rotation::fetch_rotations;
use crate::clock::now_s;

/// Meets peers and answers those that want to meet.
pub struct Introducer {
    pub(super) membership: Arc<Membership>,
    pub(super) connector: Arc<Connector>,
    pub(super) own: Arc<OwnRecord>,
    pub(super) dial_backs: DialBacks,
    pub(super) knocks: Knocks,
    pub(super) time_scale: f64,
    pub(super) log: OncePerMinute,
    client: Arc<PeerClient>,
    contacts: Mutex<BTreeMap<String, Contact>>,
    wake: Notify,
}

/// How the acquaintance with one listed domain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Whether the last hello was answered: both sides know each other.
    pub mutual: bool,
    /// Failures since the last success.
    pub failures: u32,
    /// What went wrong last, if that was after the last success.
    pub last_error: Option<String>,
    /// When the next try is due.
    pub next_try: Instant,
    meeting: bool,
    /// Whether the meeting in progress is to be repeated at once if it fails.
    hurried: bool,
}

/// Why a domain was not met.
#[derive(Debug, thiserror::Error)]
pub enum MeetError {
    /// Its document could not be had or is not in order.
    #[error(transparent)]
    Introduction(#[from] IntroductionError),
    /// This site has not listed it.
    #[error("{0} is not invited")]
    NotListed(String),
    /// It shows another key than the pinned one.
    #[error("{domain} shows another key than before ({refused}), which is refused until it is accepted")]
    KeyChanged {
        /// The domain.
        domain: String,
        /// The key that it shows.
        refused: PublicKey,
    },
    /// Its agent did not answer, or refused.
    #[error(transparent)]
    Hello(#[from] PeerClientError),
    /// Its agent answered with a record of somebody else.
    #[error("{0} answered with a record that is not its own")]
    ForeignAnswer(String),
    /// This side could not store what it learnt.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// Time between two refreshes of a peer that answers.
const REFRESH: Duration = Duration::from_secs(3600);
/// First and longest pause after failures, before jitter and scaling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Meetings at the same time.
const MAX_MEETINGS: usize = 8;

impl Introducer {
    /// All pauses are multiplied by `time_scale`: 1 in life, less in tests.
    pub fn new(
        membership: Arc<Membership>,
        connector: Arc<Connector>,
        client: Arc<PeerClient>,
        own: Arc<OwnRecord>,
        time_scale: f64,
    ) -> Self {
        Self {
            membership,
            connector,
            own,
            dial_backs: DialBacks::new(time_scale),
            knocks: Knocks::new(time_scale),
            time_scale,
            log: OncePerMinute::default(),
            client,
            contacts: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Meets one listed domain: its document, the pin, and a hello to its agent. On success both sides know each other.
    pub async fn meet(&self, domain: &str) -> Result<Arc<Peer>, MeetError> {
        let not_listed = || MeetError::NotListed(domain.into());
        if !self.membership.carries(domain) {
            return Err(not_listed());
        }
        let now_s = now_s();
        let (fetched, introduced) = self.look_up(domain, now_s).await?;
        match introduced {
            Introduced::Pinned | Introduced::AlreadyKnown => {}
            Introduced::Pending | Introduced::Away | Introduced::NoRoom(_) => return Err(not_listed()),
            Introduced::RefusedKeyChanged => {
                return Err(MeetError::KeyChanged { domain: domain.into(), refused: fetched.record.node_key });
            }
        }
        let hello = Hello { record: (*self.own.signed(now_s)).clone(), versions: OUR_VERSIONS.to_vec() };
        let answer: HelloAnswer = self.client.json(&fetched.record, HELLO_PATH, &hello, MAX_HELLO_BYTES).await?;
        let answered = check(answer.record, now_s)?;
        if answered.record.node_key != fetched.record.node_key || answered.record.domain != domain {
            return Err(MeetError::ForeignAnswer(domain.into()));
        }
        self.membership.blocking(move |membership| membership.claim(&answered, now_s)).await?;
        self.membership.by_domain(domain).ok_or_else(not_listed)
    }

    /// Asks a domain that was heard of for its record, and pins it if membership is open and has room; none if it is asked already, failed
    /// too recently, or others were asked too often.
    pub async fn discover(&self, domain: &str) -> Option<Result<(Introduction, Introduced), MeetError>> {
        // Anybody can bring up anybody, also a peer.
        let attempt = self.dial_backs.begin(domain, true, None)?;
        let found = self.look_up(domain, now_s()).await;
        if found.is_ok() {
            attempt.enough_for_now();
        }
        if matches!(found, Ok((_, Introduced::Pinned))) {
            self.wake.notify_one();
        }
        Some(found)
    }

    /// Fetches what a domain says about itself, and a rotation of its key if there is need of one, and takes that in.
    pub(super) async fn look_up(&self, domain: &str, now_s: u64) -> Result<(Introduction, Introduced), MeetError> {
        let fetched = fetch_peer_record(&self.connector, domain, now_s).await?;
        let pinned = self.membership.by_domain(domain);
        if pinned.is_some_and(|peer| peer.key() != fetched.record.node_key) {
            match fetch_rotations(&self.connector, domain).await.map_err(RotationRefused::from) {
                Ok(rotations) => {
                    let new = fetched.clone();
                    let rotate = move |membership: &Membership| membership.rotate(&new, &rotations, now_s);
                    match self.membership.blocking(rotate).await {
                        Ok(()) => {}
                        Err(RotationRefused::Membership(error)) => return Err(error.into()),
                        Err(RotationRefused::Rotation(error)) => self.note_no_rotation(domain, &error),
                    }
                }
                Err(error) => self.note_no_rotation(domain, &error),
            }
        }
        let introduce = move |membership: &Membership| {
            let introduced = membership.introduce(&fetched, now_s)?;
            Ok::<_, MembershipError>((fetched, introduced))
        };
        Ok(self.membership.blocking(introduce).await?)
    }

    fn note_no_rotation(&self, domain: &str, error: &dyn std::fmt::Display) {
        if let Some(suppressed) = self.log.due("rotation") {
            tracing::info!(domain, suppressed, error = plain(error), "a changed key, and no rotation that leads to it");
        }
    }

    /// Meets every listed domain until `shutdown`: with jittered pauses of 1 s to 5 min after failures, hourly after success.
    pub async fn introductions(self: Arc<Self>, shutdown: CancellationToken) {
        let mut meetings = JoinSet::new();
        while !shutdown.is_cancelled() {
            for domain in self.due(MAX_MEETINGS - meetings.len()) {
                let introducer = self.clone();
                meetings.spawn(async move {
                    let result = introducer.meet(&domain).await;
                    introducer.record(&domain, result);
                });
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                // Whoever was never tried is due anyway.
                () = self.membership.changed() => self.hurry(|domain, contact| contact.tried() && self.is_invited(domain)),
                () = self.wake.notified() => {}
                Some(_) = meetings.join_next() => {}
                () = tokio::time::sleep(self.until_next()), if meetings.len() < MAX_MEETINGS => {}
            }
        }
    }

    /// How the acquaintance with a listed domain goes; `None` before the first try.
    pub fn contact(&self, domain: &str) -> Option<Contact> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner).get(domain).cloned()
    }

    /// That domain knows us now, so a hello that it refused before is worth repeating at once.
    pub(super) fn heard_from(&self, domain: &str) {
        self.hurry(|other, contact| other == domain && !contact.mutual);
        self.wake.notify_one();
    }

    fn hurry(&self, which: impl Fn(&str, &Contact) -> bool) {
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        for (domain, contact) in contacts.iter_mut() {
            if which(domain, contact) {
                contact.next_try = Instant::now();
                contact.hurried = true;
            }
        }
    }

    fn is_invited(&self, domain: &str) -> bool {
        matches!(self.membership.standing(domain), Some(Standing::Invited))
    }

    /// At most `room` listed domains whose time has come, the most overdue first; they count as being met from now on.
    fn due(&self, room: usize) -> Vec<String> {
        let now = Instant::now();
        let listed = self.membership.list().into_iter();
        let listed = listed.filter(|(_, standing)| standing.is_listed());
        let listed: BTreeSet<String> = listed.map(|(domain, _)| domain).collect();
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        contacts.retain(|domain, _| listed.contains(domain));
        for domain in listed {
            contacts.entry(domain).or_insert_with(|| Contact::new(now));
        }
        let mut due: Vec<_> = contacts.iter_mut().filter(|(_, c)| !c.meeting && c.next_try <= now).collect();
        due.sort_by_key(|(_, contact)| contact.next_try);
        due.truncate(room);
        let begin = |(domain, contact): (&String, &mut Contact)| {
            contact.meeting = true;
            contact.hurried = false;
            domain.clone()
        };
        due.into_iter().map(begin).collect()
    }

    fn record(&self, domain: &str, result: Result<Arc<Peer>, MeetError>) {
        let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        // The operator may have removed the domain meanwhile.
        let Some(contact) = contacts.get_mut(domain) else { return };
        match result {
            Ok(_) => {
                if !contact.mutual {
                    tracing::info!(domain, "this peer and this site know each other");
                }
                let next_try = Instant::now() + REFRESH.mul_f64(self.time_scale);
                *contact = Contact { mutual: true, ..Contact::new(next_try) };
            }
            Err(error) => {
                let failures = contact.failures.saturating_add(1);
                let error = plain(error);
                // Twice as many failures for every further line, so a peer that stays away does not fill the log.
                if failures.is_power_of_two() {
                    tracing::info!(domain, failures, error, "not met");
                }
                let pause = backoff(failures, MAX_PAUSE).mul_f64(self.time_scale);
                // What was worth hurrying for may have happened too late for this meeting.
                let pause = if contact.hurried { Duration::ZERO } else { pause };
                let next_try = Instant::now() + pause;
                *contact = Contact { failures, last_error: Some(error), ..Contact::new(next_try) };
            }
        }
    }

    fn until_next(&self) -> Duration {
        let contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
        let next = contacts.values().filter(|contact| !contact.meeting).map(|contact| contact.next_try).min();
        next.map_or(REFRESH, |next| next.saturating_duration_since(Instant::now()))
    }
}

impl Contact {
    fn tried(&self) -> bool {
        self.mutual || self.failures > 0
    }

    fn new(next_try: Instant) -> Self {
        Self { mutual: false, failures: 0, last_error: None, next_try, meeting: false, hurried: false }
    }
}

/// The pause after that many failures in a row: 1 s, doubled each time up to `longest`, give or take a quarter at random.
pub(super) fn backoff(failures: u32, longest: Duration) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    // Without random numbers the pauses are merely even.
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    FIRST_PAUSE.saturating_mul(doubled).min(longest).mul_f64(0.75 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_a_quarter_at_most() {
        for (failures, seconds) in
            [(0, 1.0), (1, 1.0), (2, 2.0), (5, 16.0), (10, 300.0), (40, 300.0), (u32::MAX, 300.0)]
        {
            for _ in 0..100 {
                let pause = backoff(failures, MAX_PAUSE).as_secs_f64();
                assert!((seconds * 0.75..=seconds * 1.25).contains(&pause), "{failures} failures: {pause} s");
            }
        }
    }
}
