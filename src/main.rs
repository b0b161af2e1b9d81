//! The `ddictl` program.

fn main() {}
