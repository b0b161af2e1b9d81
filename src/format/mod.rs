//! Formats: bytes or text in, typed values out.
//!
//! Every parser here is total: any input gives a value or a typed error, in bounded time and memory. Nothing here
//! reads, writes, asks the clock or the environment.
#![forbid(unsafe_code)]

pub mod architecture;
pub mod boot_entry;
pub mod boot_url;
pub mod checksum_manifest;
pub mod civil_date;
pub mod companion;
pub mod compression;
pub mod designator;
pub mod fat;
pub mod gpt;
pub mod guid;
pub mod http_header;
pub mod ignore_list;
pub mod image_class;
pub mod image_name;
pub mod kernel_command_line;
pub mod label;
pub mod loop_reference;
pub mod mapper_name;
pub mod mounting;
pub mod multipart;
pub mod name_pattern;
pub mod openpgp;
pub mod partition_type;
pub mod pe;
pub mod pem;
pub mod pull_expression;
pub mod qcow2;
pub mod root_hash;
pub mod sparse;
pub mod superblock;
pub mod tar;
pub mod trust_rules;
pub mod unit_file;
pub mod units;
pub mod verification_mode;
pub mod verity;
pub mod verity_signature;
pub mod written_line;
