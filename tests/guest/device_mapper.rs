//! dm-verity devices as a real kernel has them: what they show, what they refuse, and how they go.

use std::fs;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ddictl::format::root_hash::RootHash;
use ddictl::format::units::SectorSize;
use ddictl::format::verity::VeritySuperblock;
use ddictl::format::verity::table::KeyDescription;
use ddictl::format::verity::table::OnCorruption;
use ddictl::format::verity::table::VerityHealth;
use ddictl::format::verity::table::VerityTable;
use ddictl::kernel::device_mapper::DeviceMapperError;
use ddictl::kernel::device_mapper::Identity;
use ddictl::kernel::device_mapper::KernelSignature;
use ddictl::kernel::device_mapper::MappedDevice;
use ddictl::kernel::device_mapper::MappedStatus;
use ddictl::kernel::device_mapper::MappedTarget;
use ddictl::kernel::device_mapper::NotChecked;
use ddictl::kernel::device_mapper::RemoveError;
use ddictl::kernel::device_mapper::Removed;
use ddictl::kernel::device_mapper::VerityRequest;
use ddictl::kernel::device_mapper::find_by_name;
use ddictl::kernel::device_mapper::find_by_uuid;
use ddictl::kernel::device_mapper::list;
use ddictl::kernel::device_mapper::remove;
use ddictl::kernel::device_mapper::remove_unfinished;
use ddictl::kernel::device_mapper::status;
use ddictl::kernel::device_mapper::supports_verity;
use ddictl::kernel::device_number::DeviceNumber;
use ddictl::kernel::loop_device;
use ddictl::kernel::loop_device::LoopDevice;
use ddictl::kernel::loop_device::LoopRequest;

use crate::harness::HostTest;
use crate::harness::Need;
use crate::harness::udevd;

/// What reading a corrupt block ends with.
const EIO: i32 = 5;

const VERITY: &[Need] = &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::Tool("veritysetup")];
const DMSETUP: &[Need] =
    &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::Tool("veritysetup"), Need::Tool("dmsetup")];

/// The tests of this file.
pub(crate) const TESTS: &[HostTest] = &[
    HostTest {
        name: "device_mapper::veritysetup_and_dmsetup_agree_with_us",
        needs: DMSETUP,
        run: veritysetup_and_dmsetup_agree_with_us,
    },
    HostTest {
        name: "device_mapper::a_changed_block_cannot_be_read",
        needs: VERITY,
        run: a_changed_block_cannot_be_read,
    },
    HostTest {
        name: "device_mapper::another_root_hash_shows_nothing",
        needs: VERITY,
        run: another_root_hash_shows_nothing,
    },
    HostTest {
        name: "device_mapper::the_action_on_corruption_is_in_the_table",
        needs: VERITY,
        run: the_action_on_corruption_is_in_the_table,
    },
    HostTest { name: "device_mapper::nobody_can_write", needs: VERITY, run: nobody_can_write },
    HostTest {
        name: "device_mapper::a_killed_holder_leaves_no_device",
        needs: VERITY,
        run: a_killed_holder_leaves_no_device,
    },
    HostTest {
        name: "device_mapper::a_permanent_device_stays_until_removed",
        needs: VERITY,
        run: a_permanent_device_stays_until_removed,
    },
    HostTest {
        name: "device_mapper::a_mounted_device_names_its_mount_point",
        needs: &[
            Need::Root,
            Need::LoopDevices,
            Need::DeviceMapper,
            Need::FileSystem("ext4"),
            Need::Tool("veritysetup"),
            Need::Tool("mkfs.ext4"),
            Need::Tool("mount"),
        ],
        run: a_mounted_device_names_its_mount_point,
    },
    HostTest {
        name: "device_mapper::an_open_device_goes_with_its_last_user",
        needs: VERITY,
        run: an_open_device_goes_with_its_last_user,
    },
    HostTest {
        name: "device_mapper::another_device_is_not_removed",
        needs: VERITY,
        run: another_device_is_not_removed,
    },
    HostTest {
        name: "device_mapper::what_was_never_activated_is_a_leftover",
        needs: DMSETUP,
        run: what_was_never_activated_is_a_leftover,
    },
    HostTest {
        name: "device_mapper::a_refused_table_leaves_no_device",
        needs: VERITY,
        run: a_refused_table_leaves_no_device,
    },
    HostTest {
        name: "device_mapper::who_has_the_name_is_named",
        needs: DMSETUP,
        run: who_has_the_name_is_named,
    },
    HostTest {
        name: "device_mapper::a_signature_that_the_kernel_cannot_check_is_reported",
        needs: VERITY,
        run: a_signature_that_the_kernel_cannot_check_is_reported,
    },
    HostTest {
        name: "device_mapper::the_parameters_of_other_targets_are_not_read",
        needs: DMSETUP,
        run: the_parameters_of_other_targets_are_not_read,
    },
    HostTest {
        name: "device_mapper::a_foreign_name_hides_no_device",
        needs: DMSETUP,
        run: a_foreign_name_hides_no_device,
    },
    HostTest {
        name: "device_mapper::udev_without_the_rules_of_dmsetup_holds_nothing_up",
        needs: &[Need::Root, Need::LoopDevices, Need::DeviceMapper, Need::Udevd, Need::Tool("veritysetup")],
        run: udev_without_the_rules_of_dmsetup_holds_nothing_up,
    },
];

const NAME: &str = "ddictl-test-root";
const SIZE: usize = 256 << 10;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// Waits for what the kernel does in a worker of its own, and tells nobody.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::yield_now();
    }
}

/// A file with a hash tree, made by veritysetup.
struct Tree {
    _directory: tempfile::TempDir,
    data: PathBuf,
    hash: PathBuf,
    root_hash: RootHash,
}

impl Tree {
    /// A tree over what `make` leaves in the data file.
    fn of(make: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let hash = directory.path().join("hash");
        make(&data);
        let output = run("veritysetup", &["format", text(&data), text(&hash)]);
        let root = output.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap();
        Self { _directory: directory, data, hash, root_hash: root.trim().parse().unwrap() }
    }

    fn new() -> Self {
        Self::of(|data| fs::write(data, content()).unwrap())
    }

    fn superblock(&self) -> VeritySuperblock {
        VeritySuperblock::parse(&fs::read(&self.hash).unwrap()).unwrap()
    }

    fn uuid(&self) -> String {
        let superblock = self.superblock().uuid.to_string().replace('-', "");
        format!("CRYPT-VERITY-{superblock}-{NAME}")
    }

    /// Its two loop devices, which live as long as somebody has them.
    fn attach(&self) -> Below {
        let attach = |path: &Path, reference| {
            let file = File::open(path).unwrap();
            let block_size = SectorSize::DEFAULT;
            let backing = file.as_fd();
            let request = LoopRequest { backing, extent: None, block_size, read_only: true, reference };
            LoopDevice::configure(&request).unwrap()
        };
        Below { data: attach(&self.data, "ddictl-test.data"), hash: attach(&self.hash, "ddictl-test.hash") }
    }

    fn table(&self, below: &Below) -> VerityTable {
        let data = below.data.device_number().into();
        let hash = below.hash.device_number().into();
        VerityTable::of(&self.superblock(), self.root_hash.clone(), data, hash)
    }

    /// The device over it, which alone holds the loop devices then.
    fn activate(&self) -> MappedDevice {
        let below = self.attach();
        create(&self.uuid(), self.table(&below)).unwrap().0
    }
}

/// Loop devices below a dm-verity device.
struct Below {
    data: LoopDevice,
    hash: LoopDevice,
}

fn create(uuid: &str, table: VerityTable) -> Result<(MappedDevice, KernelSignature), DeviceMapperError> {
    MappedDevice::create_verity(&VerityRequest { name: NAME, uuid, table }, None)
}

/// Every block has its own content.
fn content() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from((at / 4096 + at % 7) % 251).unwrap()).collect()
}

fn read_all(device: &MappedDevice) -> std::io::Result<Vec<u8>> {
    fs::read(device.path())
}

fn health(device: &MappedDevice) -> Option<VerityHealth> {
    device.status().unwrap().unwrap().health
}

/// Nothing of the device is left, the loop devices below it neither.
fn wait_until_all_gone() {
    wait_until("the devices go", || {
        let bound = loop_device::list().unwrap();
        let ours = |status: &loop_device::LoopStatus| {
            status.reference().is_some_and(|name| name.starts_with("ddictl-test."))
        };
        find_by_name(NAME).unwrap().is_none() && !bound.iter().any(ours)
    });
}

fn veritysetup_and_dmsetup_agree_with_us() {
    assert!(supports_verity().unwrap().is_some_and(|version| version.major == 1));
    let tree = Tree::new();
    let below = tree.attach();
    let table = tree.table(&below);
    let uuid = tree.uuid();
    let (device, signature) = create(&uuid, table.clone()).unwrap();
    assert_eq!(signature, KernelSignature::None);
    drop(below);
    assert_eq!(read_all(&device).unwrap(), content());

    let sectors = SIZE / 512;
    assert_eq!(run("dmsetup", &["table", NAME]).trim(), format!("0 {sectors} verity {table}"));
    assert!(run("dmsetup", &["status", NAME]).starts_with(&format!("0 {sectors} verity V")));
    let shown = run("veritysetup", &["status", NAME]);
    for line in [
        "type:        VERITY".to_owned(),
        "status:      verified".to_owned(),
        "mode:        readonly".to_owned(),
        format!("root hash:   {}", tree.root_hash),
    ] {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.lines().any(|found| squeezed(found) == squeezed(&line)), "'{line}' in\n{shown}");
    }
    assert!(run("dmsetup", &["info", NAME]).contains(&format!("UUID: {uuid}")));

    let found = device.status().unwrap().unwrap();
    let MappedStatus { open_count, .. } = found;
    assert_eq!(
        found,
        MappedStatus {
            name: NAME.to_owned(),
            uuid: uuid.clone(),
            device: device.device_number(),
            disk_sequence: Some(device.disk_sequence()),
            open_count,
            read_only: true,
            suspended: false,
            deferred_removal: true,
            live: true,
            targets: vec![MappedTarget::Verity(table)],
            health: Some(VerityHealth::Verified),
        }
    );
    assert!(open_count >= 1);
    assert_eq!(found.identity(), Some(device.identity()));
    for again in [
        status(device.device_number()),
        find_by_name(NAME),
        find_by_uuid(&uuid),
        list().map(|all| all.into_iter().find(|status| status.name == NAME)),
    ] {
        assert_eq!(again.unwrap().unwrap().identity(), found.identity());
    }
    let other = MappedDevice::open_existing(device.device_number()).unwrap().unwrap();
    assert_eq!((other.name(), other.uuid()), (device.name(), device.uuid()));
    assert_eq!(other.identity(), device.identity());
    drop((device, other));
    wait_until_all_gone();
    assert_eq!(find_by_uuid(&uuid).unwrap(), None);
    assert_eq!(status(DeviceNumber::new(254, 1 << 19)).unwrap(), None);
}

fn a_changed_block_cannot_be_read() {
    let tree = Tree::new();
    File::options().write(true).open(&tree.data).unwrap().write_all_at(&[0xff], 9 * 4096 + 17).unwrap();
    let device = tree.activate();
    assert_eq!(health(&device), Some(VerityHealth::Verified));
    let node = File::open(device.path()).unwrap();
    let mut block = [0; 4096];
    let error = node.read_exact_at(&mut block, 9 * 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
    assert_eq!(health(&device), Some(VerityHealth::Corrupted));
    let listed = list().unwrap().into_iter().find(|status| status.name == NAME).unwrap();
    assert_eq!(listed.health, Some(VerityHealth::Corrupted));
    drop((node, device));
    wait_until_all_gone();
}

fn another_root_hash_shows_nothing() {
    let tree = Tree::new();
    let below = tree.attach();
    let mut bytes = tree.root_hash.as_bytes().to_vec();
    bytes[31] ^= 1;
    let table = VerityTable { root_hash: RootHash::from_bytes(&bytes).unwrap(), ..tree.table(&below) };
    let device = create(&tree.uuid(), table).unwrap().0;
    drop(below);
    let node = File::open(device.path()).unwrap();
    for block in [0, 1, 63] {
        let error = node.read_exact_at(&mut [0; 512], block * 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
    }
    assert_eq!(health(&device), Some(VerityHealth::Corrupted));
    drop((node, device));
    wait_until_all_gone();
}

fn the_action_on_corruption_is_in_the_table() {
    let tree = Tree::new();
    for on_corruption in OnCorruption::ALL {
        let below = tree.attach();
        let table = VerityTable { on_corruption, ..tree.table(&below) };
        let device = create(&tree.uuid(), table.clone()).unwrap().0;
        drop(below);
        let found = device.status().unwrap().unwrap();
        assert_eq!(found.verity(), Some(&table), "{on_corruption}");
        assert_eq!(read_all(&device).unwrap(), content());
        drop(device);
        wait_until_all_gone();
    }
}

fn nobody_can_write() {
    let tree = Tree::new();
    let device = tree.activate();
    let written = File::options()
        .write(true)
        .open(device.path())
        .and_then(|node| node.write_all_at(&[0xff; 4096], 0).and_then(|()| node.sync_all()));
    assert!(written.is_err());
    let sysfs = format!("/sys/dev/block/{}/ro", device.device_number());
    assert_eq!(fs::read_to_string(sysfs).unwrap().trim(), "1");
    drop(device);
    wait_until_all_gone();
    assert_eq!(fs::read(&tree.data).unwrap(), content());
}

fn a_killed_holder_leaves_no_device() {
    let tree = Tree::new();
    let device = tree.activate();
    let identity = device.identity();
    let descriptor = device.fd().try_clone_to_owned().unwrap();
    let mut holder = Command::new("sleep").arg("60").stdin(Stdio::from(descriptor)).spawn().unwrap();
    drop(device);
    let held = find_by_name(NAME);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(held.unwrap().unwrap().identity(), Some(identity));
    wait_until_all_gone();
}

fn a_permanent_device_stays_until_removed() {
    let tree = Tree::new();
    let device = tree.activate();
    let identity = device.identity();
    device.make_permanent().unwrap();
    drop(device);
    let again = MappedDevice::open_existing(identity.device).unwrap().unwrap();
    assert_eq!(again.identity(), identity);
    assert_eq!(read_all(&again).unwrap(), content());
    let found = again.status().unwrap().unwrap();
    drop(again);
    let removed = remove(&identity, soon());
    assert!(!found.deferred_removal);
    assert_eq!(removed.unwrap(), Removed::Removed);
    wait_until_all_gone();
    assert_eq!(remove(&identity, soon()).unwrap(), Removed::AlreadyGone);

    let tethered = tree.activate();
    tethered.make_permanent().unwrap();
    tethered.tether().unwrap();
    drop(tethered);
    wait_until_all_gone();
}

fn a_mounted_device_names_its_mount_point() {
    let tree = Tree::of(|data| {
        File::create(data).unwrap().set_len(4 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-b", "4096", text(data)]);
    });
    let device = tree.activate();
    device.make_permanent().unwrap();
    let identity = device.identity();
    let path = device.path();
    drop(device);
    let directory = tempfile::tempdir().unwrap();
    run("mount", &["-t", "ext4", "-o", "ro", text(&path), text(directory.path())]);
    let refused = remove(&identity, soon());
    let marked = status(identity.device).unwrap().unwrap().deferred_removal;
    run("umount", &[text(directory.path())]);
    match refused.unwrap_err() {
        RemoveError::InUse { device, holders } => {
            assert_eq!(device, NAME);
            assert_eq!(holders.mount_points, [directory.path()]);
        }
        other => panic!("{other:?}"),
    }
    assert!(!marked, "a refusal changes nothing");
    assert_eq!(remove(&identity, soon()).unwrap(), Removed::Removed);
    wait_until_all_gone();
}

fn an_open_device_goes_with_its_last_user() {
    let tree = Tree::new();
    let device = tree.activate();
    device.make_permanent().unwrap();
    let identity = device.identity();
    // What is on its way is waited for; what somebody reads from goes when they are done.
    for _ in 0..2 {
        let error = remove(&identity, Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert!(matches!(&error, RemoveError::StillOpen { device } if device == NAME), "{error:?}");
    }
    assert!(device.status().unwrap().unwrap().deferred_removal);
    assert_eq!(read_all(&device).unwrap(), content());
    drop(device);
    wait_until_all_gone();
}

fn another_device_is_not_removed() {
    let tree = Tree::new();
    let device = tree.activate();
    let identity = device.identity();
    let others = [
        Identity { disk_sequence: identity.disk_sequence + 1, ..identity.clone() },
        Identity { uuid: "CRYPT-VERITY-other".to_owned(), ..identity.clone() },
        Identity { uuid: String::new(), ..identity.clone() },
    ];
    for other in others {
        let error = remove(&other, soon()).unwrap_err();
        assert!(
            matches!(&error, RemoveError::AnotherDevice { expected, found }
                if *expected == other && *found == identity),
            "{error:?}"
        );
    }
    assert_eq!(device.status().unwrap().unwrap().identity(), Some(identity));
    drop(device);
    wait_until_all_gone();
}

fn what_was_never_activated_is_a_leftover() {
    let tree = Tree::new();
    let uuid = tree.uuid();
    assert_eq!(remove_unfinished(&uuid, soon()).unwrap(), Removed::AlreadyGone);
    // Killed between creation and table.
    run("dmsetup", &["create", NAME, "--notable", "--uuid", &uuid]);
    let found = find_by_uuid(&uuid).unwrap().unwrap();
    assert!(!found.live && found.targets.is_empty() && found.identity().is_none(), "{found:?}");
    assert!(list().unwrap().contains(&found));
    assert_eq!(remove_unfinished(&uuid, soon()).unwrap(), Removed::Removed);
    assert_eq!(find_by_uuid(&uuid).unwrap(), None);
    // Killed between table and activation: the loop devices below are held, and freed.
    let below = tree.attach();
    run("dmsetup", &["create", NAME, "--notable", "--uuid", &uuid]);
    let table = format!("0 {} verity {}", SIZE / 512, tree.table(&below));
    run("dmsetup", &["load", NAME, "--readonly", "--table", &table]);
    drop(below);
    assert!(!find_by_uuid(&uuid).unwrap().unwrap().live);
    assert_eq!(remove_unfinished(&uuid, soon()).unwrap(), Removed::Removed);
    wait_until_all_gone();
    // What is in use is none.
    let device = tree.activate();
    let error = remove_unfinished(&uuid, soon()).unwrap_err();
    assert!(matches!(&error, RemoveError::Live { uuid: live } if *live == uuid), "{error:?}");
    assert_eq!(read_all(&device).unwrap(), content());
    drop(device);
    wait_until_all_gone();
}

fn a_refused_table_leaves_no_device() {
    let tree = Tree::new();
    let below = tree.attach();
    let table = tree.table(&below);
    let beyond = DeviceNumber::new(4094, 1).into();
    for refused in [
        VerityTable { data_device: beyond, ..table.clone() },
        VerityTable { hash_device: beyond, ..table.clone() },
        VerityTable { data_blocks: table.data_blocks * 2, ..table.clone() },
        VerityTable { hash_start: 1 << 40, ..table.clone() },
    ] {
        let error = create(&tree.uuid(), refused).unwrap_err();
        assert!(
            matches!(&error, DeviceMapperError::Ioctl { operation: "loading the table", device, .. }
                if device == NAME),
            "{error:?}"
        );
        assert_eq!(find_by_name(NAME).unwrap(), None);
    }
    // A key that a caller names is not taken over.
    let key = Some(KeyDescription::new("nobody").unwrap());
    let device = create(&tree.uuid(), VerityTable { signature_key: key, ..table.clone() }).unwrap().0;
    assert_eq!(device.status().unwrap().unwrap().verity(), Some(&table));
    drop((device, below));
    wait_until_all_gone();
}

fn who_has_the_name_is_named() {
    let tree = Tree::new();
    let below = tree.attach();
    let table = tree.table(&below);
    run("dmsetup", &["create", NAME, "--notable", "--uuid", "SOMEBODY-1"]);
    let error = create(&tree.uuid(), table.clone()).unwrap_err();
    assert!(
        matches!(&error, DeviceMapperError::NameTaken { name, uuid, .. }
            if name == NAME && uuid == "SOMEBODY-1"),
        "{error:?}"
    );
    assert!(find_by_uuid("SOMEBODY-1").unwrap().is_some(), "it is still there");
    run("dmsetup", &["remove", NAME]);
    run("dmsetup", &["create", "somebody", "--notable", "--uuid", &tree.uuid()]);
    let error = create(&tree.uuid(), table).unwrap_err();
    assert!(matches!(&error, DeviceMapperError::UuidTaken { other, .. } if other == "somebody"), "{error:?}");
    run("dmsetup", &["remove", "somebody"]);
    drop(below);
    wait_until_all_gone();
}

fn a_signature_that_the_kernel_cannot_check_is_reported() {
    let tree = Tree::new();
    let below = tree.attach();
    let (table, uuid) = (tree.table(&below), tree.uuid());
    let request = VerityRequest { name: NAME, uuid: &uuid, table: table.clone() };
    // This kernel has no check (its module has no such parameter): the table is loaded as it is.
    assert!(!fs::exists("/sys/module/dm_verity/parameters/require_signatures").unwrap());
    let (device, signature) = MappedDevice::create_verity(&request, Some(b"signature")).unwrap();
    drop(below);
    assert_eq!(signature, KernelSignature::NotChecked { why: NotChecked::NotSupported });
    assert_eq!(device.status().unwrap().unwrap().verity(), Some(&table));
    assert!(!fs::read_to_string("/proc/keys").unwrap().contains("ddictl"));
    drop(device);
    wait_until_all_gone();
}

fn the_parameters_of_other_targets_are_not_read() {
    run("dmsetup", &["create", NAME, "--table", "0 8 error"]);
    let found = find_by_name(NAME);
    run("dmsetup", &["remove", NAME]);
    let found = found.unwrap().unwrap();
    assert_eq!(found.targets, [MappedTarget::Other { target: "error".to_owned() }]);
    assert_eq!((found.health, found.verity()), (None, None));
    assert_eq!(found.uuid, "");
}

fn a_foreign_name_hides_no_device() {
    let foreign = "gr\u{fc}n";
    let tree = Tree::new();
    let device = tree.activate();
    run("dmsetup", &["create", "--manglename", "none", foreign, "--table", "0 8 error"]);
    let listed = list();
    let found = find_by_name(foreign);
    run("dmsetup", &["remove", "--manglename", "none", foreign]);
    let listed = listed.unwrap();
    let ours = listed.iter().find(|status| status.name == NAME).unwrap();
    assert_eq!(ours.identity(), Some(device.identity()));
    let found = found.unwrap().unwrap();
    assert!(listed.contains(&found) && found.live && found.targets.is_empty(), "{listed:?}");
    drop(device);
    wait_until_all_gone();
}

/// A udev daemon that ends with the test.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        // Its workers end a moment later, and may write until then.
        wait_until("the files of udevd go", || {
            fs::remove_dir_all("/run/udev").is_ok() || !fs::exists("/run/udev").unwrap()
        });
    }
}

fn udev_without_the_rules_of_dmsetup_holds_nothing_up() {
    let rules = Path::new("/run/udev/rules.d");
    fs::create_dir_all(rules).unwrap();
    // An empty file of the same name hides a rule of the system.
    for directory in ["/lib/udev/rules.d", "/usr/lib/udev/rules.d"] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let hidden = rules.join(entry.unwrap().file_name());
            if text(&hidden).contains("dm") && !fs::exists(&hidden).unwrap() {
                symlink("/dev/null", hidden).unwrap();
            }
        }
    }
    let daemon = Command::new(udevd().unwrap()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _daemon = Daemon(daemon);
    wait_until("udevd takes requests", || fs::exists("/run/udev/control").unwrap());
    let started = Instant::now();
    let tree = Tree::new();
    for _ in 0..5 {
        let device = tree.activate();
        assert_eq!(read_all(&device).unwrap(), content());
        device.make_permanent().unwrap();
        let identity = device.identity();
        drop(device);
        assert_eq!(remove(&identity, soon()).unwrap(), Removed::Removed);
        wait_until_all_gone();
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
