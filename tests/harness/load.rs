//! Load as many independent clients offer it: requests start on a schedule, whatever became of those before them.
//!
//! Each request is what a command-line tool would send: it follows redirects, and the body that it ends with is hashed and compared with
//! what the origin's file was and is. Nothing here asks the software under test how it fared.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Uri};
use p2pcdn_core::object::Sha256;
use sha2::Digest;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::client::{AGENT, Client, ClientError, MAX_REDIRECTS, redirect};
use crate::content::{Content, Random, Verdict};

/// Requests in flight at most; one that is due beyond that fails at once, as it would on a machine without sockets.
pub const MAX_IN_FLIGHT: u32 = 1024;

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the schedule called for it.
    pub due: Instant,
    /// From then to the last byte, or to the failure.
    pub took: Duration,
    /// Each redirect on the way.
    pub redirects: Vec<Redirect>,
    /// How it ended.
    pub outcome: Outcome,
}

/// A redirect that was received.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// Whom it named.
    pub to: Authority,
    /// When it came.
    pub at: Instant,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With a whole 200 answer.
    Answered {
        /// By whom.
        by: Authority,
        /// Bytes of the body.
        bytes: u64,
        /// What the body was.
        verdict: Verdict,
    },
    /// Without one.
    Failed {
        /// Whom it was sent to last.
        at: Authority,
        /// Why.
        why: Failure,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// No answer, or not a whole one.
    #[error(transparent)]
    Client(Arc<ClientError>),
    /// A status other than 200.
    #[error("status {0}")]
    Status(u16),
    /// [`MAX_IN_FLIGHT`] requests were still under way.
    #[error("{MAX_IN_FLIGHT} requests were under way")]
    Overrun,
}

/// What becomes of requests that were due while the machine stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are made up for at once, as independent clients would have them: for a moment, more than the rate is offered.
    Burst,
    /// They are left out: never more than the rate is offered.
    Skip,
}

/// Offers load to one site until it is finished or dropped.
pub struct Generator {
    rate: watch::Sender<f64>,
    clients: Arc<Clients>,
    schedule: JoinHandle<()>,
}

struct Clients {
    client: Client,
    origin: Authority,
    content: Content,
    missed: Missed,
    slots: Arc<Semaphore>,
    samples: Mutex<Vec<Sample>>,
}

impl Generator {
    /// Gets ready to ask `https://ORIGIN` for objects of `content`, drawn uniformly; offers nothing yet.
    pub fn new(client: Client, origin: Authority, content: Content) -> Self {
        Self::with_missed(client, origin, content, Missed::Burst)
    }

    /// Like [`Generator::new`], and says what becomes of missed turns.
    pub fn with_missed(client: Client, origin: Authority, content: Content, missed: Missed) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize));
        let clients = Arc::new(Clients { client, origin, content, missed, slots, samples: Mutex::default() });
        let (rate, changes) = watch::channel(0.0);
        let schedule = tokio::spawn(schedule(clients.clone(), changes));
        Self { rate, clients, schedule }
    }

    /// Offers this many requests per second from now on; 0 pauses.
    pub fn offer(&self, per_second: f64) {
        self.rate.send_replace(per_second);
    }

    /// The requests that have ended since the last call. Whoever offers load for long calls this from time to time.
    pub fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut *self.clients.samples.lock().expect("no holder panics"))
    }

    /// Offers nothing any more, waits for what is in flight, and returns what has not been taken yet.
    pub async fn finish(self) -> Vec<Sample> {
        self.schedule.abort();
        let all = self.clients.slots.acquire_many(MAX_IN_FLIGHT).await;
        drop(all.expect("nobody closes the semaphore"));
        self.take()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.schedule.abort();
    }
}

async fn schedule(clients: Arc<Clients>, mut rate: watch::Receiver<f64>) {
    let mut random = Random::new(1);
    let mut due = Instant::now();
    loop {
        let per_second = *rate.borrow_and_update();
        if per_second > 0.0 {
            tokio::select! {
                () = sleep_until(due) => {
                    let period = Duration::from_secs_f64(1.0 / per_second);
                    let now = Instant::now();
                    if clients.missed == Missed::Skip && now > due + period {
                        due = now;
                    }
                    start(&clients, random.below(clients.content.len()), due);
                    due += period;
                    continue;
                }
                changed = rate.changed() => if changed.is_err() { return },
            }
        } else if rate.changed().await.is_err() {
            return;
        }
        due = Instant::now();
    }
}

fn start(clients: &Arc<Clients>, object: usize, due: Instant) {
    let clients = clients.clone();
    let Ok(slot) = clients.slots.clone().try_acquire_owned() else {
        let failed = Outcome::Failed { at: clients.origin.clone(), why: Failure::Overrun };
        return clients.record(due, Vec::new(), failed);
    };
    tokio::spawn(async move {
        let mut redirects = Vec::new();
        let outcome = clients.request(object, &mut redirects).await;
        clients.record(due, redirects, outcome);
        drop(slot);
    });
}

impl Clients {
    fn record(&self, due: Instant, redirects: Vec<Redirect>, outcome: Outcome) {
        let sample = Sample { due, took: due.elapsed(), redirects, outcome };
        self.samples.lock().expect("no holder panics").push(sample);
    }

    async fn request(&self, object: usize, redirects: &mut Vec<Redirect>) -> Outcome {
        let mut at = self.origin.clone();
        match self.fetch(object, redirects, &mut at).await {
            Ok((digest, bytes)) => Outcome::Answered { by: at, bytes, verdict: self.content.judge(object, digest) },
            Err(why) => Outcome::Failed { at, why },
        }
    }

    /// Follows the redirects to a 200 answer; `at` says whom it asked last.
    async fn fetch(
        &self,
        object: usize,
        redirects: &mut Vec<Redirect>,
        at: &mut Authority,
    ) -> Result<(Sha256, u64), Failure> {
        let client_error = |error| Failure::Client(Arc::new(error));
        let url = format!("https://{at}{}", self.content.path(object));
        let mut url = Uri::try_from(&url).map_err(|_| client_error(ClientError::Url(url)))?;
        loop {
            let mut hasher = sha2::Sha256::new();
            let mut bytes = 0;
            let request = Request::get(url).header(http::header::USER_AGENT, AGENT).header(http::header::ACCEPT, "*/*");
            let request = request.body(Bytes::new()).map_err(|_| client_error(ClientError::Location))?;
            let response = self.client.exchange(request, |chunk| {
                bytes += chunk.len() as u64;
                hasher.update(chunk);
            });
            let response = response.await.map_err(client_error)?;
            let Some(target) = redirect(&response).map_err(client_error)? else {
                let status = response.status().as_u16();
                return if status == 200 {
                    Ok((Sha256(hasher.finalize().into()), bytes))
                } else {
                    Err(Failure::Status(status))
                };
            };
            let to = target.authority().cloned().unwrap_or_else(|| at.clone());
            redirects.push(Redirect { to: to.clone(), at: Instant::now() });
            if redirects.len() > MAX_REDIRECTS {
                return Err(client_error(ClientError::Redirects));
            }
            *at = to;
            url = target;
        }
    }
}

#[cfg(test)]
mod tests;
