//! Reads settings out of JSON key by key, and gathers everything that is wrong.

use serde_json::{Map, Value};

/// What is wrong with one key of the configuration; the operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key with its section, as in `agent.cluster`; `configuration` for the whole.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What can be wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The configuration cannot be read at all.
    #[error("is not JSON: {0}")]
    Json(String),
    /// Missing, and there is no default.
    #[error("is required")]
    Required,
    /// Of another type than this.
    #[error("must be {0}")]
    Type(&'static str),
    /// Empty or too long.
    #[error("must have 1 to {0} bytes")]
    Length(usize),
    /// A number out of bounds, both of which are allowed.
    #[error("must be within {0} to {1}")]
    Range(u64, u64),
    /// A factor out of bounds.
    #[error("must be 0 or within {0} to {1}")]
    Factor(String, String),
    /// None of these words.
    #[error("must be one of: {0}")]
    Word(String),
    /// Not a list, or a word that is none of these or comes twice.
    #[error("must be a list of different words out of: {0}")]
    Words(String),
    /// Not a list, too long a list, or what could never match.
    #[error("must be a list of at most {0} paths that begin with / and have at most {1} bytes")]
    Prefixes(usize, usize),
    /// Not a list, too long a list, or what could never match.
    #[error("must be a list of at most {0} names of unescaped letters, digits, -, ., _ or ~ of at most {1} bytes")]
    Parameters(usize, usize),
    /// The name with its section in one.
    #[error("belongs into the object {0}, without the dot")]
    Dotted(String),
    /// No setting of this name; perhaps this one was meant.
    #[error("is not a setting{}", .0.map_or_else(String::new, |key| format!("; did you mean {key}?")))]
    Unknown(Option<&'static str>),
}

/// The configuration while it is being read. A key that is wrong yields some value, and an error from [`Reader::finish`].
#[derive(Debug)]
pub struct Reader {
    root: Map<String, Value>,
    asked: Vec<&'static str>,
    errors: Vec<ConfigError>,
}

impl Reader {
    /// Takes in the whole; empty means that nothing is set.
    pub fn new(json: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let refused = |problem| vec![ConfigError { key: "configuration".into(), problem }];
        let json = if json.is_empty() { b"{}" } else { json };
        match serde_json::from_slice(json).map_err(|error| refused(Problem::Json(error.to_string())))? {
            Value::Object(root) => Ok(Self::of(root)),
            _ => Err(refused(Problem::Type("an object"))),
        }
    }

    /// Takes in what has been parsed already.
    pub fn of(root: Map<String, Value>) -> Self {
        Self { root, asked: Vec::new(), errors: Vec::new() }
    }

    /// Text of 1 to `max` bytes.
    pub fn required_text(&mut self, key: &'static str, max: usize) -> String {
        let text = match self.take(key) {
            None => Err(Problem::Required),
            Some(Value::String(text)) if (1..=max).contains(&text.len()) => Ok(text),
            Some(Value::String(_)) => Err(Problem::Length(max)),
            Some(_) => Err(Problem::Type("text")),
        };
        self.checked(key, text)
    }

    /// A whole number; `4.0` is one too, since YAML templates and Struct configurations write numbers like that.
    pub fn number<T: TryFrom<u64> + Default>(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> T {
        let given = self.take(key).map(|value| whole(&value).ok_or(Problem::Type("a whole number")));
        let number = given.unwrap_or(Ok(default.into())).and_then(|number| {
            let number = u64::try_from(number).ok().filter(|number| (min..=max).contains(number));
            number.and_then(|number| T::try_from(number).ok()).ok_or(Problem::Range(min, max))
        });
        self.checked(key, number)
    }

    /// A number that is 0 or within bounds.
    pub fn factor(&mut self, key: &'static str, default: f32, min: f32, max: f32) -> f32 {
        let given = self.take(key).map(|value| value.as_f64().ok_or(Problem::Type("a number")));
        let factor = given.unwrap_or(Ok(default.into())).and_then(|factor| {
            let is_allowed = factor == 0.0 || (f64::from(min)..=f64::from(max)).contains(&factor);
            is_allowed.then_some(factor as f32).ok_or_else(|| Problem::Factor(min.to_string(), max.to_string()))
        });
        self.checked(key, factor)
    }

    /// One of these words.
    pub fn word<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&'static str, T)]) -> T {
        let Some(value) = self.take(key) else { return default };
        find(&value, words).unwrap_or_else(|| {
            self.refuse(key, Problem::Word(names(words)));
            default
        })
    }

    /// Any of these words, each at most once; without the key, all of them.
    pub fn words<T: Copy + PartialEq>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Vec<T> {
        let Some(value) = self.take(key) else { return words.iter().map(|(_, meaning)| *meaning).collect() };
        let mut chosen = Vec::new();
        let is_taken = value.as_array().is_some_and(|list| {
            list.iter().all(|value| {
                let word = find(value, words).filter(|word| !chosen.contains(word));
                chosen.extend(word);
                word.is_some()
            })
        });
        let chosen = is_taken.then_some(chosen).ok_or_else(|| Problem::Words(names(words)));
        self.checked(key, chosen)
    }

    /// At most `max_count` path prefixes of at most `max_bytes` each.
    pub fn prefixes(&mut self, key: &'static str, max_count: usize, max_bytes: usize) -> Vec<String> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let prefix = |value: &Value| {
            let text = value.as_str().filter(|text| text.starts_with('/') && text.len() <= max_bytes);
            text.map(String::from)
        };
        let list = value.as_array().filter(|list| list.len() <= max_count);
        let prefixes = list.and_then(|list| list.iter().map(prefix).collect());
        self.checked(key, prefixes.ok_or(Problem::Prefixes(max_count, max_bytes)))
    }

    /// At most `max_count` names of query parameters of at most `max_bytes` each.
    pub fn parameters(&mut self, key: &'static str, max_count: usize, max_bytes: usize) -> Vec<String> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let is_plain = |text: &&str| {
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            (1..=max_bytes).contains(&text.len()) && text.bytes().all(is_plain)
        };
        let list = value.as_array().filter(|list| list.len() <= max_count);
        let name = |value: &Value| value.as_str().filter(is_plain).map(String::from);
        let names = list.and_then(|list| list.iter().map(name).collect());
        self.checked(key, names.ok_or(Problem::Parameters(max_count, max_bytes)))
    }

    /// True or false.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let given = self.take(key).map(|value| value.as_bool().ok_or(Problem::Type("true or false")));
        self.checked(key, given.unwrap_or(Ok(default)))
    }

    /// Everything that was wrong, in the order in which it was read; then the keys that nothing asked for.
    pub fn finish(mut self) -> Result<(), Vec<ConfigError>> {
        for (name, value) in std::mem::take(&mut self.root) {
            match value {
                Value::Object(section) if self.is_section(&name) => {
                    section.keys().for_each(|key| self.check_known(format!("{name}.{key}")));
                }
                _ if self.is_section(&name) => {}
                _ => match name.split_once('.') {
                    Some((section, _)) if self.asked.contains(&&*name) => {
                        self.refuse(&name, Problem::Dotted(section.into()));
                    }
                    _ => self.check_known(name),
                },
            }
        }
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors) }
    }

    /// The keys that were read, in their order.
    pub fn asked(&self) -> &[&'static str] {
        &self.asked
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        let Some((section, name)) = key.split_once('.') else {
            self.asked.push(key);
            return self.root.get(key).cloned();
        };
        let is_first = !self.is_section(section);
        self.asked.push(key);
        match self.root.get(section)? {
            Value::Object(section) => section.get(name).cloned(),
            _ if is_first => {
                self.refuse(section, Problem::Type("an object"));
                None
            }
            _ => None,
        }
    }

    fn is_section(&self, name: &str) -> bool {
        self.asked.iter().any(|key| key.split_once('.').is_some_and(|(section, _)| section == name))
    }

    fn check_known(&mut self, key: String) {
        if !self.asked.contains(&&*key) {
            let meant = meant(&key, self.asked.iter().copied());
            self.errors.push(ConfigError { key, problem: Problem::Unknown(meant) });
        }
    }

    fn checked<T: Default>(&mut self, key: &str, value: Result<T, Problem>) -> T {
        value.unwrap_or_else(|problem| {
            self.refuse(key, problem);
            T::default()
        })
    }

    fn refuse(&mut self, key: &str, problem: Problem) {
        self.errors.push(ConfigError { key: key.into(), problem });
    }
}

/// Most changes of single bytes after which a misspelt key is still told from others.
const MAX_DISTANCE: usize = 3;
/// Longer than any key that could be meant; bounds the time that a hostile key costs.
const MAX_COMPARED_BYTES: usize = 64;

/// Which of the known keys was meant, if any is near; further apart, it would be a guess.
pub fn meant<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = known.map(|known| (distance(given, known), known)).min();
    nearest.filter(|(distance, _)| *distance <= MAX_DISTANCE).map(|(_, known)| known)
}

fn whole(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    number.as_i128().or_else(|| number.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i128))
}

fn find<T: Copy>(value: &Value, words: &[(&'static str, T)]) -> Option<T> {
    let word = value.as_str()?;
    words.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning)
}

fn names<T>(words: &[(&'static str, T)]) -> String {
    words.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Levenshtein distance in bytes; the greatest number for a key that is too long to be meant.
fn distance(given: &str, known: &str) -> usize {
    if given.len() > MAX_COMPARED_BYTES {
        return usize::MAX;
    }
    // The distances from the part of `given` that has been read to each beginning of `known`, the empty one apart.
    let mut row: Vec<usize> = (1..=known.len()).collect();
    for (read, given) in given.bytes().enumerate() {
        let (mut before, mut last) = (read, read + 1);
        for (cell, known) in row.iter_mut().zip(known.bytes()) {
            let above = std::mem::replace(cell, 0);
            last = (above + 1).min(last + 1).min(before + usize::from(given != known));
            (*cell, before) = (last, above);
        }
    }
    row.last().copied().unwrap_or(given.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(json: &str, read: impl FnOnce(&mut Reader)) -> Vec<String> {
        let mut reader = Reader::new(json.as_bytes()).unwrap();
        read(&mut reader);
        reader.finish().err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn misspelt_keys_come_with_the_key_that_was_meant() {
        let read = |json| {
            problems(json, |reader| {
                let _: (u32, u32) = (reader.number("tick_ms", 0, 0, 9), reader.number("target.in_flight", 0, 0, 9));
            })
        };
        let unknown = "is not a setting";
        assert_eq!(read(r#"{"tick": 1}"#), [format!("tick: {unknown}; did you mean tick_ms?")]);
        assert_eq!(
            read(r#"{"target": {"inflight": 1}}"#),
            [format!("target.inflight: {unknown}; did you mean target.in_flight?")]
        );
        assert_eq!(read(r#"{"taget": {"in_flight": 1}}"#), [format!("taget: {unknown}")]);
        let dotted = "target.in_flight: belongs into the object target, without the dot";
        assert_eq!(read(r#"{"target.in_flight": 1}"#), [dotted]);
    }

    #[test]
    fn numbers_are_whole_and_within_bounds() {
        let read = |json| {
            let mut number = 0;
            let problems = problems(json, |reader| number = reader.number::<u64>("n", 3, 1, 9));
            (number, problems)
        };
        for (json, number) in [("{}", 3), (r#"{"n": 9}"#, 9), (r#"{"n": 4.0}"#, 4), (r#"{"n": 0.9e1}"#, 9)] {
            assert_eq!(read(json), (number, vec![]), "{json}");
        }
        for json in [r#"{"n": 0}"#, r#"{"n": -1}"#, r#"{"n": 10}"#, r#"{"n": 1e30}"#, r#"{"n": -1e300}"#] {
            assert_eq!(read(json).1, ["n: must be within 1 to 9"], "{json}");
        }
        for json in [r#"{"n": 1.5}"#, r#"{"n": "1"}"#, r#"{"n": null}"#, r#"{"n": [1]}"#] {
            assert_eq!(read(json).1, ["n: must be a whole number"], "{json}");
        }
    }

    #[test]
    fn factors_may_be_zero() {
        let read = |json| problems(json, |reader| assert!(reader.factor("f", 5.0, 1.0, 10.0) <= 10.0));
        for json in ["{}", r#"{"f": 0}"#, r#"{"f": 1}"#, r#"{"f": 9.5}"#] {
            assert_eq!(read(json), Vec::<String>::new(), "{json}");
        }
        assert_eq!(read(r#"{"f": 0.5}"#), ["f: must be 0 or within 1 to 10"]);
        assert_eq!(read(r#"{"f": "5"}"#), ["f: must be a number"]);
    }

    #[test]
    fn text_is_bounded() {
        let read = |json| problems(json, |reader| assert!(reader.required_text("t", 3).len() <= 3));
        assert_eq!(read(r#"{"t": "abc"}"#), Vec::<String>::new());
        assert_eq!(read(r#"{"t": ""}"#), ["t: must have 1 to 3 bytes"]);
        assert_eq!(read(r#"{"t": "abcd"}"#), ["t: must have 1 to 3 bytes"]);
        assert_eq!(read(r#"{"t": 1}"#), ["t: must be text"]);
    }

    #[test]
    fn lists_have_different_words_and_few_prefixes() {
        let words = |json| problems(json, |reader| assert!(reader.words("w", &[("a", 1), ("b", 2)]).len() <= 2));
        assert_eq!(words(r#"{"w": ["b", "a"]}"#), Vec::<String>::new());
        assert_eq!(words(r#"{"w": ["a", "a"]}"#), ["w: must be a list of different words out of: a, b"]);
        assert_eq!(words(r#"{"w": "a"}"#), ["w: must be a list of different words out of: a, b"]);
        let prefixes = |json| problems(json, |reader| assert!(reader.prefixes("p", 2, 3).len() <= 2));
        assert_eq!(prefixes(r#"{"p": ["/", "/ab"]}"#), Vec::<String>::new());
        for json in [r#"{"p": ["/", "/", "/"]}"#, r#"{"p": ["/abc"]}"#, r#"{"p": [""]}"#, r#"{"p": [1]}"#] {
            let expected = "p: must be a list of at most 2 paths that begin with / and have at most 3 bytes";
            assert_eq!(prefixes(json), [expected], "{json}");
        }
    }

    #[test]
    fn distances_count_changed_bytes() {
        let table = [("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("abc", "axc", 1), ("bc", "abc", 1)];
        for (given, known, expected) in table {
            assert_eq!(distance(given, known), expected, "{given} {known}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance(&"a".repeat(65), "a"), usize::MAX);
    }
}
