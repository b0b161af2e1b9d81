//! Images in which another dissector might choose something else than ours does.
//!
//! Needs `ddi_builder` and `keys` beside it at the root of the test program.

use ddictl::format::designator::Designator;

use crate::ddi_builder::{Ddi, NO_AUTO, Protected, fixture, foreign, type_uuid_for};
use crate::keys::Pair;

/// An image with a signed root, and with something that another dissector might take for it.
pub(crate) struct Decoy {
    /// What that is.
    pub(crate) what: &'static str,
    /// The image.
    pub(crate) image: Vec<u8>,
    /// The numbers of the root, its hash partition and its signature partition: what a policy plans.
    pub(crate) planned: [u64; 3],
}

/// All of them, with this root file system, the last of whose bytes does not count, signed by that pair.
pub(crate) fn decoys(root: &[u8], pair: &Pair) -> Vec<Decoy> {
    let ours = Protected::root(root.to_vec()).label("os_2").signed_by(pair);
    let mut tree = root.to_vec();
    *tree.last_mut().unwrap() ^= 1;
    let older = Protected::root(tree).label("os_1").signed_by(pair);
    let newer =
        |label: &str| Ddi::new().with(Designator::Root, label, fixture("ext4", 1 << 20)).protected(&ours);
    let foreign_root =
        Ddi::new().with_type("x", type_uuid_for(Designator::Root, foreign()), "os_9", root.to_vec());
    let decoy = |what, ddi: Ddi, planned| Decoy { what, image: ddi.bytes(), planned };
    vec![
        decoy("a root labelled PRT#", newer("PRT#os_9"), [2, 3, 4]),
        decoy(
            "a newer root that is no-auto",
            newer("os_9").edit("root", |part| part.attributes = NO_AUTO),
            [2, 3, 4],
        ),
        decoy("a root of a foreign architecture", foreign_root.protected(&ours), [2, 3, 4]),
        decoy(
            "a home partition that nobody signed",
            Ddi::new().with(Designator::Home, "home", fixture("ext4", 1 << 20)).protected(&ours),
            [2, 3, 4],
        ),
        decoy("a second version", Ddi::new().protected(&older).protected(&ours), [4, 5, 6]),
    ]
}
