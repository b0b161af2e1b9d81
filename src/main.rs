//! The `ddictl` program. Under the name of one of its other front ends it is that one.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_else(|| "ddictl".into());
    let name = Path::new(&called_as).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == ddictl::udev_helper::NAME {
        return ddictl::udev_helper::run(arguments);
    }
    if name == ddictl::generator::NAME {
        return ddictl::generator::run(arguments);
    }
    if ddictl::mount_helper::NAMES.contains(&name) {
        return ddictl::mount_helper::run(arguments);
    }
    ddictl::cli::run(std::iter::once(called_as).chain(arguments))
}
