//! An operator's first steps, and the last one.

use std::path::Path;
use std::process::{Command, Output};

use p2pcdn_tests::content::{digest, noise};
use p2pcdn_tests::{Error, Lab, Signal, poll};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, lab, p2pcdn, printed};

fn run(lab: &Lab, directory: &Path, arguments: &[&str]) -> Output {
    Command::new(&lab.dist.agent).args(arguments).current_dir(directory).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn from_init_to_a_running_agent() {
    let (lab, [mut alpha]) = lab(["alpha"]);
    let directory = lab.directory();
    let written = ["init", "--domain", "example.org", "--directory", ".", "--peer", "friend.example"];
    printed(run(&lab, directory, &written));
    printed(run(&lab, directory, &["check-config"]));
    let (status, error) = said(&run(&lab, directory, &written));
    assert_eq!(status, Some(2), "nothing is overwritten");
    assert!(error.contains("agent.toml exists") && error.contains("--config"), "{error}");
    let own_peer = ["init", "--config", "own.toml", "--domain", "a.example", "--peer", "a.example"];
    let (status, error) = said(&run(&lab, directory, &own_peer));
    assert!(status == Some(2) && error.contains("--peer a.example"), "{error}");

    // The settings are good and nobody runs with them.
    let port = lab.site("nobody").unwrap().setting("listen.local").as_str().unwrap().to_owned();
    let (status, error) = said(&run(&lab, directory, &["status", "--set", &format!("listen.local={port}")]));
    assert_eq!(status, Some(3), "{error}");
    assert!(error.contains("p2pcdn run"), "{error}");

    alpha.start().await.unwrap();
    let status: Value = serde_json::from_str(&printed(p2pcdn(&lab, &alpha, ["status", "--json"]))).unwrap();
    assert_eq!(status["domain"], alpha.domain.as_str());
    let list = printed(p2pcdn(&lab, &alpha, ["peer", "list", "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap(), serde_json::json!([]));
    for command in [&["status"][..], &["peer", "list"], &["objects"]] {
        printed(p2pcdn(&lab, &alpha, command));
    }
    let (status, error) = said(&p2pcdn(&lab, &alpha, ["peer", "remove", "nobody.example"]));
    assert_eq!(status, Some(4), "{error}");
    let log = std::fs::read_to_string(alpha.directory().join("agent.log")).unwrap();
    assert!(log.contains("p2pcdn runs") && !log.contains('\x1b'), "colours where there is no terminal: {log}");
}

#[test]
fn bad_settings_are_refused_with_all_errors() {
    let lab = Lab::new().unwrap();
    let bad =
        "[site]\ndomain = \"Not A Domain\"\n[listen]\nlocal = \"0.0.0.0:7080\"\n[host]\nquota = \"much\"\nqouta = 1\n";
    std::fs::write(lab.directory().join("agent.toml"), bad).unwrap();
    for command in ["run", "check-config", "status"] {
        let (status, error) = said(&run(&lab, lab.directory(), &[command]));
        assert_eq!(status, Some(2), "{command}: {error}");
        for key in ["site.domain", "listen.local", "host.quota", "host.qouta"] {
            assert!(error.contains(&format!("{key}: ")), "{command} does not name {key}: {error}");
        }
    }
    let (status, error) = said(&run(&lab, lab.directory(), &["no-such-command"]));
    assert_eq!(status, Some(2), "{error}");
}

#[test]
fn settings_that_this_machine_does_not_bear_out_are_refused_by_check_and_run_alike() {
    let lab = Lab::new().unwrap();
    let bad = "[site]\ndomain = \"a.example\"\ndirectory = \"none\"\n[trust]\nextra_roots = [\"none.pem\"]\n\
               [state]\ndirectory = \"agent.toml/state\"\n[store]\nurl = \"s3://replicas\"\n";
    std::fs::write(lab.directory().join("agent.toml"), bad).unwrap();
    for command in ["run", "check-config"] {
        let (status, error) = said(&run(&lab, lab.directory(), &[command]));
        assert_eq!(status, Some(2), "{command}: {error}");
        for key in ["site.directory", "trust.extra_roots", "state.directory", "store.url"] {
            assert!(error.contains(&format!("{key}: ")), "{command} does not name {key}: {error}");
        }
    }
}

/// A web server that answers everything with a page, and one that speaks no HTTP.
#[tokio::test]
async fn whatever_else_answers_on_the_local_port_is_named_in_a_line() {
    let lab = Lab::new().unwrap();
    std::fs::write(lab.directory().join("agent.toml"), "site.domain = \"a.example\"\n").unwrap();
    let page = format!("<html>{}</html>\n", "<p>a long page</p>\n".repeat(1000));
    let http = |status: &str| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{page}", page.len())
    };
    for answer in [http("404 Not Found"), http("200 OK"), "220 mail.example ESMTP\r\n".into()] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = format!("listen.local={}", listener.local_addr().unwrap());
        let (agent, directory) = (lab.dist.agent.clone(), lab.directory().to_owned());
        let command = tokio::task::spawn_blocking(move || {
            Command::new(agent).args(["status", "--set", &local]).current_dir(directory).output().unwrap()
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let (status, error) = said(&command.await.unwrap());
        assert_eq!(status, Some(3), "{error}");
        assert!(error.contains("no agent answers") && error.trim_end().lines().count() == 1, "{error}");
        assert!(error.len() < 300, "{error}");
    }
}

#[tokio::test]
async fn an_agent_that_is_stopped_finishes_what_is_under_way() {
    let (_lab, [mut alpha]) = lab(["alpha"]);
    // More than the buffers of both ends hold, so that the answer is under way until it is read.
    let bytes = noise(1, 32 << 20);
    std::fs::write(alpha.directory().join("srv/large.bin"), &bytes).unwrap();
    alpha.start().await.unwrap();
    let address = alpha.setting("listen.origin").as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1000];
    stream.read_exact(&mut answer).await.unwrap();

    alpha.agent.signal(Signal::TERM).unwrap();
    poll(PATIENCE, "closed socket", async || match TcpStream::connect(&address).await {
        Ok(_) => Err("it still accepts"),
        Err(_) => Ok(()),
    })
    .await
    .unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert!(digest(&answer[head..]) == digest(&bytes), "{} of {} bytes", answer.len() - head, bytes.len());
    let ended = poll(PATIENCE, "end", async || alpha.agent.check().err().ok_or("it runs")).await.unwrap();
    let Error::Ended { status, .. } = ended else { panic!("{ended}") };
    assert!(status.success(), "{status}");
}
