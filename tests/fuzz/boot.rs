//! What a boot is asked for.

use std::collections::BTreeSet;

use ddictl::format::boot_url::{beside, decode_variable};
use ddictl::format::kernel_command_line::KernelCommandLine;
use ddictl::format::unit_file::escape_path;
use ddictl::image::boot::{BootRequest, MAX_PULLS, Stage, target};

/// A kernel command line, and behind the first line feed a credential: what they ask for in both stages, and firmware's
/// word of where the machine was booted from.
pub fn command_line(input: &[u8]) {
    let split = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let line = KernelCommandLine::parse(&input[..split]);
    let credential = String::from_utf8_lossy(&input[split..]);
    for stage in [Stage::Initrd, Stage::Host] {
        let request = BootRequest::read(&line, Some(&credential), stage);
        let _ = request.check().map_err(ToString::to_string);
        assert!(request.pulls.len() <= MAX_PULLS);
        let mut targets = BTreeSet::new();
        for pull in &request.pulls {
            let Ok(expression) = pull.expression.as_ref().map_err(ToString::to_string) else { continue };
            assert_eq!(
                expression.to_string().parse().as_ref(),
                Ok(expression),
                "print and parse are not inverse"
            );
            let target = target(expression, stage);
            assert!(target.starts_with("/run/") || target.starts_with("/var/lib/"), "{target}");
            assert_eq!(
                target.matches('/').count(),
                if target.starts_with("/run/") { 3 } else { 4 },
                "{target}"
            );
            assert!(targets.insert(target.clone()), "two pulls have the path {target}");
            let name = escape_path(&target);
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{name}");
            let _ = (
                request.demands(expression),
                request.hashes(expression),
                request.is_bound_as_root(expression),
            );
            if expression.boot_origin
                && let Ok(url) =
                    decode_variable(input).and_then(|boot_url| beside(&boot_url, &expression.remote))
            {
                assert!(url.ends_with(&expression.remote) && !url.contains(".."), "{url}");
            }
        }
    }
    if let Ok(url) = decode_variable(input).and_then(|boot_url| beside(&boot_url, "a/root.raw")) {
        assert!(url.starts_with("http") && url.ends_with("/a/root.raw"), "{url}");
    }
}
