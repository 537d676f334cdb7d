//! `p2pcdn check-config`.

use std::path::Path;

use serde_json::json;

use super::CliError;
use super::show::Format;
use crate::settings::{Settings, SettingsErrors};

/// Says whether the settings are good, and if not, everything that is wrong with them.
pub(super) fn check(file: &Path, result: Result<Settings, SettingsErrors>, format: Format) -> Result<(), CliError> {
    if format.json {
        let errors = result.as_ref().err().map(|errors| errors.0.as_slice()).unwrap_or_default();
        let errors: Vec<_> = errors.iter().map(|e| json!({ "key": e.key, "problem": e.problem })).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "ok": result.is_ok(), "errors": errors }))?);
    }
    let settings = result?;
    if !format.json {
        println!("{}: good settings for {}", file.display(), settings.site.domain);
    }
    Ok(())
}
