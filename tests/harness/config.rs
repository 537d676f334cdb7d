//! The configuration files of a site: what an operator would write for it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Error;

/// The agent's settings file. Each key is a path, as in `site.domain`; strings, numbers and lists of them read the same in JSON and TOML.
pub(crate) fn agent_toml(settings: &BTreeMap<String, Value>) -> String {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in settings {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        tables.entry(table).or_default().push(format!("{name} = {value}\n"));
    }
    let mut toml = String::new();
    for (table, lines) in tables {
        toml += &format!("\n[{table}]\n{}", lines.concat());
    }
    toml
}

/// The shipped configuration of a proxy with each example replaced by the value of one site.
///
/// # Errors
/// [`Error::Marker`] if the configuration no longer has one of the examples.
pub(crate) fn of_proxy(shipped: &str, edits: &BTreeMap<&'static str, String>) -> Result<String, Error> {
    let mut text = shipped.to_owned();
    for (example, value) in edits {
        if !text.contains(example) {
            return Err(Error::Marker(example));
        }
        text = text.replace(example, value);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_become_tables() {
        let settings = [
            ("peers.invited", json!(["b:1", "c:2"])),
            ("site.domain", json!("a:1")),
            ("site.max_age", json!("5m")),
            ("egress.allow_private", json!(true)),
            ("trust.extra_roots", json!([])),
            ("trust.formulas.budget", json!(0.5)),
            ("trust.mode", json!("on")),
        ];
        let settings = settings.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let want = "\n[egress]\nallow_private = true\n\n[peers]\ninvited = [\"b:1\",\"c:2\"]\n\n[site]\ndomain = \"a:1\"\nmax_age = \"5m\"\n\n[trust]\nextra_roots = []\nmode = \"on\"\n\n[trust.formulas]\nbudget = 0.5\n";
        assert_eq!(agent_toml(&settings), want);
    }

    #[test]
    fn an_example_that_is_gone_is_noticed() {
        let edits = BTreeMap::from([("port: 1", "port: 20".to_owned())]);
        assert_eq!(of_proxy("a: { port: 1 }", &edits).unwrap(), "a: { port: 20 }");
        assert!(matches!(of_proxy("a: { port: 2 }", &edits), Err(Error::Marker("port: 1"))));
    }
}
