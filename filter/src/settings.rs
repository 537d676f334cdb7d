//! The filter's configuration: JSON in, checked settings or every error at once out.

use p2pcdn_core::gate::Medium;
use p2pcdn_core::gate::reader::{ConfigError, Reader};
use p2pcdn_core::gate::settings::GateSettings;

/// The proxy that the filter runs in; they differ in what they show of a request, and in what they take from a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proxy {
    /// Envoy.
    #[default]
    Envoy,
    /// nginx with ngx_wasm_module.
    Nginx,
}

impl Proxy {
    /// What an answer can be made of.
    pub fn medium(self) -> Medium {
        match self {
            Self::Envoy => Medium::ENVOY,
            Self::Nginx => Medium::NGINX,
        }
    }
}

/// Checked settings. The table of keys in `envoy-config/README.md` is this list.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `proxy`: `envoy` or `nginx`; `envoy`.
    pub proxy: Proxy,
    /// `agent.cluster`: the proxy's name for the agent's local socket, in nginx its address. Required.
    pub agent_cluster: String,
    /// `agent.timeout_ms`: longest exchange with the agent; 1000, within 10 to 10 000.
    pub agent_timeout_ms: u32,
    /// `tick_ms`: time between exchanges with the agent; 250, within 25 to 2000.
    pub tick_ms: u32,
    /// `max_objects`: most objects in the table of each VM, at up to 72 bytes; 1 048 576, within 1 to 8 388 608.
    pub max_objects: usize,
    /// What is redirected, when, and how.
    pub gate: GateSettings,
}

impl Settings {
    /// Reads the configuration, or says everything that is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(json)?;
        let settings = Self::read(&mut reader);
        reader.finish()?;
        Ok(settings)
    }

    fn read(read: &mut Reader) -> Self {
        Self {
            proxy: read.word("proxy", Proxy::Envoy, &[("envoy", Proxy::Envoy), ("nginx", Proxy::Nginx)]),
            agent_cluster: read.required_text("agent.cluster", 255),
            agent_timeout_ms: read.number("agent.timeout_ms", 1000, 10, 10_000),
            tick_ms: read.number("tick_ms", 250, 25, 2000),
            max_objects: read.number("max_objects", 1 << 20, 1, 1 << 23),
            gate: GateSettings::read(read, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pcdn_core::decide::Targets;
    use p2pcdn_core::eligibility::Rules;
    use p2pcdn_core::gate::settings::{Affinity, Mode};
    use p2pcdn_core::object::Class;
    use proptest::prelude::*;

    fn errors(json: &str) -> Vec<String> {
        Settings::parse(json.as_bytes()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_the_agents_cluster_is_required() {
        let settings = Settings::parse(br#"{"agent": {"cluster": "p2pcdn_agent"}}"#).unwrap();
        let gate = &settings.gate;
        assert_eq!((settings.tick_ms, gate.rules.min_bytes, gate.stay_local_s), (250, 8192, 10));
        assert_eq!((settings.proxy, gate.mode, gate.rules.classes.len()), (Proxy::Envoy, Mode::On, 6));
        assert_eq!(gate.targets, Targets { pure_balancer_at: 5.0, ..Targets::default() });
        assert_eq!(errors("{}"), ["agent.cluster: is required"]);
    }

    #[test]
    fn every_key_is_read() {
        let json = br#"{
            "proxy": "nginx", "agent": {"cluster": "a", "timeout_ms": 500}, "tick_ms": 100, "min_bytes": 1, "max_objects": 2,
            "target": {"requests_per_s": 3, "egress_bytes_per_s": 4.0, "in_flight": 5}, "pure_balancer_at": 2.5,
            "in_flight_limit": 6, "stay_local_s": 7, "classes": ["font"], "exclude": ["/private/"], "mode": "observe",
            "queries": ["v"], "fetch_paths": ["/a"], "plain_style_paths": ["/b"], "download_paths": ["/c"],
            "cross_site_paths": ["/d"], "ranges": "any", "affinity": "client", "redirect_max_age_s": 30,
            "metalink": false, "rescue": false
        }"#;
        let settings = Settings::parse(json).unwrap();
        let expected = Settings {
            proxy: Proxy::Nginx,
            agent_cluster: "a".into(),
            agent_timeout_ms: 500,
            tick_ms: 100,
            max_objects: 2,
            gate: GateSettings {
                targets: Targets { requests_per_s: 3, egress_bytes_per_s: 4, in_flight: 5, pure_balancer_at: 2.5 },
                in_flight_limit: 6,
                stay_local_s: 7,
                rules: Rules {
                    min_bytes: 1,
                    classes: vec![Class::Font],
                    exclude: vec!["/private/".into()],
                    queries: vec!["v".into()],
                    fetch_paths: vec!["/a".into()],
                    plain_style_paths: vec!["/b".into()],
                    download_paths: vec!["/c".into()],
                    cross_site_paths: vec!["/d".into()],
                    any_range: true,
                },
                affinity: Affinity::Client,
                redirect_max_age_s: 30,
                metalink: false,
                rescue: false,
                mode: Mode::Observe,
            },
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let json = r#"{
            "agent": {"timeout": 5}, "tick_ms": 1, "target": {"requests_per_s": "many", "egress_bytes_per_s": 0.5},
            "pure_balancer_at": 0.5, "classes": ["image", "page"], "exclude": ["private"], "mode": "maybe", "zzz": null
        }"#;
        let expected = [
            "agent.cluster: is required",
            "tick_ms: must be within 25 to 2000",
            "target.requests_per_s: must be a whole number",
            "target.egress_bytes_per_s: must be a whole number",
            "pure_balancer_at: must be 0 or within 1 to 1000",
            "classes: must be a list of different words out of: image, media, font, archive, style, script",
            "exclude: must be a list of at most 64 paths that begin with / and have at most 1024 bytes",
            "mode: must be one of: on, observe, off",
            "agent.timeout: is not a setting; did you mean agent.timeout_ms?",
            "zzz: is not a setting",
        ];
        assert_eq!(errors(json), expected);
    }

    #[test]
    fn the_table_of_keys_is_complete_and_the_shipped_configuration_is_accepted() {
        let table = include_str!("../../envoy-config/README.md").split_once("## Keys of the filter").unwrap().1;
        let rows = table.split_once("## ").unwrap().0.lines().filter_map(|line| line.strip_prefix("| `"));
        let mut reader = Reader::new(b"{}").unwrap();
        Settings::read(&mut reader);
        assert_eq!(rows.map(|row| row.split_once('`').unwrap().0).collect::<Vec<_>>(), reader.asked());

        let site = include_str!("../../envoy-config/site.yaml").split_once("value: |").unwrap().1;
        let json = site.split_once("vm_config:").unwrap().0;
        let settings = Settings::parse(json.as_bytes()).unwrap();
        assert_eq!(settings, Settings::parse(br#"{"agent": {"cluster": "p2pcdn_agent"}}"#).unwrap());
    }

    #[test]
    fn sections_and_the_whole_have_to_be_objects() {
        assert_eq!(errors(r#"{"agent": "p2pcdn_agent"}"#), ["agent: must be an object", "agent.cluster: is required"]);
        assert_eq!(errors("[]"), ["configuration: must be an object"]);
        assert_eq!(errors("{"), ["configuration: is not JSON: EOF while parsing an object at line 1 column 1"]);
        assert_eq!(errors(""), ["agent.cluster: is required"]);
    }

    proptest! {
        #[test]
        fn hostile_configurations_never_panic(bytes: Vec<u8>, number: f64, text: String) {
            let _ = Settings::parse(&bytes);
            let value = serde_json::json!({"agent": {"cluster": text}, "tick_ms": number, "min_bytes": number, "mode": text});
            let _ = Settings::parse(value.to_string().as_bytes());
        }
    }
}
