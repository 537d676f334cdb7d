//! The replica store in processes of its own, which are killed, run out of disk or lose their server. Each story is a child process's
//! and its parent's; the child is this very program.

mod churn;
mod crash;
mod disk;
mod lab;
mod s3;

use std::process::{Command, ExitCode};
use std::time::Instant;

/// Names a child's part and, as its arguments, what it needs.
const PART: &str = "P2PCDN_STORE_TEST_PART";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Ok(part) = std::env::var(PART) {
        match part.as_str() {
            "churn" => churn::run(arguments[0].as_ref()),
            "disk" => disk::child(arguments[0].as_ref()),
            "state" => disk::state(arguments[0].as_ref()),
            "permissions" => disk::without_permission(arguments[0].as_ref()),
            "s3" => s3::child(arguments[0].as_ref(), &arguments[1]),
            other => panic!("no part {other:?}"),
        }
        return ExitCode::SUCCESS;
    }
    let stories: [(&str, fn()); 5] = [
        ("killed_at_random_it_keeps_what_it_confirmed_and_nothing_half", crash::killed_at_random),
        ("a_full_disk_stops_taking_in_and_nothing_else", disk::full_disk),
        ("what_the_operator_says_holds_on_a_full_disk_and_is_written_once_there_is_room", disk::full_state),
        ("a_directory_that_cannot_be_written_is_named_at_the_start", disk::permissions),
        ("a_bucket_is_as_good_as_a_directory_and_may_be_away", s3::bucket),
    ];
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for (name, story) in stories {
        if arguments.iter().any(|argument| argument == "--list") {
            println!("{name}: test");
        } else if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            let start = Instant::now();
            println!("test {name} ...");
            // A panic ends the program, with its message.
            story();
            println!("test {name} ... ok in {:.1} s", start.elapsed().as_secs_f64());
        }
    }
    ExitCode::SUCCESS
}

/// This program again, as a child's part.
fn part(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(PART, name);
    command
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
