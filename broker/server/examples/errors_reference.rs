//! Prints `docs/errors.md`: `cargo run -p taskpass-broker --example errors_reference >
//! docs/errors.md`.

fn main() -> std::io::Result<()> {
    use std::io::Write as _;

    std::io::stdout().write_all(taskpass_broker::reason::reference().as_bytes())
}
