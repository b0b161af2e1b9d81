//! What goes on, for people: bars on a terminal, lines for warnings, nothing else in a log.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::format::units::ByteLength;
use crate::operation::observer::Observer;

use super::say;

/// Shows progress on standard error.
#[derive(Debug)]
pub(super) struct Terminal {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Terminal {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::new(None) }
    }

    /// Whether only warnings and errors are wanted.
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Observer for Terminal {
    fn started(&self, what: &str, total: Option<ByteLength>) {
        if self.quiet || !io::stderr().is_terminal() {
            return;
        }
        let template = match total {
            Some(_) => "{msg:24} {bar:32} {bytes:>11}/{total_bytes:11} {bytes_per_sec:>13} {eta:>4}",
            None => "{msg:24} {spinner} {bytes:>11} {bytes_per_sec:>13}",
        };
        let bar = ProgressBar::with_draw_target(total.map(ByteLength::bytes), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        self.with_bar(|place| *place = Some(bar));
    }

    fn advanced(&self, bytes: ByteLength) {
        self.with_bar(|bar| {
            if let Some(bar) = bar {
                bar.inc(bytes.bytes());
            }
        });
    }

    fn finished(&self) {
        self.with_bar(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn warning(&self, text: &str) {
        say("warning", text);
    }

    fn note(&self, text: &str) {
        if !self.quiet {
            say("note", text);
        }
    }
}
