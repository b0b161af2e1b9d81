//! `ddictl` provisions Linux block devices from Discoverable Disk Images that nobody has to trust yet.
//!
//! It downloads an image into RAM, dissects its partition table, enforces an image policy, verifies the signature of the
//! dm-verity root hash and every data block, and only then lets block devices appear, under stable names in
//! `/dev/disk/by-loop-ref/`. Where something cannot be established it fails closed, and says why.
//!
//! # Layers
//!
//! Front ends > [`operation`] > {[`kernel`], [`fetch`]}, and [`operation`] > [`image`] > [`trust`] > [`mod@format`]: each
//! names only what stands to its right. What a layer may do beside computing with the values it is given stands in the
//! last column; the three layers without I/O decide everything that can be decided, so that a test or a fuzzer reaches
//! every decision without a device.
//!
//! <!-- layers: begin -->
//! | layer | holds | may name | may do by itself |
//! |---|---|---|---|
//! | `main.rs` | the choice of a front end by the name that the program is called by | `cli/`, `generator.rs`, `mount_helper.rs`, `udev_helper.rs` | environment |
//! | `cli/` | the command line: words in, words out, exit status | `operation/`, `image/`, `trust/`, `format/` | argument parsing, clock, environment, streams, terminal |
//! | `generator.rs` | the words of systemd for generators | `cli/`, `operation/` | environment, streams, terminal |
//! | `mount_helper.rs` | the words of mount(8), as those of the command line | `cli/` | nothing |
//! | `udev_helper.rs` | the words that the udev rules ask for | `operation/`, `image/`, `trust/`, `format/` | argument parsing, environment, streams, terminal |
//! | `operation/` | the verbs: the order of effects, and their undoing | `kernel/`, `fetch/`, `image/`, `trust/`, `format/` | clock, files, processes, streams, threads |
//! | `kernel/` | loop devices, memory files, mounts, trees of files, signals, udev: it carries out, it does not judge | `kernel/raw/`, `format/` | clock, files, local sockets, streams, system calls, threads |
//! | `kernel/raw/` | one function a system call that nobody wraps | `format/` | files, processes, streams, system calls, `unsafe` |
//! | `fetch/` | bodies and ranges over HTTP, decompression, archives | `format/` | clock, environment, files, network, streams, threads |
//! | `image/` | survey, dissection, policy, findings, plan: decisions, without effects | `trust/`, `format/` | nothing |
//! | `trust/` | every value that says 'verified', and the checks that alone can make it | `format/` | public keys |
//! | `format/` | bytes or text in, typed values out | nothing | nothing |
//! <!-- layers: end -->
//!
//! A test (`tests/pure/layering`) scans every path of every file against this table, which is made from the one that it
//! uses; a file that no row fits fails it too. Clippy's `disallowed_methods` (`clippy.toml`) forbids what no layer should
//! do without giving a reason on the spot; it knows no layers, which is why the scan exists. `unsafe_code` is denied
//! everywhere, forbidden in the layers without I/O, and excused file by file in `kernel/raw/`.
//!
//! # What holds
//!
//! Whoever owns the network, the server and every byte of the image can make these fail no more than a typing error can.
//! The kernel, root, the trust anchors and the command line are trusted.
//!
//! 1. Nothing usable appears that the policy did not plan: no device and no link shows a byte outside the plan.
//! 2. Every used partition has exactly one protection state, found from its content, and that state is tested against the
//!    policy. Nothing is retried with less.
//! 3. What was verified is what is used: descriptors of memory that nobody can write any more are handed on inside one
//!    process, never paths.
//! 4. Failure leaves nothing behind, for every error and catchable signal. After SIGKILL nothing has a link, and the next
//!    command that attaches takes down what is left.
//! 5. Parsers are total: a value or a typed error, in bounded time and memory.
//! 6. Every refusal says which rule, which partition, what was expected, what was found, and what can be done.
//! 7. 'Verified' is a value that only [`trust`] can make, from a check that ran.
//! 8. A signature covers a bare root hash, neither a name nor a version: whatever was signed once can be presented again
//!    to whoever does not pin the root hash.
//!
//! # How an image becomes devices
//!
//! [`image`] surveys it by saying which bytes it needs next, and gets them from a file, from HTTP ranges or from a
//! stream: one dissection for all sources. Dissection, policy and trust together give a plan, plain data, or a refusal.
//! Everything that can refuse is decided before the first device is made; the plan is the only input of what follows.
//! A value that says 'verified' can be made by [`trust`] alone, from a check that ran.
//!
//! # Example
//!
//! What is in an image, asked of bytes in memory; a file or a server would be asked in the same way:
//!
//! ```
//! use ddictl::format::architecture::Architecture;
//! use ddictl::format::units::ByteLength;
//! use ddictl::image::survey::{Survey, SurveyOptions};
//!
//! let image = vec![0; 1 << 20];
//! let mut survey = Survey::new(ByteLength::of(&image), SurveyOptions::new(Architecture::X86_64));
//! let mut wanted = survey.wanted();
//! while !wanted.is_empty() {
//!     for extent in wanted {
//!         let start = usize::try_from(extent.start().bytes()).unwrap();
//!         let length = extent.length().in_memory().unwrap();
//!         survey.feed(extent.start(), &image[start..start + length]);
//!     }
//!     wanted = survey.wanted();
//! }
//! let malformed = survey.finish().unwrap_err();
//! assert_eq!(malformed.finding.rule.code(), "DDI0101", "neither a partition table nor a file system");
//! ```

pub mod cli;
pub mod fetch;
pub mod format;
pub mod generator;
pub mod image;
pub mod kernel;
pub mod mount_helper;
pub mod operation;
pub mod trust;
pub mod udev_helper;
