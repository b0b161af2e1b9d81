use std::collections::BTreeSet;
use std::io::{self, Write};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command, ValueHint};
use clap_complete::Shell;

use crate::image::finding::Rule;
use crate::image::presets::PRESETS;

use super::{Failure, Status, command};

/// Print the completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> Result<Status, Failure> {
        // Into memory first: clap_complete panics where its output cannot be written.
        let mut script = Vec::new();
        let mut command = offering(command());
        clap_complete::generate(self.shell, &mut command, "ddictl", &mut script);
        match self.shell {
            Shell::Bash => script.extend_from_slice(BASH.as_bytes()),
            Shell::Fish => script.extend_from_slice(fish_operands(&command, &[]).as_bytes()),
            _ => {}
        }
        io::stdout().write_all(&script)?;
        Ok(Status::Done)
    }
}

/// Bash takes '=' and '@' for words of their own, and the script that clap_complete makes looks for an option in the word
/// before: it is the one before these.
const BASH: &str = r#"
_ddictl_value() {
    local prev=$3
    case $prev in
        = | =@ | @) prev=${COMP_WORDS[COMP_CWORD - 2]} ;;
    esac
    _ddictl "$1" "$2" "$prev"
}

complete -F _ddictl_value -o nosort -o bashdefault -o default ddictl 2>/dev/null ||
    complete -F _ddictl_value -o bashdefault -o default ddictl
"#;

/// For fish clap_complete leaves out the words that operands may be.
fn fish_operands(command: &Command, verbs: &[&str]) -> String {
    let mut lines = String::new();
    let operands = command.get_positionals().map(Arg::get_possible_values);
    let words: BTreeSet<String> = operands.flatten().map(|value| value.get_name().to_owned()).collect();
    if let ([verb, below @ ..], false) = (verbs, words.is_empty()) {
        let below: String =
            below.iter().map(|verb| format!("; and __fish_seen_subcommand_from {verb}")).collect();
        let words = words.into_iter().collect::<Vec<_>>().join(" ");
        lines.push_str(&format!(
            "complete -c ddictl -n \"__fish_ddictl_using_subcommand {verb}{below}\" -a \"{words}\"\n"
        ));
    }
    for below in command.get_subcommands() {
        lines.push_str(&fish_operands(below, &[verbs, &[below.get_name()]].concat()));
    }
    lines
}

/// The grammar with words for values that are more than one of a few: they are offered, and others are taken as well.
fn offering(command: Command) -> Command {
    command.mut_args(with_offer).mut_subcommands(offering)
}

fn with_offer(argument: Arg) -> Arg {
    let hint = match argument.get_value_names().and_then(<[_]>::first).map(|name| name.as_str()) {
        Some("DIRECTORY") => Some(ValueHint::DirPath),
        Some("FILE" | "IMAGE") => Some(ValueHint::FilePath),
        _ => None,
    };
    let words: Vec<&'static str> = match argument.get_id().as_str() {
        // The library takes words that live for ever, and the process ends with the script.
        "image_policy" | "policy" | "first" | "second" => {
            PRESETS.iter().map(|preset| &*format!("@{}", preset.name).leak()).collect()
        }
        "explain" => ["all"].into_iter().chain(Rule::ALL.iter().map(|rule| rule.code())).collect(),
        "verify" => vec!["signature", "checksum", "no"],
        "sidecars" => vec!["auto", "no"],
        "runtime" => vec!["yes", "no"],
        _ => Vec::new(),
    };
    match (words.is_empty(), hint) {
        (false, _) => argument.value_parser(PossibleValuesParser::new(words)),
        (true, Some(hint)) => argument.value_hint(hint),
        (true, None) => argument,
    }
}
