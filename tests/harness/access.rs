//! What a site's proxy saw of each request: its access log.

use std::path::Path;
use std::{fs, io};

use serde::Deserialize;

use crate::Error;

/// One request that Envoy has answered, or passed on and seen through.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Access {
    /// `:authority`.
    pub authority: String,
    /// `:method`.
    pub method: String,
    /// The path as the client sent it.
    pub path: String,
    /// The status of the answer; 0 if the client left before there was one.
    pub status: u16,
    /// `Location` of the answer.
    pub location: Option<String>,
    /// `Range` of the request.
    pub range: Option<String>,
    /// `Sec-Fetch-Site`, `-Mode` and `-Dest`, as they came.
    pub site: Option<String>,
    /// See `site`.
    pub mode: Option<String>,
    /// See `site`.
    pub dest: Option<String>,
    /// `User-Agent`.
    pub agent: Option<String>,
    /// `Accept`.
    pub accept: Option<String>,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
}

/// The setting of Envoy's connection manager that writes the log.
pub(crate) fn setting(file: &Path) -> String {
    let fields = [
        ("authority", "%REQ(:AUTHORITY)%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("status", "%RESPONSE_CODE%"),
        ("location", "%RESP(LOCATION)%"),
        ("range", "%REQ(RANGE)%"),
        ("site", "%REQ(SEC-FETCH-SITE)%"),
        ("mode", "%REQ(SEC-FETCH-MODE)%"),
        ("dest", "%REQ(SEC-FETCH-DEST)%"),
        ("agent", "%REQ(USER-AGENT)%"),
        ("accept", "%REQ(ACCEPT)%"),
        ("sent", "%BYTES_SENT%"),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, format)| format!("{name}: \"{format}\"")).collect();
    format!(
        "access_log: [{{ name: file, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: \"{}\", \
         log_format: {{ json_format: {{ {} }} }} }} }}]",
        file.display(),
        fields.join(", "),
    )
}

/// Reads what has been written so far; nothing if there is no log yet.
pub(crate) fn read(file: &Path) -> Result<Vec<Access>, Error> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(Error::io("read", file))?,
    };
    // The last line may not be whole yet.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
