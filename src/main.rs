//! The executable: reads the command line, runs one subcommand, prints an error once.

use std::process::ExitCode;

fn main() -> ExitCode {
    firn::cmd::main()
}
