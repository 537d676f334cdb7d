//! What nginx has seen, from the log that it sends as datagrams: counts for the load and for demand. Nothing of it is kept.

/// One request, as `log_format p2pcdn` in nginx-config/stock-map.conf writes it behind the head of a syslog message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Word for the kind of request; empty if it cannot leave whatever it is for.
    pub(super) kind: &'a str,
    /// Whom it was redirected to; empty if it was not.
    pub(super) authority: &'a str,
    /// The target as the visitor wrote it.
    pub(super) target: &'a str,
}

/// How the message proper begins.
const START: &str = " p2pcdn: ";

impl<'a> Line<'a> {
    /// Takes a datagram apart; `None` if it is none of these lines.
    pub(super) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok()?;
        let (_, line) = text.split_once(START)?;
        let mut fields = line.splitn(4, '|');
        let (kind, status, authority, target) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let authority = if status == "307" { authority } else { "" };
        Some(Self { kind, authority, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart_and_others_are_none() {
        let line = b"<190>Nov 27 15:05:36 p2pcdn: image|307|replica.b.test:84|/a|b.png";
        let expected = Line { kind: "image", authority: "replica.b.test:84", target: "/a|b.png" };
        assert_eq!(Line::parse(line), Some(expected));
        let stayed = Line::parse(b"<190>x p2pcdn: font|200|replica.b.test|/a.woff2").unwrap();
        assert_eq!((stayed.kind, stayed.authority), ("font", ""));
        for other in [&b""[..], b"<190>x other: a|b|c|d", b"<190>x p2pcdn: a|b|c", b"\xff p2pcdn: a|1|c|/"] {
            assert_eq!(Line::parse(other), None);
        }
    }
}
