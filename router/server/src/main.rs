//! The router as a plain binary; the Python package calls the same function.

fn main() -> std::process::ExitCode {
    let status = slackwater_server::run(std::env::args_os());
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(1))
}
