//! The manual page of the findings is made from the rules, and says just what they say.

use std::env;
use std::fs;
use std::path::Path;

use ddictl::image::finding::{Level, Rule};

use crate::command_line::Workshop;

/// The groups of codes, by their third digit.
const GROUPS: [(&str, &str); 6] = [
    ("DDI01", "The partition table and the image as a whole"),
    ("DDI02", "What lies in the partitions"),
    ("DDI03", "dm-verity"),
    ("DDI04", "Signatures and trust"),
    ("DDI05", "The policy"),
    ("DDI06", "Unified kernel images and their command lines"),
];

/// Text for a line of its own in mdoc(7).
fn lines(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let sentences = escaped.replace(". ", ".\n");
    let guarded = |line: &str| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    };
    sentences.lines().map(guarded).collect()
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().unwrap();
    // Names keep their letters.
    if text.starts_with("systemd") || text.starts_with("dm-verity") {
        return format!("{text}.");
    }
    format!("{}{}.", first.to_uppercase(), letters.as_str())
}

fn page() -> String {
    let mut page = String::from(
        ".\\\" Made from src/image/finding.rs and src/image/finding/explanation.rs: 'DDICTL_UPDATE_GOLDEN=1 cargo test findings_page'.\n\
         .Dd November 26, 2026\n.Dt DDICTL.FINDINGS 7\n.Os\n.Sh NAME\n.Nm ddictl.findings\n\
         .Nd what ddictl finds in disk images, and what can be done about it\n.Sh DESCRIPTION\n\
         .Xr ddictl 1\ngives everything remarkable about an image a stable code, a level and the way out.\n\
         A code keeps its meaning for ever; one that goes is not used again.\n.Pp\n\
         An\n.Em error\nmakes a partition, or the image, unacceptable for use: whatever would use it is refused.\n\
         Under a policy that leaves the partition unused it counts as a warning.\nA\n.Em warning\n\
         says that something is probably not as it was meant, and a\n.Em note\nthat it is worth knowing.\n\
         .Ql ddictl audit \\-\\-fail\\-on=\nsays which levels fail.\n.Pp\n\
         .Ql ddictl audit \\-\\-explain=DDI0101\nprints what is here of one code.\n\
         Where it was measured that systemd 262 goes on with an image that is refused here, that is said, too.\n",
    );
    for (prefix, heading) in GROUPS {
        page.push_str(&format!(".Sh {}\n.Bl -tag -width Ds\n", heading.to_uppercase().replace('-', "\\-")));
        for rule in Rule::ALL.iter().filter(|rule| rule.code().starts_with(prefix)) {
            page.push_str(&format!(".It {rule} Pq {}\n", rule.level()));
            page.push_str(&lines(&sentence(rule.title())));
            page.push_str(".Pp\n");
            page.push_str(&lines(rule.explanation()));
            if let Some(systemd) = rule.systemd() {
                page.push_str(&lines(&sentence(systemd)));
            }
            page.push_str(".Pp\nWhat to do:\n");
            page.push_str(&lines(&format!("{}.", rule.remedy())));
        }
        page.push_str(".El\n");
    }
    page.push_str(".Sh SEE ALSO\n.Xr ddictl 1 ,\n.Xr ddictl.policy 5 ,\n.Xr ddictl.trust 5\n");
    page
}

#[test]
fn the_page_is_made_from_the_rules() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/ddictl.findings.7");
    let made = page();
    if env::var_os("DDICTL_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert!(
        found == made,
        "man/ddictl.findings.7 is not as the rules have it: DDICTL_UPDATE_GOLDEN=1 cargo test findings_page"
    );
    // Every rule is in it, once.
    for rule in Rule::ALL {
        assert_eq!(found.matches(&format!(".It {rule} ")).count(), 1, "{rule}");
    }
}

#[test]
fn explain_says_the_same() {
    let workshop = Workshop::new();
    let all = workshop.run("audit --explain=all").exits(0).data;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = words(&all);
    for rule in Rule::ALL {
        for text in [rule.title(), rule.explanation(), rule.remedy(), rule.systemd().unwrap_or_default()] {
            assert!(told.contains(&words(text)), "{rule}: {text}");
        }
    }
    assert!(all.lines().all(|line| line.chars().count() <= 80 || !line.starts_with(' ')), "{all}");
    let one = workshop.run("audit --explain ddi0109").exits(0).data;
    assert!(one.starts_with("DDI0109 error: overlapping partitions\n") && all.contains(&one), "{one}");
    assert!(one.contains("systemd 262 accepts this"), "{one}");
    for nonsense in ["audit --explain DDI9999", "audit --explain", "audit --explain all image.raw"] {
        workshop.run(nonsense).fails(2, &["--explain"]);
    }
    assert_eq!(Rule::PartitionsOverlap.level(), Level::Error);
}
