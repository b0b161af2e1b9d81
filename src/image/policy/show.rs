//! A policy explained: what holds for every designator, as a table and as JSON.

use std::fmt;

use serde::ser::{SerializeMap, Serializer};

use super::flags::joined;
use super::rule::extended;
use super::{ImagePolicy, PolicyFlags, Rule};

/// What a policy means for every designator. Serialises to the object that `policy show --json=` prints, partitions in
/// systemd's order.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ShownPolicy {
    /// The policy as it was written, where [`written_as`](Self::written_as) told; else the same as `simplified`.
    pub policy: String,
    /// The policy as systemd shortens it.
    pub simplified: String,
    /// The policy with every word spelled out.
    pub long: String,
    /// What holds for each designator, and for what has none.
    #[serde(serialize_with = "as_map")]
    pub partitions: Vec<(&'static str, ShownRule)>,
}

/// What a rule asks, in words.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ShownRule {
    /// The allowed uses, single words; empty where nothing satisfies the rule.
    pub r#use: Vec<&'static str>,
    /// The value that the read-only flag must have, `on` or `off`; `None` where either will do.
    pub read_only: Option<&'static str>,
    /// The value that the grow-file-system flag must have, `on` or `off`; `None` where either will do.
    pub growfs: Option<&'static str>,
    /// The only file systems allowed; empty where none is named, which restricts nothing.
    pub file_systems: Vec<&'static str>,
    /// Where the rule comes from: `explicit`, `derived` or `default`. Part of the table alone.
    #[serde(skip)]
    pub origin: &'static str,
}

impl ShownRule {
    fn new(flags: PolicyFlags, origin: &'static str) -> Self {
        Self {
            r#use: (flags & PolicyFlags::USE).words().collect(),
            read_only: on_off(flags, PolicyFlags::READ_ONLY_ON, PolicyFlags::READ_ONLY_OFF),
            growfs: on_off(flags, PolicyFlags::GROWFS_ON, PolicyFlags::GROWFS_OFF),
            file_systems: (flags & PolicyFlags::FILE_SYSTEMS).words().collect(),
            origin,
        }
    }

    fn of(rule: Rule) -> Self {
        Self::new(rule.flags(), rule.origin().as_str())
    }
}

/// What `policy show --json=` prints of a policy.
#[must_use]
pub fn show_json(policy: &ImagePolicy) -> ShownPolicy {
    let default = ("default", ShownRule::new(extended(policy.default_flags()), "default"));
    ShownPolicy {
        policy: policy.to_string(),
        simplified: policy.to_string(),
        long: policy.long_form(),
        partitions: policy
            .effective_rules()
            .map(|rule| (rule.designator().as_str(), ShownRule::of(rule)))
            .chain([default])
            .collect(),
    }
}

/// What `policy show` prints of a policy: its text, short and long, and a table with a line for every designator. `-` stands
/// for what the policy does not restrict and, as use, for a rule that nothing satisfies.
#[must_use]
pub fn show_text(policy: &ImagePolicy) -> String {
    show_json(policy).to_string()
}

impl ShownPolicy {
    /// The same with the policy as the user wrote it.
    #[must_use]
    pub fn written_as(self, text: &str) -> Self {
        Self { policy: text.to_owned(), ..self }
    }
}

impl fmt::Display for ShownPolicy {
    /// See [`show_text`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    Policy: {}", self.policy)?;
        if self.simplified != self.policy {
            writeln!(f, "Simplified: {}", self.simplified)?;
        }
        if self.long != self.simplified {
            writeln!(f, " Long form: {}", self.long)?;
        }
        let mut rows =
            vec![["PARTITION", "USE", "READ-ONLY", "GROWFS", "FILE SYSTEMS", "RULE"].map(str::to_owned)];
        rows.extend(self.partitions.iter().map(|(designator, rule)| {
            [
                (*designator).to_owned(),
                joined(&rule.r#use),
                rule.read_only.unwrap_or("-").to_owned(),
                rule.growfs.unwrap_or("-").to_owned(),
                joined(&rule.file_systems),
                rule.origin.to_owned(),
            ]
        }));
        write!(f, "\n{}", table(&rows))
    }
}

fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn on_off(flags: PolicyFlags, on: PolicyFlags, off: PolicyFlags) -> Option<&'static str> {
    match (flags.contains(on), flags.contains(off)) {
        (true, false) => Some("on"),
        (false, true) => Some("off"),
        _ => None,
    }
}

fn as_map<S: Serializer>(partitions: &[(&'static str, ShownRule)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(partitions.len()))?;
    for (designator, rule) in partitions {
        map.serialize_entry(designator, rule)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_of_every_designator_what_holds_and_why() {
        let text =
            "root=signed+absent+read-only-on+erofs+squashfs:usr=verity+unused+growfs-off:home=verity:=absent";
        let policy: ImagePolicy = text.parse().unwrap();
        let table = "
PARTITION        USE                 READ-ONLY  GROWFS  FILE SYSTEMS    RULE
root             signed+absent       on         -       erofs+squashfs  explicit
usr              verity+unused       -          off     -               explicit
home             -                   -          -       -               explicit
srv              absent              -          -       -               default
esp              absent              -          -       -               default
xbootldr         absent              -          -       -               default
swap             absent              -          -       -               default
root-verity      unprotected+absent  on         -       -               derived
usr-verity       unprotected+unused  -          off     -               derived
root-verity-sig  unprotected+absent  on         -       -               derived
usr-verity-sig   absent              -          -       -               default
tmp              absent              -          -       -               default
var              absent              -          -       -               default
default          absent              -          -       -               default
";
        assert_eq!(show_text(&policy), format!("    Policy: {text}\n{table}"));
    }

    #[test]
    fn the_text_shows_what_was_written_and_its_short_and_long_form_where_they_differ() {
        let head = |policy: &str, written: &str| {
            let shown = show_json(&policy.parse().unwrap()).written_as(written).to_string();
            shown.split("\n\n").next().unwrap().to_owned()
        };
        assert_eq!(
            head("*", "*"),
            "    Policy: *\n Long form: =verity+signed+encrypted+encryptedwithintegrity\
             +unprotected+unused+absent"
        );
        assert_eq!(
            head("root=ignore", "@site"),
            "    Policy: @site\nSimplified: -\n Long form: root=unused+absent\
             :=unused+absent"
        );
        assert_eq!(head("root=signed:=absent", "root=signed:=absent"), "    Policy: root=signed:=absent");
    }

    #[test]
    fn json_has_the_agreed_keys_in_the_agreed_order() {
        let policy: ImagePolicy = "root=signed+absent+growfs-off+xfs+btrfs".parse().unwrap();
        let text = serde_json::to_string(&show_json(&policy)).unwrap();
        let ignored = r#"{"use":["unused","absent"],"read_only":null,"growfs":null,"file_systems":[]}"#;
        let derived = r#"{"use":["unprotected","absent"],"read_only":null,"growfs":"off","file_systems":[]}"#;
        let others = |designators: &[&str], rule: &str| -> String {
            designators.iter().map(|designator| format!(r#""{designator}":{rule},"#)).collect()
        };
        let expected = [
            r#"{"policy":"root=signed+absent+growfs-off+btrfs+xfs","#,
            r#""simplified":"root=signed+absent+growfs-off+btrfs+xfs","#,
            r#""long":"root=signed+absent+growfs-off+btrfs+xfs:=unused+absent","partitions":{"#,
            r#""root":{"use":["signed","absent"],"read_only":null,"growfs":"off","file_systems":["btrfs","xfs"]},"#,
            &others(&["usr", "home", "srv", "esp", "xbootldr", "swap"], ignored),
            &others(&["root-verity"], derived),
            &others(&["usr-verity"], ignored),
            &others(&["root-verity-sig"], derived),
            &others(&["usr-verity-sig", "tmp", "var"], ignored),
            &format!(r#""default":{ignored}}}}}"#),
        ];
        assert_eq!(text, expected.concat());
    }
}
