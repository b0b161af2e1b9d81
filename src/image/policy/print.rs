//! Writing policies down as systemd does: shortened, or with every word spelled out.

use std::fmt;

use super::flags::joined;
use super::rule::extended;
use super::{ImagePolicy, PolicyFlags};

impl ImagePolicy {
    /// The rules as written, in systemd's order, with every word spelled out and the default rule named.
    #[must_use]
    pub fn long_form(&self) -> String {
        self.text(&joined(&self.default.words().collect::<Vec<_>>()), |flags| flags.words().collect())
    }

    fn text(&self, default: &str, words: impl Fn(PolicyFlags) -> Vec<&'static str>) -> String {
        let mut rules: Vec<_> = self
            .rules
            .iter()
            .map(|(designator, flags)| format!("{designator}={}", joined(&words(*flags))))
            .collect();
        if !default.is_empty() {
            rules.push(format!("={default}"));
        }
        rules.join(":")
    }

    /// Whether systemd takes both for the same: the same normal form for every designator and for what has none.
    fn has_same_normal_form(&self, other: &Self) -> bool {
        extended(self.default) == extended(other.default)
            && self
                .effective_rules()
                .zip(other.effective_rules())
                .all(|(left, right)| left.flags() == right.flags())
    }
}

impl fmt::Display for ImagePolicy {
    /// The shortest text that means the same: what `systemd-analyze image-policy` shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbols = [("*", Self::allow()), ("-", Self::ignore()), ("~", Self::deny())];
        if let Some((symbol, _)) = symbols.iter().find(|(_, policy)| self.has_same_normal_form(policy)) {
            return f.pad(symbol);
        }
        let default = if self.default.without_full_groups() == PolicyFlags::IGNORE {
            String::new()
        } else {
            joined(&self.default.short_words())
        };
        f.pad(&self.text(&default, PolicyFlags::short_words))
    }
}
