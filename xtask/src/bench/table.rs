//! The table of a million objects: loading, changes under load, and how soon a change is in force.
#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}
pub(super) async fn run(_bed: &super::Bed, _args: &TableArgs) -> Result<(), super::BenchError> {
    Ok(())
}
