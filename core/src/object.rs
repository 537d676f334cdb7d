//! Objects: their digests, their classes and the origin's signed statement about one version of one object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lookup::{PathError, canonical_target};

/// Bytes of one chunk of an object; the last chunk may be shorter.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// Largest object that a record may describe: 16 GiB, which keeps the chunk hashes of one record under 5 MiB of JSON.
pub const MAX_OBJECT_BYTES: u64 = 16 << 30;

/// Longest life of an object record in seconds, 30 days: one that claims more was signed by a clock that is wrong, or is compared with one.
pub const MAX_RECORD_LIFE_S: u64 = 30 * 24 * 3600;

/// A SHA-256 digest; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

/// The text was not 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hexadecimal digits")]
pub struct DigestError;

impl Sha256 {
    /// The 64 ASCII digits, without allocating.
    pub fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; 64];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.0) {
            if let [high, low] = pair {
                *high = DIGITS.get(usize::from(byte >> 4)).copied().unwrap_or_default();
                *low = DIGITS.get(usize::from(byte & 15)).copied().unwrap_or_default();
            }
        }
        out
    }
}

impl FromStr for Sha256 {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(DigestError),
        };
        if text.len() != 64 {
            return Err(DigestError);
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            if let [high, low] = pair {
                *byte = digit(*high)? << 4 | digit(*low)?;
            }
        }
        Ok(Self(out))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// What kind of object. Leaves can neither refer to another resource nor run code; code is shared only where its operator says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Class {
    /// `image/*` of the closed list.
    Image,
    /// Audio and video.
    Media,
    /// Web fonts.
    Font,
    /// Archives and packages, for tools.
    Archive,
    /// Style sheets.
    Style,
    /// Scripts, classic and modules.
    Script,
}

impl Class {
    /// Every class, in the order of their discriminants.
    pub const ALL: [Self; 6] = [Self::Image, Self::Media, Self::Font, Self::Archive, Self::Style, Self::Script];

    /// The name used in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Media => "media",
            Self::Font => "font",
            Self::Archive => "archive",
            Self::Style => "style",
            Self::Script => "script",
        }
    }

    /// Whether nothing of this class can refer to another resource or run code.
    pub const fn is_leaf(self) -> bool {
        !matches!(self, Self::Style | Self::Script)
    }

    /// The class of a content type in the fixed spelling of the allow-list; anything else is not replicated.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        TYPES.iter().find(|(_, known, _)| *known == content_type).map(|(_, _, class)| *class)
    }
}

/// The content type that the embedded origin gives a file with this extension, if it is on the allow-list.
///
/// `extension` is matched without regard to ASCII case and has no leading dot.
pub fn content_type_of_extension(extension: &str) -> Option<&'static str> {
    TYPES.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(extension)).map(|(_, content_type, _)| *content_type)
}

/// Every content type of the allow-list, some more than once.
pub fn content_types() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|(_, content_type, _)| *content_type)
}

/// Replicable types: extension, the one spelling of the content type, class.
const TYPES: &[(&str, &str, Class)] = &[
    ("avif", "image/avif", Class::Image),
    ("gif", "image/gif", Class::Image),
    ("ico", "image/x-icon", Class::Image),
    ("jpeg", "image/jpeg", Class::Image),
    ("jpg", "image/jpeg", Class::Image),
    ("png", "image/png", Class::Image),
    ("svg", "image/svg+xml", Class::Image),
    ("webp", "image/webp", Class::Image),
    ("flac", "audio/flac", Class::Media),
    ("m4a", "audio/mp4", Class::Media),
    ("mp3", "audio/mpeg", Class::Media),
    ("mp4", "video/mp4", Class::Media),
    ("oga", "audio/ogg", Class::Media),
    ("ogg", "audio/ogg", Class::Media),
    ("ogv", "video/ogg", Class::Media),
    ("opus", "audio/ogg", Class::Media),
    ("wav", "audio/wav", Class::Media),
    ("webm", "video/webm", Class::Media),
    ("otf", "font/otf", Class::Font),
    ("ttf", "font/ttf", Class::Font),
    ("woff", "font/woff", Class::Font),
    ("woff2", "font/woff2", Class::Font),
    ("7z", "application/x-7z-compressed", Class::Archive),
    ("bz2", "application/x-bzip2", Class::Archive),
    ("crate", "application/x-crate", Class::Archive),
    ("deb", "application/vnd.debian.binary-package", Class::Archive),
    ("gz", "application/gzip", Class::Archive),
    ("iso", "application/x-iso9660-image", Class::Archive),
    ("jar", "application/java-archive", Class::Archive),
    ("rpm", "application/x-rpm", Class::Archive),
    ("tar", "application/x-tar", Class::Archive),
    ("tgz", "application/gzip", Class::Archive),
    ("whl", "application/x-wheel+zip", Class::Archive),
    ("xz", "application/x-xz", Class::Archive),
    ("zip", "application/zip", Class::Archive),
    ("zst", "application/zstd", Class::Archive),
    ("css", "text/css", Class::Style),
    ("js", "text/javascript", Class::Script),
    ("mjs", "text/javascript", Class::Script),
];

/// Who may read a cross-origin copy of the object from script: what the origin itself allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Pages of the origin only.
    #[default]
    SameOrigin,
    /// Every page (`Access-Control-Allow-Origin: *`).
    Anyone,
}

/// Which pages may embed the object: what the origin's own `Cross-Origin-Resource-Policy` says (Fetch, section 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Embedding {
    /// It says nothing: every page but those that require an explicit word (COEP).
    #[default]
    Unstated,
    /// Pages of the origin, or of its site.
    Own,
    /// Every page.
    Anyone,
}

/// The origin's statement about one version of one object; signed and exchanged as exact JSON bytes.
///
/// Unknown fields are ignored so that a later release may add some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Authority of the origin: host in lower case, port unless 443.
    pub origin: String,
    /// Canonical path, with a canonical query if the object's origin tells objects apart by it.
    pub path: String,
    /// Digest of the identity-coded body.
    pub sha256: Sha256,
    /// Length of the body in bytes, at most [`MAX_OBJECT_BYTES`].
    pub size: u64,
    /// A content type of the allow-list, in its one spelling.
    pub content_type: String,
    /// Strong entity tag with its quotes.
    pub etag: String,
    /// Shared freshness lifetime in seconds (RFC 9111, section 4.2.1).
    pub max_age_s: u32,
    /// How long after that a stale copy may still stand in for an origin that fails, in seconds (RFC 5861, section 4).
    pub stale_if_error_s: u32,
    /// Who may read the object across origins.
    pub sharing: Sharing,
    /// Who may embed it.
    pub embedding: Embedding,
    /// Digest of each chunk of [`CHUNK_BYTES`].
    pub chunks: Vec<Sha256>,
    /// Grows with every record that this origin signs.
    pub sequence: u64,
    /// Seconds since the Unix epoch after which the record is void.
    pub expires_s: u64,
}

/// What is wrong with an object record; always its signer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The origin is not a plain authority.
    #[error("origin is not an authority in lower case")]
    Origin,
    /// The path is not canonical.
    #[error("path: {0}")]
    Path(#[from] PathError),
    /// Empty or above [`MAX_OBJECT_BYTES`].
    #[error("size {0} is outside 1..={MAX_OBJECT_BYTES}")]
    Size(u64),
    /// Not on the allow-list, or spelled otherwise.
    #[error("content type is not on the allow-list")]
    ContentType,
    /// Weak, unquoted or with bytes that a header cannot carry.
    #[error("etag is not a strong entity tag")]
    Etag,
    /// The number of chunk hashes does not follow from the size.
    #[error("{got} chunk hashes where the size calls for {want}")]
    Chunks {
        /// Chunk hashes in the record.
        got: usize,
        /// Chunk hashes that the size calls for.
        want: u64,
    },
}

impl ObjectRecord {
    /// Checks every bound that does not need a clock or a key, and returns the class.
    pub fn validate(&self) -> Result<Class, RecordError> {
        if !is_authority(&self.origin) {
            return Err(RecordError::Origin);
        }
        canonical_target(self.path.as_bytes())?;
        if self.size == 0 || self.size > MAX_OBJECT_BYTES {
            return Err(RecordError::Size(self.size));
        }
        let class = Class::of_content_type(&self.content_type).ok_or(RecordError::ContentType)?;
        if !is_strong_etag(&self.etag) {
            return Err(RecordError::Etag);
        }
        let want = self.size.div_ceil(CHUNK_BYTES);
        if self.chunks.len() as u64 != want {
            return Err(RecordError::Chunks { got: self.chunks.len(), want });
        }
        Ok(class)
    }
}

/// Whether `text` is `host` or `host:port` of lower-case letters, digits, hyphens and dots, at most 255 bytes,
/// with the default port 443 left out.
pub fn is_authority(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    let port_ok = port.is_none_or(|p| {
        !p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p != 443)
    });
    text.len() <= 255 && host.split('.').all(label) && port_ok
}

/// Whether `text` is a strong entity tag with its quotes, of at most 128 bytes.
pub fn is_strong_etag(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    text.len() <= 128 && inner.is_some_and(|t| t.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x7e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ObjectRecord {
        ObjectRecord {
            origin: "alpha.test:8443".into(),
            path: "/a/b.png".into(),
            sha256: Sha256([7; 32]),
            size: CHUNK_BYTES + 1,
            content_type: "image/png".into(),
            etag: "\"x\"".into(),
            max_age_s: 60,
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            chunks: vec![Sha256([1; 32]); 2],
            sequence: 1,
            expires_s: 10,
        }
    }

    #[test]
    fn a_record_is_accepted_only_within_its_bounds() {
        assert_eq!(record().validate(), Ok(Class::Image));
        let broken = |change: fn(&mut ObjectRecord)| {
            let mut r = record();
            change(&mut r);
            r.validate().unwrap_err()
        };
        assert_eq!(broken(|r| r.origin = "Alpha.test".into()), RecordError::Origin);
        assert_eq!(broken(|r| r.origin = "alpha.test\r\nx".into()), RecordError::Origin);
        assert!(matches!(broken(|r| r.path = "/a/../b".into()), RecordError::Path(_)));
        assert_eq!(broken(|r| r.size = 0), RecordError::Size(0));
        assert_eq!(broken(|r| r.size = u64::MAX), RecordError::Size(u64::MAX));
        assert_eq!(broken(|r| r.content_type = "text/html".into()), RecordError::ContentType);
        assert_eq!(broken(|r| r.content_type = "Image/PNG".into()), RecordError::ContentType);
        assert_eq!(broken(|r| r.etag = "W/\"x\"".into()), RecordError::Etag);
        assert_eq!(broken(|r| r.etag = "\"a\r\nb\"".into()), RecordError::Etag);
        assert!(matches!(broken(|r| r.chunks.clear()), RecordError::Chunks { got: 0, want: 2 }));
    }

    #[test]
    fn authorities_are_lower_case_hosts_with_an_optional_other_port() {
        for good in ["a", "a.test", "a-b.test:8443", "xn--bcher-kva.example"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            "A.test",
            "a..b",
            "-a.test",
            "a.test:",
            "a.test:0443",
            "a.test:443",
            "a.test:99999",
            "a b",
            "a/b",
            "[::1]",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn digests_survive_their_text(bytes: [u8; 32]) {
            let digest = Sha256(bytes);
            assert_eq!(digest.to_string().parse(), Ok(digest));
            assert_eq!(digest.to_string().as_bytes(), digest.hex());
            let json = serde_json::to_string(&digest).unwrap();
            assert_eq!(serde_json::from_str::<Sha256>(&json).unwrap(), digest);
        }

        #[test]
        fn no_text_makes_digest_parsing_panic(text: String) {
            let _ = text.parse::<Sha256>();
        }
    }
}
