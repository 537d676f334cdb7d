//! Whose message is read now: few of one peer at a time, and none for long while others wait, so that whoever sends slowly holds up
//! nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

/// Turns at reading messages, a few for all and fewer for one peer; whoever has none waits for it.
pub struct Turns {
    all: Arc<Semaphore>,
    of_one: usize,
    peers: Mutex<HashMap<String, Arc<Semaphore>>>,
    wishes: Arc<watch::Sender<Wishes>>,
    long: Duration,
}

/// The right to read one message; it ends when it is dropped.
pub struct Turn {
    /// From then on it is long.
    long_from: Instant,
    wishes: Arc<watch::Sender<Wishes>>,
    _all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

/// Those that wait for one of all turns.
#[derive(Default)]
struct Wishes {
    waiting: usize,
    /// Of these, for whom no turn has ended yet.
    unheard: usize,
}

/// One of those that wait; no longer when it is dropped.
struct Waiting<'a>(&'a watch::Sender<Wishes>);

/// A turn that lasts longer ends when somebody waits for it.
const LONG: Duration = Duration::from_secs(5);
/// Above so many peers, those that read and wait for nothing are forgotten.
const REMEMBERED: usize = 1024;

impl Turns {
    /// `all` turns at the same time, of which `of_one` for any one peer.
    pub fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_one, peers: Mutex::default(), wishes: Arc::default(), long: LONG }
    }

    /// Waits for a turn; what a peer has waiting beyond its own turns keeps no place among the others.
    pub async fn take(&self, peer: &str) -> Turn {
        let own = self.of(peer);
        let of_one = acquire(own).await;
        let all = match self.all.clone().try_acquire_owned() {
            Ok(all) => all,
            Err(_) => {
                let _waiting = Waiting::begin(&self.wishes);
                acquire(self.all.clone()).await
            }
        };
        Turn { long_from: Instant::now() + self.long, wishes: self.wishes.clone(), _all: all, _of_one: of_one }
    }

    fn of(&self, peer: &str) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= REMEMBERED && !peers.contains_key(peer) {
            peers.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        peers.entry(peer.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.of_one))).clone()
    }
}

impl Turn {
    /// Completes when the turn has lasted for long and somebody waits for one; it is to be dropped then. For each that waits only one ends.
    pub async fn is_over(&self) {
        sleep_until(self.long_from).await;
        self.is_wanted().await;
    }

    async fn is_wanted(&self) {
        let mut wishes = self.wishes.subscribe();
        while wishes.wait_for(|wishes| wishes.unheard > 0).await.is_ok() {
            let hears = |wishes: &mut Wishes| {
                let heard = wishes.unheard > 0;
                wishes.unheard -= usize::from(heard);
                heard
            };
            // Another turn may have been faster.
            if self.wishes.send_if_modified(hears) {
                break;
            }
        }
    }
}

impl<'a> Waiting<'a> {
    fn begin(wishes: &'a watch::Sender<Wishes>) -> Self {
        wishes.send_modify(|wishes| {
            wishes.waiting += 1;
            wishes.unheard += 1;
        });
        Self(wishes)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|wishes| {
            wishes.waiting -= 1;
            wishes.unheard = wishes.unheard.min(wishes.waiting);
        });
    }
}

async fn acquire(turns: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match turns.acquire_owned().await {
        Ok(permit) => permit,
        // Nobody closes them.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn one_peer_that_sends_slowly_keeps_nobody_else_from_being_read() {
        let turns = Turns::new(3, 2);
        let held: Vec<Turn> = (0..2).map(|_| turns.take("slow").now_or_never().unwrap()).collect();
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.take("slow"))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let other = turns.take("other").now_or_never();
        assert!(other.is_some() && turns.take("third").now_or_never().is_none(), "all are taken");
        drop(other);
        assert!(turns.take("third").now_or_never().is_some());
        drop(held);
        assert!(waiting.remove(0).now_or_never().is_some(), "the own queue goes on in its order");
    }

    #[test]
    fn no_more_turns_end_than_there_are_messages_that_wait() {
        let turns = Turns::new(3, 1);
        let held: Vec<Turn> = ["a", "b", "c"].into_iter().filter_map(|peer| turns.take(peer).now_or_never()).collect();
        let mut wanted: Vec<_> = held.iter().map(|turn| Box::pin(turn.is_wanted())).collect();
        let mut ended = || {
            wanted.retain_mut(|wanted| wanted.now_or_never().is_none());
            held.len() - wanted.len()
        };
        assert_eq!(ended(), 0);
        assert!(turns.take("d").now_or_never().is_none());
        assert_eq!(ended(), 0, "it waits no longer");
        let mut waiting: Vec<_> = ["e", "f"].into_iter().map(|peer| Box::pin(turns.take(peer))).collect();
        for (n, waiting) in waiting.iter_mut().enumerate() {
            assert!(waiting.now_or_never().is_none());
            assert_eq!(ended(), n + 1);
        }
    }

    #[tokio::test]
    async fn peers_that_send_slowly_make_way_but_not_before_their_turn_is_long() {
        for (long, read) in [(Duration::from_millis(20), true), (Duration::from_secs(3600), false)] {
            let turns = Arc::new(Turns { long, ..Turns::new(16, 2) });
            for n in 0..16 {
                let turns = turns.clone();
                tokio::spawn(async move {
                    loop {
                        turns.take(&format!("slow{}", n / 2)).await.is_over().await;
                    }
                });
            }
            while turns.all.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let limit = Duration::from_millis(if read { 20_000 } else { 200 });
            assert_eq!(timeout(limit, turns.take("honest")).await.is_ok(), read);
        }
    }

    #[test]
    fn peers_that_are_not_read_are_forgotten() {
        let turns = Turns::new(2000, 1);
        let held: Vec<Turn> = (0..3).filter_map(|n| turns.take(&format!("held{n}")).now_or_never()).collect();
        for n in 0..5 * REMEMBERED {
            assert!(turns.take(&format!("{n}")).now_or_never().is_some());
        }
        let peers = turns.peers.lock().unwrap();
        assert!(peers.len() <= REMEMBERED && (0..held.len()).all(|n| peers.contains_key(&format!("held{n}"))));
    }
}
