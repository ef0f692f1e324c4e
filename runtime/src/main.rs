//! The daemon's binary: the command line is in the library, where it can be tested.

fn main() -> std::process::ExitCode {
    millstream::cli::main()
}
