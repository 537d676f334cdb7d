//! Reads one key after the other and remembers what is wrong with each, so that an operator sees all errors at once.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::value::{Dict, Value};
use p2pcdn_core::gate::reader::meant;
use serde::de::DeserializeOwned;

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    /// The key's path, as in `site.domain`.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub struct SettingsErrors(pub Vec<KeyError>);

impl SettingsErrors {
    pub(super) fn flag(pair: &str) -> Self {
        Self(vec![KeyError { key: pair.to_owned(), problem: "must be KEY=VALUE".into() }])
    }

    pub(super) fn no_file(file: &Path) -> Self {
        let problem = "does not exist: p2pcdn init writes it, --config names another";
        Self(vec![KeyError { key: file.display().to_string(), problem: problem.into() }])
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in the settings:", if self.0.len() == 1 { "one error" } else { "errors" })?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {}: {}", error.key, error.problem))
    }
}

pub(super) struct Keys<'a> {
    figment: &'a Figment,
    all: Dict,
    known: BTreeSet<&'static str>,
    /// Keys below which every name is one that the operator gives.
    tables: BTreeSet<&'static str>,
    errors: Vec<KeyError>,
}

impl<'a> Keys<'a> {
    /// Fails only if a source cannot be read at all.
    pub(super) fn new(figment: &'a Figment) -> Result<Self, SettingsErrors> {
        let all = figment.extract::<Dict>().map_err(|error| {
            let unreadable = |e: figment::Error| KeyError { key: source_of(&e), problem: e.kind.to_string() };
            SettingsErrors(error.into_iter().map(unreadable).collect())
        })?;
        Ok(Self { figment, all, known: BTreeSet::new(), tables: BTreeSet::new(), errors: Vec::new() })
    }

    /// The value, if the key is there and of the right type.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.known.insert(key);
        let value = self.figment.find_value(key).ok()?;
        match value.deserialize() {
            Ok(value) => Some(value),
            Err(error) => {
                self.reject(key, &error.kind.to_string());
                None
            }
        }
    }

    /// A whole table that knows its own fields, if it is there.
    pub(super) fn table<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.tables.insert(key);
        self.optional(key)
    }

    /// The value, or `default` if the key is not there.
    pub(super) fn or<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value as `check` understands its text; required if there is no default.
    pub(super) fn checked<T: Default>(
        &mut self,
        key: &'static str,
        default: Option<&str>,
        check: fn(&str) -> Result<T, String>,
    ) -> T {
        self.known.insert(key);
        let given = self.figment.find_value(key).ok().map(|value| text_of(&value));
        let Some(text) = given.as_deref().or(default) else {
            self.reject(key, "is required");
            return T::default();
        };
        // A default made from another key is that key's fault.
        let derived = given.is_none();
        check(text).unwrap_or_else(|problem| {
            if !derived {
                self.reject(key, &problem);
            }
            T::default()
        })
    }

    /// A list of which `check` understands each element.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        default: &[&str],
        check: fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let texts = self.or(key, default.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>());
        let mut values = Vec::with_capacity(texts.len());
        for text in texts {
            match check(&text) {
                Ok(value) => values.push(value),
                Err(problem) => self.reject(key, &problem),
            }
        }
        values
    }

    /// The tables below `key`, whose names are free and may contain dots; `check` gets each name and the texts of its `fields`.
    pub(super) fn tables<T, const N: usize>(
        &mut self,
        key: &'static str,
        fields: [&str; N],
        check: fn(&str, [Option<&str>; N]) -> Result<T, String>,
    ) -> Vec<T> {
        self.tables.insert(key);
        let Ok(Value::Dict(_, tables)) = self.figment.find_value(key) else { return Vec::new() };
        let mut values = Vec::with_capacity(tables.len());
        for (name, table) in &tables {
            let place = format!("{key}.{name:?}");
            let Value::Dict(_, table) = table else {
                self.reject(&place, &format!("must be a table with {}", fields.join(", ")));
                continue;
            };
            for unknown in table.keys().filter(|field| !fields.contains(&field.as_str())) {
                self.reject(&format!("{place}.{unknown}"), &format!("is not one of {}", fields.join(", ")));
            }
            let texts = fields.map(|field| table.get(field).map(text_of));
            match check(name, texts.each_ref().map(Option::as_deref)) {
                Ok(value) => values.push(value),
                Err(problem) => self.reject(&place, &problem),
            }
        }
        values
    }

    /// A table whose keys are read, and checked, by somebody else; empty if it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> serde_json::Map<String, serde_json::Value> {
        self.tables.insert(key);
        let Ok(value) = self.figment.find_value(key) else { return serde_json::Map::new() };
        value.deserialize().unwrap_or_else(|_| {
            self.reject(key, "must be a table");
            serde_json::Map::new()
        })
    }

    pub(super) fn reject(&mut self, key: &str, problem: &str) {
        let source = self.figment.find_metadata(key).map(|m| format!(" (from {})", m.name)).unwrap_or_default();
        self.errors.push(KeyError { key: key.to_owned(), problem: format!("{problem}{source}") });
    }

    /// The settings, if no key was wrong or unknown.
    pub(super) fn finish<T>(mut self, settings: T) -> Result<T, SettingsErrors> {
        let mut given = Vec::new();
        leaves(&self.all, "", &mut given);
        let is_free = |key: &String| {
            self.tables.iter().any(|table| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.')))
        };
        given.retain(|key| !is_free(key));
        for key in given {
            // An empty table sets nothing.
            let is_section = self.tables.contains(key.as_str())
                || self.known.iter().any(|known| known.strip_prefix(&key).is_some_and(|k| k.starts_with('.')));
            if !is_section && !self.known.contains(key.as_str()) {
                let hint = meant(&key, self.known.iter().copied())
                    .map(|near| format!(", did you mean {near}?"))
                    .unwrap_or_default();
                self.reject(&key, &format!("is not a setting{hint}"));
            }
        }
        if self.errors.is_empty() { Ok(settings) } else { Err(SettingsErrors(self.errors)) }
    }
}

fn source_of(error: &figment::Error) -> String {
    let source = error.metadata.as_ref().and_then(|m| m.source.as_ref()).map(ToString::to_string);
    source.unwrap_or_else(|| error.path.join("."))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(_, text) => text.clone(),
        Value::Num(..) => value
            .to_i128()
            .map(|whole| whole.to_string())
            .or_else(|| value.to_num().and_then(|number| number.to_f64()).map(|float| float.to_string()))
            .unwrap_or_else(|| "a number out of range".into()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Char(_, character) => character.to_string(),
        Value::Empty(..) => String::new(),
        Value::Dict(..) => "a table".into(),
        Value::Array(..) => "a list".into(),
    }
}

fn leaves(dict: &Dict, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in dict {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => leaves(inner, &path, out),
            _ => out.push(path),
        }
    }
}
