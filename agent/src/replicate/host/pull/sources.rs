//! Whom to ask for an object, and in which order. Pure.

use std::time::Duration;

/// Rounds through all sources; what they do not bring, the origin has to offer again.
const ROUNDS: u32 = 4;
/// Pause before the second round; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(250);

/// Sources in their order, asked one after the other, and again as long as they have not been given up.
pub(super) struct Rounds<T> {
    left: Vec<T>,
    at: usize,
    round: u32,
}

impl<T: Clone> Rounds<T> {
    pub(super) fn new(sources: Vec<T>) -> Self {
        Self { left: sources, at: 0, round: 0 }
    }

    /// The next source, and how long to wait before it is asked.
    pub(super) fn next(&mut self) -> Option<(T, Duration)> {
        let is_again = self.at >= self.left.len();
        if is_again {
            self.at = 0;
            self.round += 1;
        }
        let source = self.left.get(self.at).filter(|_| self.round < ROUNDS)?;
        self.at += 1;
        let pause = if is_again { PAUSE * (1 << (self.round - 1)) } else { Duration::ZERO };
        Some((source.clone(), pause))
    }

    /// Never asks the source again that was asked last.
    pub(super) fn give_up_last(&mut self) {
        if let Some(last) = self.at.checked_sub(1) {
            self.left.remove(last);
            self.at = last;
        }
    }
}

/// Those of `named` that `find` knows as peers, each once, without this site itself and without the origin, which comes after them.
pub(super) fn in_order<T>(own: &str, origin: &str, named: &[String], find: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let mut seen = vec![own, origin];
    let mut sources = Vec::new();
    for domain in named {
        if !seen.contains(&domain.as_str()) {
            seen.push(domain);
            sources.extend(find(domain));
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(rounds: &mut Rounds<char>) -> String {
        std::iter::from_fn(|| rounds.next()).map(|(source, _)| source).collect()
    }

    #[test]
    fn every_source_is_asked_in_each_round() {
        assert_eq!(asked(&mut Rounds::new(vec!['a', 'b'])), "abababab");
        assert_eq!(asked(&mut Rounds::new(vec!['a'])), "aaaa");
        assert_eq!(asked(&mut Rounds::new(vec![])), "");
    }

    #[test]
    fn rounds_come_after_growing_pauses() {
        let mut rounds = Rounds::new(vec!['a', 'b']);
        let pauses: Vec<u128> = std::iter::from_fn(|| rounds.next()).map(|(_, pause)| pause.as_millis()).collect();
        assert_eq!(pauses, [0, 0, 250, 0, 500, 0, 1000, 0]);
    }

    #[test]
    fn who_was_given_up_is_not_asked_again() {
        let mut rounds = Rounds::new(vec!['a', 'b', 'c']);
        rounds.next();
        rounds.next();
        rounds.give_up_last();
        assert_eq!(asked(&mut rounds), "cacacac");
        let mut rounds = Rounds::new(vec!['a']);
        rounds.next();
        rounds.give_up_last();
        assert_eq!(asked(&mut rounds), "");
    }

    #[test]
    fn only_peers_are_asked_each_once_and_never_oneself() {
        let named = ["b.test", "me.test", "stranger.test", "b.test", "a.test", "c.test"].map(String::from);
        let find = |domain: &str| (domain != "stranger.test").then(|| domain.to_owned());
        assert_eq!(in_order("me.test", "a.test", &named, find), ["b.test", "c.test"]);
    }
}
