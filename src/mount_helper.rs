//! The helper of mount(8): `mount -t ddictl IMAGE DIR -o OPTIONS` runs `mount.ddictl IMAGE DIR -o OPTIONS`, which does
//! what `ddictl mount` does with the options that these stand for.
//!
//! An option that is not known is refused: to ignore `nosuid` would mean to mount less safely than was asked for.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli;

/// The names under which the program is installed for mount(8).
pub const NAMES: [&str; 2] = ["mount.ddictl", "mount.ddi"];

/// Options of mount(8) that say something to it alone, or that hold in any case.
const IGNORED: [&str; 17] = [
    "", "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "_netdev", "rw",
    "exec", "suid", "nodev", "async", "relatime",
];
/// Beginnings of such options: for the programs that read fstab(5), and for people.
const IGNORED_BEGINNINGS: [&str; 3] = ["x-", "X-", "comment="];
/// Options that have the same name for `ddictl mount`.
const NAMED: [&str; 11] = [
    "image-policy",
    "root-hash",
    "usr-hash",
    "root-hash-sig",
    "usr-hash-sig",
    "verity-data",
    "sidecars",
    "loop-ref",
    "certificate",
    "trust-rules",
    "class",
];

/// Runs the helper with the arguments behind its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match translated(arguments) {
        Ok(words) => cli::run(words),
        Err(problem) => cli::report_usage(&problem),
    }
}

/// The command line of `ddictl` that means the same.
fn translated(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, String> {
    let mut words: Vec<OsString> = vec!["ddictl".into(), "mount".into()];
    let mut operands = Vec::new();
    let mut options = Vec::new();
    let mut sloppy = false;
    let mut quiet = true;
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().filter(|text| text.starts_with('-') && text.len() > 1);
        let Some(letters) = text.and_then(|text| text.strip_prefix('-')) else {
            operands.push(argument);
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'f' => words.push("--dry-run".into()),
                'n' | 'w' => {}
                'r' => options.push("ro".to_owned()),
                's' => sloppy = true,
                'v' => quiet = false,
                'o' | 't' | 'N' => {
                    let attached: String = letters.by_ref().collect();
                    let value = match attached.is_empty() {
                        true => arguments.next().and_then(|value| value.into_string().ok()),
                        false => Some(attached),
                    };
                    let value =
                        value.ok_or_else(|| format!("the option -{letter} needs a value in UTF-8"))?;
                    take(letter, value, &mut options)?;
                }
                other => return Err(format!("the option -{other} is not known")),
            }
        }
    }
    for option in options {
        match word_for(&option) {
            Ok(word) => words.extend(word.map(OsString::from)),
            Err(_) if sloppy => {}
            Err(problem) => return Err(problem),
        }
    }
    if quiet {
        words.push("--quiet".into());
    }
    let found = operands.len();
    let [image, directory] = <[OsString; 2]>::try_from(operands)
        .map_err(|_| format!("expected an image and a directory, found {found} operands"))?;
    words.extend(["--".into(), image, directory]);
    Ok(words)
}

fn take(letter: char, value: String, options: &mut Vec<String>) -> Result<(), String> {
    match letter {
        'o' => {
            options.extend(value.split(',').map(str::to_owned));
            Ok(())
        }
        't' if matches!(value.as_str(), "ddictl" | "ddi") => Ok(()),
        't' => Err(format!("the file system type '{value}' is not for this helper, which mounts 'ddictl'")),
        _ => Err("mounting into another namespace (-N) is not supported: use nsenter(1)".to_owned()),
    }
}

/// The word of `ddictl mount` for an option of mount(8); `None` where there is nothing to say.
fn word_for(option: &str) -> Result<Option<String>, String> {
    if IGNORED.contains(&option) || IGNORED_BEGINNINGS.iter().any(|beginning| option.starts_with(beginning)) {
        return Ok(None);
    }
    if let Some((name, value)) = option.split_once('=')
        && NAMED.contains(&name)
    {
        return Ok(Some(format!("--{name}={value}")));
    }
    match option {
        "ro" => Ok(Some("--read-only".to_owned())),
        "discard" => Ok(Some("--discard=all".to_owned())),
        "nodiscard" => Ok(Some("--discard=disabled".to_owned())),
        other => Err(format!(
            "the mount option '{other}' is not known: known are ro, rw, discard, nodiscard, {}",
            NAMED.map(|name| format!("{name}=")).join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<String, String> {
        let arguments = line.split_whitespace().map(OsString::from);
        let words = translated(arguments)?;
        Ok(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_mount_passes_is_what_ddictl_takes() {
        for (line, expected) in [
            ("a.raw /mnt -o rw", "ddictl mount --quiet -- a.raw /mnt"),
            (
                "a.raw /mnt -o ro,image-policy=@verified-boot,loop-ref=x",
                "ddictl mount --read-only --image-policy=@verified-boot --loop-ref=x --quiet -- a.raw /mnt",
            ),
            ("-f a.raw /mnt -v", "ddictl mount --dry-run -- a.raw /mnt"),
            ("-nr a.raw /mnt -t ddictl", "ddictl mount --read-only --quiet -- a.raw /mnt"),
            ("a.raw /mnt -odiscard", "ddictl mount --discard=all --quiet -- a.raw /mnt"),
            (
                "a.raw /mnt -o nodiscard,usr-hash=ab",
                "ddictl mount --discard=disabled --usr-hash=ab --quiet -- a.raw /mnt",
            ),
            (
                "a.raw /mnt -o defaults,noauto,nofail,_netdev,x-systemd.automount,X-mount.mkdir,user,nodev",
                "ddictl mount --quiet -- a.raw /mnt",
            ),
            ("a.raw /mnt -s -o nonsense,ro", "ddictl mount --read-only --quiet -- a.raw /mnt"),
            (
                "a.raw /mnt -o image-policy=root=signed:usr=absent,certificate=/k.crt,root-hash=00",
                "ddictl mount --image-policy=root=signed:usr=absent --certificate=/k.crt --root-hash=00 --quiet -- a.raw /mnt",
            ),
        ] {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (line, named) in [
            ("a.raw /mnt -o nosuid", "'nosuid'"),
            ("a.raw /mnt -o ro,noexec", "'noexec'"),
            ("a.raw /mnt -o image-policy", "'image-policy'"),
            ("a.raw /mnt -o dry-run=x", "'dry-run=x'"),
            ("a.raw /mnt -t ext4", "'ext4'"),
            ("a.raw /mnt -N /proc/1/ns/mnt", "namespace"),
            ("a.raw /mnt -x", "-x"),
            ("a.raw /mnt -o", "-o"),
            ("a.raw", "1 operands"),
            ("a.raw /mnt more", "3 operands"),
        ] {
            let problem = words(line).unwrap_err();
            assert!(problem.contains(named), "{line}: {problem}");
        }
    }

    #[test]
    fn every_translation_is_a_command_line() {
        for option in [
            "ro",
            "discard",
            "nodiscard",
            "image-policy=*",
            "loop-ref=x",
            "certificate=/k.crt",
            "trust-rules=/r.conf",
            "class=portable",
            "root-hash-sig=base64:MAMCAQU=",
            "usr-hash-sig=/os.usrhash.p7s",
            "verity-data=/os.verity",
            "sidecars=no",
        ] {
            let words = translated(["a.raw", "/mnt", "-o", option].map(OsString::from)).unwrap();
            assert!(cli::command().try_get_matches_from(words).is_ok(), "{option}");
        }
    }

    #[test]
    fn an_image_whose_name_looks_like_an_option_of_ddictl_is_an_image() {
        let words = translated(["./--dry-run", "/mnt"].map(OsString::from)).unwrap();
        assert_eq!(words[words.len() - 3..], ["--", "./--dry-run", "/mnt"].map(OsString::from));
    }
}
