//! GUID partition tables: strict, complete, and without trust in any field (UEFI 2.10, chapter 5).
//!
//! Reading goes in three steps, each of which says what it needs: [`probe_extents`] and [`Headers::find`],
//! [`Headers::table_extents`] and [`Headers::table`]. Nothing here ever asks for more than the ends of the image and two
//! tables of at most [`MAXIMUM_ENTRIES_LENGTH`].
//!
//! A table is used where at least one of its copies is valid in every field and checksum, a protective MBR stands in
//! front, and no two places of the image hold tables that differ. The backup copy is looked for in the last block alone,
//! where the specification has it: an image that was cut off or padded has a primary copy only.
//!
//! [`WrittenTable`] goes the other way: both copies of a table for partitions that lie where they lie.

mod attributes;
mod error;
mod header;
mod headers;
mod mbr;
mod table;
mod written;

#[cfg(test)]
#[path = "../../../tests/support/gpt_builder.rs"]
pub(crate) mod gpt_builder;
#[cfg(test)]
mod tests;

pub use self::attributes::Attributes;
pub use self::error::CopyProblem;
pub use self::error::Difference;
pub use self::error::GptError;
pub use self::header::MAXIMUM_ENTRIES_LENGTH;
pub use self::headers::Foreseen;
pub use self::headers::Headers;
pub use self::headers::USUAL_LENGTH;
pub use self::headers::begins_with_table;
pub use self::headers::foreseen;
pub use self::headers::probe_extents;
pub use self::table::GptEntry;
pub use self::table::GptTable;
pub use self::table::TableSource;
pub use self::written::WriteError;
pub use self::written::WrittenTable;
