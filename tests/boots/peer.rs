//! What systemd 262 alone does with what ddictl refuses: a table for people, by `tests/boots/table`.

use std::io;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use crate::laboratory::Guest;
use crate::outcome::Outcome;
use crate::refusals::REFUSALS;
use crate::refusals::Refusal;

/// The Debian release with the newest systemd.
pub(crate) const SUITE: &str = "sid";

/// How many boots of systemd run at the same time.
const AT_ONCE: usize = 4;

/// Prints the table: a line for each refusal.
pub(crate) fn print_table(to: &mut dyn Write) -> io::Result<()> {
    writeln!(
        to,
        "| what is served | systemd 262, the same command line | systemd 262, `root=dissect` and `root=signed` | ddictl |"
    )?;
    writeln!(to, "|---|---|---|---|")?;
    // systemd waits most of the time; what ddictl does is over soon, and is not to be disturbed.
    let next = AtomicUsize::new(0);
    let systemd: Mutex<Vec<(usize, [String; 2])>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(refusal) = REFUSALS.get(number) else { return };
                    let alone = (refusal.prepare)(Guest::new(SUITE)).without_ddictl().boot();
                    let strictest = strictest(refusal).map(Guest::boot);
                    let said = strictest.as_ref().map_or_else(|| "not possible".to_owned(), of_systemd);
                    systemd.lock().unwrap().push((number, [of_systemd(&alone), said]));
                }
            });
        }
    });
    let mut systemd = systemd.into_inner().unwrap();
    systemd.sort();
    for (refusal, (_, [alone, strictest])) in REFUSALS.iter().zip(systemd) {
        let ours = of_ddictl(&(refusal.prepare)(Guest::new(SUITE)).boot());
        writeln!(to, "| {} | {alone} | {strictest} | {ours} |", refusal.title)?;
    }
    Ok(())
}

/// The same with the words that ask systemd for the most; `None` where there are none.
fn strictest(refusal: &Refusal) -> Option<Guest> {
    told_the_most((refusal.prepare)(Guest::new(SUITE)).without_ddictl())
}

/// A guest in which the image's name is `rootdisk`, its root is found by dissection, and the policy wants it signed; `None`
/// where there is no image.
pub(crate) fn told_the_most(guest: Guest) -> Option<Guest> {
    guest.with_words_changed(|word| {
        if word.starts_with("rd.systemd.pull=raw") {
            vec![word.replace(":image:", ":rootdisk:")]
        } else if word.starts_with("root=/dev/disk/by-loop-ref/") {
            vec!["root=dissect".to_owned(), "systemd.image_policy=root=signed".to_owned()]
        } else {
            vec![word.to_owned()]
        }
    })
}

fn of_systemd(outcome: &Outcome) -> String {
    if outcome.has("report") {
        let system =
            if outcome.lines("stranger").is_empty() { "**boots it**" } else { "**boots the other system**" };
        let dm = outcome.lines("dm").iter().any(|line| line.contains(" verity "));
        let verity = if dm { "with dm-verity" } else { "without dm-verity" };
        return format!("{system}, {verity}");
    }
    if !outcome.has("emergency") {
        return format!("neither boots nor stops in {} s", crate::laboratory::TIME_LIMIT);
    }
    format!("stops after {:.0} s: {}", outcome.seconds_to_emergency(), outcome.last_complaint())
}

fn of_ddictl(outcome: &Outcome) -> String {
    if outcome.has("report") {
        return "**boots it**".to_owned();
    }
    if !outcome.has("emergency") {
        return format!("neither boots nor stops in {} s", crate::laboratory::TIME_LIMIT);
    }
    let said = outcome.said_by_ddictl();
    format!("refused after {:.0} s: {said}", outcome.seconds_to_emergency())
}
