//! What runs in the cluster: the executable of the tree that is tested.

fn main() -> std::process::ExitCode {
    cli::main()
}
