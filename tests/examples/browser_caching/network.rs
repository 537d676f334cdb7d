//! What a browser fetched: the Network events of the Chrome DevTools Protocol, as chromedriver logs them.

use std::collections::{BTreeMap, BTreeSet};

use fantoccini::wd::WebDriverCompatibleCommand;
use serde_json::{Value, json};

use crate::chromium::Browser;

/// Makes chromedriver log the events.
pub(crate) fn logging() -> Value {
    json!({ "performance": "ALL" })
}

/// One request, or one redirect on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) url: String,
    /// Whether no server was asked.
    pub(crate) is_cached: bool,
    /// Bytes that came, headers as they were compressed included.
    pub(crate) bytes: u64,
    /// Status of the answer; `None` if none came.
    pub(crate) status: Option<u64>,
}

/// What happened since the last call.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) hops: Vec<Hop>,
    /// Connections that were opened and carried an answer.
    pub(crate) connections: usize,
}

/// Takes the events that have been logged since the last call.
pub(crate) async fn take(browser: &Browser) -> Activity {
    let log = browser.client.issue_cmd(TakeLog).await.expect("chromedriver has a performance log");
    let entries = log.as_array().into_iter().flatten();
    let messages = entries.filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
    activity(messages.map(|message| message["message"].clone()))
}

fn activity(events: impl Iterator<Item = Value>) -> Activity {
    let mut hops = Vec::new();
    // The last hop of each request so far.
    let mut open: BTreeMap<String, Hop> = BTreeMap::new();
    let mut connections = BTreeSet::new();
    let mut answered = |hop: &mut Hop, answer: &Value| {
        hop.status = answer["status"].as_u64();
        hop.is_cached |= answer["fromDiskCache"] == true;
        hop.bytes = bytes(answer);
        if !hop.is_cached && answer["connectionReused"] == false {
            connections.insert(answer["connectionId"].to_string());
        }
    };
    for event in events {
        let parameters = &event["params"];
        let id = parameters["requestId"].as_str().unwrap_or_default();
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = parameters["request"]["url"].as_str().unwrap_or_default().to_owned();
                let hop = Hop { url, is_cached: false, bytes: 0, status: None };
                let before = open.insert(id.to_owned(), hop);
                if let (Some(mut redirect), Some(_)) = (before, parameters.get("redirectResponse")) {
                    answered(&mut redirect, &parameters["redirectResponse"]);
                    hops.push(redirect);
                }
            }
            "Network.requestServedFromCache" => {
                open.entry(id.to_owned()).and_modify(|hop| hop.is_cached = true);
            }
            "Network.responseReceived" => {
                open.entry(id.to_owned()).and_modify(|hop| answered(hop, &parameters["response"]));
            }
            "Network.loadingFinished" => {
                hops.extend(
                    open.remove(id).map(|hop| Hop { bytes: if hop.is_cached { 0 } else { bytes(parameters) }, ..hop }),
                );
            }
            "Network.loadingFailed" => hops.extend(open.remove(id)),
            _ => {}
        }
    }
    hops.extend(open.into_values());
    for hop in &mut hops {
        hop.bytes = if hop.is_cached { 0 } else { hop.bytes };
    }
    Activity { hops, connections: connections.len() }
}

fn bytes(value: &Value) -> u64 {
    value["encodedDataLength"].as_f64().unwrap_or_default() as u64
}

/// The extension of WebDriver that takes a log.
#[derive(Debug)]
struct TakeLog;

impl WebDriverCompatibleCommand for TakeLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "performance" }).to_string()))
    }
}
