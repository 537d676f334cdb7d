//! What browsers make of a body with a `Content-Encoding`.

use std::io::{self, BufRead, BufReader, Read};

use brotli_decompressor::Decompressor;
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::pick::MAX_AUDIT_BYTES;

/// A coding that browsers decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, or RFC 1951 without its frame, as browsers take both.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

/// Codings that are undone at most; each may need 16 MiB for its window. Nobody honest codes more often, and browsers differ in how far they go.
const MAX_CODINGS: usize = 2;
/// Bytes that one coding is given at most, headers and whatever else it skips included: a few can expand to terabytes that come to nothing.
const MAX_CODED_BYTES: u64 = MAX_AUDIT_BYTES + (1 << 20);
/// Frames of zstd in one body at most: each costs as much as many bytes.
const MAX_ZSTD_FRAMES: usize = 1024;
/// Largest window of zstd that browsers grant (RFC 9659), in bytes.
const MAX_ZSTD_WINDOW: u64 = 8 * 1024 * 1024;
/// Pieces in which decoded bytes are handed on.
const PIECE_BYTES: usize = 64 * 1024;

/// The codings of a `Content-Encoding`, in the order in which they were applied. None where there is one that browsers do not know: they
/// show such a body as it came.
pub fn codings(header: &[u8]) -> Vec<Coding> {
    let names = header.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let known = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity")).map(coding);
    known.collect::<Option<_>>().unwrap_or_default()
}

fn coding(name: &[u8]) -> Option<Coding> {
    match name.to_ascii_lowercase().as_slice() {
        b"gzip" | b"x-gzip" => Some(Coding::Gzip),
        b"deflate" => Some(Coding::Deflate),
        b"br" => Some(Coding::Brotli),
        b"zstd" => Some(Coding::Zstd),
        _ => None,
    }
}

/// Hands on what `body` is once `codings` are undone, `limit` bytes at most; returns whether that was all of it and sound. Checksums are
/// not looked at, as browsers show what comes before them.
pub fn decode(codings: &[Coding], body: &[u8], limit: u64, mut take: impl FnMut(&[u8])) -> bool {
    if codings.len() > MAX_CODINGS {
        return false;
    }
    let mut reader: Box<dyn BufRead + '_> = Box::new(body);
    for coding in codings.iter().rev() {
        let source = Bounded { source: reader, left: MAX_CODED_BYTES };
        reader = match coding {
            Coding::Gzip => Box::new(BufReader::new(Inflate::new(source, true))),
            Coding::Deflate => Box::new(BufReader::new(Inflate::new(source, false))),
            Coding::Brotli => Box::new(BufReader::new(Decompressor::new(SmallWindow::new(source), PIECE_BYTES))),
            Coding::Zstd => Box::new(BufReader::new(Frames::new(source))),
        };
    }
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = limit;
    loop {
        let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match reader.read(&mut piece[..room]) {
            Ok(0) => return left > 0,
            Ok(got) => {
                take(&piece[..got]);
                left -= got as u64;
            }
            Err(_) => return false,
        }
    }
}

/// So many bytes of a source, which is broken if it has more.
struct Bounded<R> {
    source: R,
    left: u64,
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.source.fill_buf()?;
        if self.left == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(&bytes[..bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.left = self.left.saturating_sub(bytes as u64);
    }
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

/// A deflate stream in what may be around it; what follows is ignored.
struct Inflate<R> {
    source: R,
    is_gzip: bool,
    inflate: Option<Decompress>,
    /// Bytes of the stream that were looked at already.
    seen: Vec<u8>,
    has_ended: bool,
}

impl<R: BufRead> Inflate<R> {
    fn new(source: R, is_gzip: bool) -> Self {
        Self { source, is_gzip, inflate: None, seen: Vec::new(), has_ended: false }
    }

    fn skip_header(&mut self) -> io::Result<()> {
        if self.is_gzip {
            return self.skip_gzip_header();
        }
        self.source.by_ref().take(2).read_to_end(&mut self.seen)?;
        if let [method, flags] = self.seen[..]
            && method & 0x0f == 8
            && u16::from_be_bytes([method, flags]).is_multiple_of(31)
        {
            self.seen.clear();
        }
        Ok(())
    }

    fn skip_gzip_header(&mut self) -> io::Result<()> {
        let mut head = [0; 10];
        self.source.read_exact(&mut head)?;
        let [0x1f, 0x8b, 8, flags, ..] = head else { return Err(io::ErrorKind::InvalidData.into()) };
        if flags & 4 != 0 {
            let mut length = [0; 2];
            self.source.read_exact(&mut length)?;
            skip(&mut self.source, u64::from(u16::from_le_bytes(length)))?;
        }
        for text in [8, 16] {
            if flags & text != 0 {
                self.source.skip_until(0)?;
            }
        }
        skip(&mut self.source, u64::from(flags & 2))
    }
}

fn skip(source: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut source.take(bytes), &mut io::sink())?;
    if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.inflate.is_none() {
            self.skip_header()?;
        }
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        while !self.has_ended && !out.is_empty() {
            let input = if self.seen.is_empty() { self.source.fill_buf()? } else { &self.seen };
            let is_last = input.is_empty();
            let (taken, given) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(input, out, FlushDecompress::None).map_err(io::Error::other)?;
            let taken = (inflate.total_in() - taken) as usize;
            let given = (inflate.total_out() - given) as usize;
            if self.seen.is_empty() {
                self.source.consume(taken);
            } else {
                self.seen.drain(..taken);
            }
            self.has_ended = status == Status::StreamEnd;
            if given > 0 {
                return Ok(given);
            }
            if is_last && !self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// A stream of Brotli as RFC 7932 has it, whose section 9.1 leaves out the beginning by which others announce windows of up to 1 GiB.
struct SmallWindow<R> {
    source: R,
    is_checked: bool,
}

impl<R: BufRead> SmallWindow<R> {
    fn new(source: R) -> Self {
        Self { source, is_checked: false }
    }
}

impl<R: BufRead> Read for SmallWindow<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !self.is_checked {
            self.is_checked = true;
            if self.source.fill_buf()?.first().is_some_and(|first| first & 0x7f == 0x11) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        self.source.read(out)
    }
}

/// One frame of zstd after another.
struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    is_open: bool,
    begun: usize,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW);
        Self { source, decoder, is_open: false, begun: 0 }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.begun == MAX_ZSTD_FRAMES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.begun += 1;
        match self.decoder.init(&mut self.source) {
            Ok(()) => self.is_open = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                skip(&mut self.source, u64::from(length))?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_open {
                if self.begun > 0 && self.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.open()?;
            } else if self.decoder.can_collect() > 0 || out.is_empty() {
                return self.decoder.read(out);
            } else if self.decoder.is_finished() {
                self.is_open = false;
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
        coder.write_all(bytes).unwrap();
        coder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut coder = ZlibEncoder::new(Vec::new(), Compression::fast());
        coder.write_all(bytes).unwrap();
        coder.finish().unwrap()
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        let mut coder = DeflateEncoder::new(Vec::new(), Compression::fast());
        coder.write_all(bytes).unwrap();
        coder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// "hello", by the reference coder.
    const BROTLI: [u8; 9] = [0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];

    fn decoded(header: &str, body: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let is_all = decode(&codings(header.as_bytes()), body, 1 << 20, |piece| bytes.extend_from_slice(piece));
        (bytes, is_all)
    }

    #[test]
    fn a_body_is_compared_as_it_came_where_browsers_show_it_so() {
        let table = [
            ("gzip", vec![Coding::Gzip]),
            (" X-GZip , br", vec![Coding::Gzip, Coding::Brotli]),
            ("identity", vec![]),
            ("", vec![]),
            ("aws-chunked", vec![]),
            ("gzip, made-up", vec![]),
            ("gzip,gzip,gzip", vec![Coding::Gzip; 3]),
        ];
        for (header, wanted) in table {
            assert_eq!(codings(header.as_bytes()), wanted, "{header}");
        }
    }

    #[test]
    fn every_coding_of_browsers_is_undone() {
        let hello = b"hello";
        let frames = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7], &zstd(b"he")[..], &zstd(b"llo")].concat();
        let mut named = gzip(hello);
        named[3] = 8 | 4;
        named.splice(10..10, [2, 0, 9, 9, b'n', b'a', b'm', b'e', 0]);
        let table = [
            ("gzip", gzip(hello)),
            ("gzip", named),
            ("gzip", [gzip(hello), b"what browsers do not look at".to_vec()].concat()),
            ("deflate", zlib(hello)),
            ("deflate", raw(hello)),
            ("br", BROTLI.to_vec()),
            ("zstd", zstd(hello)),
            ("zstd", frames),
            ("deflate, zstd", zstd(&raw(hello))),
            ("br, gzip", gzip(&BROTLI)),
        ];
        for (header, body) in table {
            assert_eq!(decoded(header, &body), (hello.to_vec(), true), "{header} {body:?}");
            let last = if header == "gzip" { 12 } else { 4 };
            assert!(!decoded(header, &body[..last]).1, "{header} cut off");
        }
        let mut wrong_sum = gzip(hello);
        wrong_sum.truncate(wrong_sum.len() - 8);
        assert_eq!(decoded("gzip", &wrong_sum), (hello.to_vec(), true), "browsers show what comes before the checksum");
        for header in ["gzip", "deflate", "br", "zstd"] {
            assert!(!decoded(header, b"<html>no coding at all</html>").1, "{header}");
            assert!(!decoded(header, b"").1, "{header}");
        }
    }

    #[test]
    fn what_is_skipped_without_end_is_given_up() {
        let much = usize::try_from(2 * MAX_CODED_BYTES).unwrap();
        let mut named = gzip(b"hello");
        named[3] = 8;
        named.splice(10..10, vec![b'a'; much]);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18][..], &u32::MAX.to_le_bytes(), &vec![0; much]].concat();
        let empty = zstd(b"").repeat(2 * MAX_ZSTD_FRAMES);
        for (header, body) in [("gzip,gzip", gzip(&named)), ("zstd,gzip", gzip(&skipped)), ("zstd", empty)] {
            assert_eq!(decoded(header, &body), (vec![], false), "{header}");
        }
    }

    #[test]
    fn too_many_codings_and_windows_that_browsers_refuse_are_not_undone() {
        assert_eq!(decoded("gzip,gzip,gzip", &gzip(&gzip(&gzip(b"hello")))), (vec![], false));
        // A window of 2^30 bytes, and "hello" in a block without compression.
        let large = [0x11, 0x5e, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
        assert_eq!(decoded("br", &large), (vec![], false));
    }

    #[test]
    fn a_bomb_is_left_at_the_limit() {
        let zeros = vec![0; 4 << 20];
        for (header, body) in [("gzip", gzip(&zeros)), ("deflate", raw(&zeros)), ("zstd", zstd(&zeros))] {
            assert_eq!(decoded(header, &body), (vec![0; 1 << 20], false), "{header}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_does_harm(header in "(gzip|deflate|br|zstd)(,(gzip|deflate|br|zstd)){0,2}", body: Vec<u8>, cut in 0..64usize) {
            prop_assert!(decoded(&header, &body).0.len() <= 1 << 20);
            for (header, coded) in [("gzip", gzip(&body)), ("deflate", zlib(&body)), ("deflate", raw(&body)), ("zstd", zstd(&body))] {
                prop_assert_eq!(decoded(header, &coded), (body.clone(), true), "{}", header);
                let cut = decoded(header, &coded[..coded.len().saturating_sub(cut)]);
                prop_assert!(body.starts_with(&cut.0));
            }
        }
    }
}
