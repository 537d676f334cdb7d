//! What a browser is told, and what it says.

use p2pcdn_core::object::Sha256;
use serde::{Deserialize, Serialize};

/// Where a browser is to look at an object.
#[derive(Debug, Serialize)]
pub struct Place {
    /// The replica.
    pub url: String,
    /// Digest that its bytes should have.
    pub sha256: Sha256,
    /// How many they should be.
    pub size: u64,
    /// What it is, as in settings.
    pub kind: &'static str,
    /// To be sent back with what came of it, from the same network within ten minutes.
    pub token: String,
}

/// What a browser says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Path of the object, with its query.
    pub path: String,
    /// What came of looking at it.
    pub outcome: Outcome,
    /// Digest that it should have had.
    pub sha256: Option<Sha256>,
    /// Authority of the replica.
    pub holder: Option<String>,
    /// As in [`Place::token`].
    pub token: Option<String>,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// See [`super::judge::Found::Good`].
    Good,
    /// See [`super::judge::Found::Wrong`].
    Wrong,
    /// See [`super::judge::Found::Resent`].
    Resent,
    /// No answer, or another one than was asked for: that says nothing of bytes.
    Failed,
    /// The page itself could not load an element that has integrity metadata; from whom is not known.
    Integrity,
}

impl Outcome {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Wrong => "wrong",
            Self::Resent => "resent",
            Self::Failed => "failed",
            Self::Integrity => "integrity",
        }
    }
}
