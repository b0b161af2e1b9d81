//! What the system is told to do when a pull succeeds or fails: the values of `SuccessAction=` and `FailureAction=`.

use std::str::FromStr;

/// The words of systemd.unit(5), 'FailureAction=', that a pull may ask for.
const ACTIONS: [&str; 16] = [
    "none",
    "reboot",
    "reboot-force",
    "reboot-immediate",
    "poweroff",
    "poweroff-force",
    "poweroff-immediate",
    "exit",
    "exit-force",
    "soft-reboot",
    "soft-reboot-force",
    "kexec",
    "kexec-force",
    "halt",
    "halt-force",
    "halt-immediate",
];

/// An action, by systemd's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(&'static str);

impl Action {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// The text is no action.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}, found '{}'", ACTIONS.join(", "), .found.escape_debug())]
pub struct ActionError {
    /// The text.
    pub found: String,
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = ACTIONS.into_iter().find(|action| *action == text);
        found.map(Self).ok_or_else(|| ActionError { found: text.to_owned() })
    }
}
