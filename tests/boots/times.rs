//! How long the pull and all that hangs on it take, with systemd 262's generator and with ddictl's, in the same guest: a
//! table for people, by `tests/boots/times`.

use std::io;
use std::io::Write;

use crate::images;
use crate::laboratory::Guest;
use crate::outcome::Outcome;
use crate::peer;
use crate::refusals::SEED;

/// How many times each is booted, in turns.
const ROUNDS: usize = 3;

/// A phase of a boot: what it is, and the messages of the journal at which it begins and ends; without the first it
/// begins with the kernel.
struct Phase {
    title: &'static str,
    begins: Option<[&'static str; 2]>,
    ends: &'static str,
}

const PHASES: [Phase; 3] = [
    Phase {
        title: "from the start of the pull until the root's device is there",
        begins: Some(PULL_BEGINS),
        ends: "Found device dev-",
    },
    Phase {
        title: "from the start of the pull until the root is mounted",
        begins: Some(PULL_BEGINS),
        ends: "Mounted sysroot.mount",
    },
    Phase {
        title: "from the start of the kernel until the switch of the root",
        begins: None,
        ends: "Switching root.",
    },
];

/// With systemd's generator, and with ours.
const PULL_BEGINS: [&str; 2] =
    ["Starting systemd-import@run-machines-", "Starting ddictl-pull@run-machines-"];

/// Prints the table: medians of several boots, in seconds.
pub(crate) fn print_table(to: &mut dyn Write) -> io::Result<()> {
    let seed = || {
        let guest = Guest::new(peer::SUITE);
        guest.serve("image.raw", images::signed());
        guest.words(SEED).words("systemd.volatile=overlay")
    };
    let ways: [(&str, &dyn Fn() -> Guest); 3] = [
        ("systemd 262: nothing verified", &|| seed().without_ddictl()),
        ("systemd 262, `root=dissect`: blocks verified when they are read", &|| {
            peer::told_the_most(seed().without_ddictl()).unwrap()
        }),
        ("ddictl: signature and every block verified, dm-verity", &seed),
    ];
    let mut outcomes: [Vec<Outcome>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, guest), outcomes) in ways.iter().zip(&mut outcomes) {
            let outcome = guest().boot();
            outcome.expect_booted();
            outcomes.push(outcome);
        }
    }
    let titles: Vec<&str> = ways.iter().map(|(title, _)| *title).collect();
    writeln!(to, "| seconds | {} |", titles.join(" | "))?;
    writeln!(to, "|---|{}", "---|".repeat(ways.len()))?;
    for phase in PHASES {
        let medians: Vec<String> =
            outcomes.iter().map(|outcomes| format!("{:.2}", median(outcomes, &phase))).collect();
        writeln!(to, "| {} | {} |", phase.title, medians.join(" | "))?;
    }
    Ok(())
}

fn median(outcomes: &[Outcome], phase: &Phase) -> f64 {
    let mut seconds: Vec<f64> = outcomes
        .iter()
        .map(|outcome| {
            let begins = phase.begins.map_or(0.0, |words| outcome.time_of_any(&words));
            outcome.time_of(phase.ends) - begins
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
