//! What browsers load things for, as far as redirects care.

use serde::{Deserialize, Serialize};

use crate::object::Class;

/// What a browser wants a response for, told apart as Content-Security-Policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Destination {
    /// `img-src`.
    Image,
    /// `media-src`.
    Media,
    /// `font-src`.
    Font,
    /// `style-src`.
    Style,
    /// `script-src`.
    Script,
    /// `connect-src`: `fetch` and its kin.
    Fetch,
    /// A download that a visitor clicked; no directive covers it, but the host has to serve attachments.
    Download,
}

impl Destination {
    /// Every destination, in the order of the discriminants.
    pub const ALL: [Self; 7] =
        [Self::Image, Self::Media, Self::Font, Self::Style, Self::Script, Self::Fetch, Self::Download];

    /// Whether an object of this class is what such a request is for.
    pub const fn takes(self, class: Class) -> bool {
        match self {
            Self::Image => matches!(class, Class::Image),
            Self::Media => matches!(class, Class::Media),
            Self::Font => matches!(class, Class::Font),
            Self::Style => matches!(class, Class::Style),
            Self::Script => matches!(class, Class::Script),
            Self::Fetch => class.is_leaf(),
            Self::Download => matches!(class, Class::Archive),
        }
    }
}

/// A set of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Destinations(u8);

impl Destinations {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// This set and one more.
    #[must_use]
    pub const fn with(self, destination: Destination) -> Self {
        Self(self.0 | 1 << destination as u8)
    }

    /// Whether the destination is in the set.
    pub const fn contains(self, destination: Destination) -> bool {
        self.0 & 1 << destination as u8 != 0
    }
}

impl FromIterator<Destination> for Destinations {
    fn from_iter<I: IntoIterator<Item = Destination>>(destinations: I) -> Self {
        destinations.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in() {
        let set: Destinations = [Destination::Font, Destination::Download].into_iter().collect();
        let inside: Vec<Destination> = Destination::ALL.into_iter().filter(|d| set.contains(*d)).collect();
        assert_eq!(inside, [Destination::Font, Destination::Download]);
        assert_eq!(Destinations::default(), Destinations::NONE);
    }

    #[test]
    fn every_class_is_some_browsers_destination_and_code_is_nobodys_data() {
        for class in Class::ALL {
            assert!(Destination::ALL.into_iter().any(|d| d.takes(class)), "{class:?}");
            assert_eq!(Destination::Fetch.takes(class), class.is_leaf());
        }
    }
}
