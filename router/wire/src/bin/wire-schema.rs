//! Prints `router/wire/schema.json` from the Rust types.
#![allow(
    clippy::print_stdout,
    reason = "printing the schema is this program's job"
)]

fn main() -> serde_json::Result<()> {
    print!("{}", slackwater_wire::schema::schema()?);
    Ok(())
}
