//! The `ambit` executable; everything it does is in the library beside it.

fn main() -> std::process::ExitCode {
    cli::main()
}
