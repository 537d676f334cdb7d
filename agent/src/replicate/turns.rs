//! Whose message is read now: few of one peer at a time, so that whoever sends slowly holds up nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns at reading messages, a few for all and fewer for one peer; whoever has none waits for it.
pub struct Turns {
    all: Arc<Semaphore>,
    of_one: usize,
    peers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to read one message; it ends when it is dropped.
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

/// Above so many peers, those that read and wait for nothing are forgotten.
const REMEMBERED: usize = 1024;

impl Turns {
    /// `all` turns at the same time, of which `of_one` for any one peer.
    pub fn new(all: usize, of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_one, peers: Mutex::default() }
    }

    /// Waits for a turn; what a peer has waiting beyond its own turns keeps no place among the others.
    pub async fn take(&self, peer: &str) -> Turn {
        let own = self.of(peer);
        let of_one = acquire(own).await;
        Turn { _all: acquire(self.all.clone()).await, _of_one: of_one }
    }

    fn of(&self, peer: &str) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= REMEMBERED && !peers.contains_key(peer) {
            peers.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        peers.entry(peer.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.of_one))).clone()
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
