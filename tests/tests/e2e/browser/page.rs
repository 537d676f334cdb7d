//! Pages made of cells, and what is expected of each cell.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use p2pcdn_tests::Site;
use p2pcdn_tests::content::{digest, noise};
use serde_json::{Map, json};

use super::fate::Fate;

pub(super) const PNG: &[u8] = include_bytes!("../../../fixtures/noise.png");
const FONT: &[u8] = include_bytes!("../../../fixtures/wide.ttf");
pub(super) const RUNNER: &str = include_str!("runner.js");
/// More than `min_bytes`, so that no file stays local for its size alone.
pub(super) const PADDING: usize = 9 << 10;

/// A page with its cells.
pub(super) struct Page {
    /// Its name: it is served below `/NAME/`.
    pub(super) name: &'static str,
    pub(super) cells: Vec<Cell>,
    /// Whether another site serves it.
    pub(super) is_foreign: bool,
    /// Whether the hosts send back whoever comes for what it loads.
    pub(super) is_returned: bool,
}

/// One thing that a page does.
#[derive(Clone)]
pub(super) struct Cell {
    pub(super) name: String,
    /// What it loads, from the directory `/PAGE/CELL/`.
    pub(super) files: Vec<File>,
    /// Body of an asynchronous function; `at` makes the URL of a file, `integrity` its integrity metadata.
    pub(super) script: String,
    /// What comes of it with redirects, if not the same as without.
    pub(super) breaks: Option<&'static str>,
}

/// A file that a cell loads.
#[derive(Clone)]
pub(super) struct File {
    name: &'static str,
    text: Option<&'static str>,
    /// Whether it is an object of the site, as what is no leaf only is where the operator says so.
    is_object: bool,
    /// What is to become of requests for it.
    fate: Fate,
}

/// A cell that goes the same way with and without redirects.
pub(super) fn cell(name: &str, files: &[File], script: &str) -> Cell {
    Cell { name: name.into(), files: files.into(), script: script.into(), breaks: None }
}

impl Cell {
    /// With redirects, this comes of it instead.
    pub(super) fn breaks(mut self, outcome: &'static str) -> Self {
        self.breaks = Some(outcome);
        self
    }

    /// The page's own policy keeps the browser from asking.
    pub(super) fn unask(&mut self) {
        self.files.iter_mut().for_each(|file| file.fate = Fate::Unasked);
    }
}

/// A file by its extension, which makes it an object.
pub(super) fn file(name: &'static str, fate: Fate) -> File {
    File { name, text: None, is_object: true, fate }
}

/// A text file; an object if it is an image.
pub(super) fn text(name: &'static str, fate: Fate, text: &'static str) -> File {
    File { name, text: Some(text), is_object: name.ends_with(".svg"), fate }
}

/// A style or script that is an object of the site.
pub(super) fn code(name: &'static str, fate: Fate, text: &'static str) -> File {
    File { name, text: Some(text), is_object: true, fate }
}

impl Page {
    /// A page of the site itself.
    pub(super) fn new(name: &'static str, cells: Vec<Cell>) -> Self {
        Self { name, cells, is_foreign: false, is_returned: false }
    }

    /// Paths of everything that its cells load, and what is to become of the requests.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, Fate)> {
        let of_cell =
            |cell: &Cell| cell.files.iter().map(|file| (self.path_of(cell, file), file.fate)).collect::<Vec<_>>();
        self.cells.iter().flat_map(of_cell)
    }

    /// Path of the page.
    pub(super) fn path(&self) -> String {
        format!("/{}/page.html", self.name)
    }

    /// Path of a file.
    fn path_of(&self, cell: &Cell, file: &File) -> String {
        format!("/{}/{}/{}", self.name, cell.name, file.name)
    }

    /// Puts the files on `origin` and the page itself on `site`, which may be the same.
    pub(super) fn write(&self, site: &Site, origin: &Site) {
        let mut integrity = Map::new();
        let mut script = String::new();
        for cell in &self.cells {
            for file in &cell.files {
                let bytes = file.bytes(&self.path_of(cell, file));
                let sha256 = format!("sha256-{}", BASE64_STANDARD.encode(digest(&bytes).0));
                integrity.insert(format!("{}/{}", cell.name, file.name), sha256.into());
                let path = self.path_of(cell, file);
                if file.is_object {
                    origin.content.put(&path, &bytes).unwrap();
                } else {
                    put(origin, &path, &bytes);
                }
            }
            writeln!(script, "cell({:?}, async (at, integrity) => {{ {} }});", cell.name, cell.script).unwrap();
        }
        let page = json!({ "name": self.name, "origin": format!("https://{}", origin.domain), "integrity": integrity });
        let script = format!("const PAGE = {page};\n{RUNNER}\n{script}\nwindow.results = run();\n");
        let html = "<!doctype html><meta charset=utf-8><title>cells</title><link rel=icon href=data:,><body>\
                    <script src=page.js></script>";
        put(site, &self.path(), html.as_bytes());
        put(site, &format!("/{}/page.js", self.name), script.as_bytes());
    }
}

impl File {
    /// Its content; no two paths have the same.
    fn bytes(&self, path: &str) -> Vec<u8> {
        let extension = Path::new(self.name).extension().unwrap().to_str().unwrap();
        match (extension, self.text) {
            ("png", None) => [PNG, path.as_bytes()].concat(),
            ("ttf", None) => [FONT, path.as_bytes()].concat(),
            ("wav", None) => [&wav(&noise(2, PADDING)), path.as_bytes()].concat(),
            ("zip", None) => [&noise(1, PADDING), path.as_bytes()].concat(),
            ("js" | "css", Some(text)) => format!("{text}\n/*{path:PADDING$}*/\n").into(),
            ("html" | "svg", Some(text)) => format!("{text}\n<!--{:PADDING$}-->\n", "").into(),
            (_, Some(text)) => format!("{text}{:PADDING$}", "").into(),
            (_, None) => panic!("no content for {}", self.name),
        }
    }
}

/// Samples of one byte, 8000 a second, as an uncompressed recording.
pub(super) fn wav(samples: &[u8]) -> Vec<u8> {
    const RATE: u32 = 8000;
    let length = u32::try_from(samples.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + length).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]); // PCM, one channel
    bytes.extend(RATE.to_le_bytes());
    bytes.extend(RATE.to_le_bytes());
    bytes.extend([1, 0, 8, 0]); // bytes and bits of a sample
    bytes.extend(b"data");
    bytes.extend(length.to_le_bytes());
    bytes.extend(samples);
    bytes
}

/// Writes a file that is no object.
fn put(site: &Site, path: &str, bytes: &[u8]) {
    let file = site.directory().join("srv").join(path.trim_start_matches('/'));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}
