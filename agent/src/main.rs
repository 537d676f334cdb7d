//! `p2pcdn`: see [`p2pcdn_agent::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    p2pcdn_agent::cli::main()
}
