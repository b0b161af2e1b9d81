//! The same images given to systemd and to ddictl.

pub(crate) mod dissection;
pub(crate) mod interop;
pub(crate) mod peer;
pub(crate) mod policy_table;
pub(crate) mod reduced;
