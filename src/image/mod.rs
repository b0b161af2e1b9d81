//! What an image is, what a policy asks of it, and what is planned with it: decisions, without effects.
#![forbid(unsafe_code)]

pub mod assessment;
pub mod dissection;
pub mod finding;
pub mod plan;
pub mod policy;
pub mod presets;
pub mod survey;
