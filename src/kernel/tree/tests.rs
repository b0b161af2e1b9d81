use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::format::tar::Timestamp;

use super::*;

const OPTIONS: TreeOptions = TreeOptions { device_nodes: false, privileged: true };

/// A directory `outside` with an empty directory `tree` in it.
struct Place {
    outside: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "precious").unwrap();
        make_root(File::open(outside.path()).unwrap().as_fd(), OsStr::new("tree")).unwrap();
        Self { outside }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.outside.path().join("tree").join(path)
    }

    fn writer(&self, options: TreeOptions) -> TreeWriter {
        TreeWriter::new(File::open(self.path("")).unwrap(), options)
    }

    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.outside.path().join("precious")).unwrap(), b"precious");
        assert_eq!(fs::metadata(self.outside.path().join("precious")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.outside.path()).unwrap().count(), 2);
    }
}

fn member(path: &str, kind: Kind) -> Member {
    let own = fs::metadata("/proc/self").unwrap();
    let (user, group) = (own.uid(), own.gid());
    let modified = Timestamp { seconds: 1_000_000_000, nanoseconds: 5 };
    let attributes = Attributes { mode: 0o750, user, group, modified, ..Attributes::default() };
    Member { path: MemberPath::new(path.as_bytes()).unwrap(), kind, attributes, ignored: Vec::new() }
}

fn link(target: &str) -> Kind {
    Kind::SymbolicLink { target: LinkTarget::new(target.as_bytes()).unwrap() }
}

fn hard(target: &str) -> Kind {
    Kind::HardLink { target: MemberPath::new(target.as_bytes()).unwrap() }
}

fn file(contents: &str) -> (Kind, &str) {
    (Kind::File { size: u64::try_from(contents.len()).unwrap() }, contents)
}

/// Writes members; files have the contents that go with them.
fn write(writer: &mut TreeWriter, members: &[(&str, Kind, &str)]) -> Result<(), TreeError> {
    for (path, kind, contents) in members {
        if let Some(new) = writer.make(member(path, kind.clone()))? {
            new.write_at(contents.as_bytes(), 0)?;
            writer.complete(new)?;
        }
    }
    Ok(())
}

fn entry<'a>(path: &'a str, (kind, contents): (Kind, &'a str)) -> (&'a str, Kind, &'a str) {
    (path, kind, contents)
}

#[test]
fn members_become_what_they_are() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    write(
        &mut writer,
        &[
            ("./", Kind::Directory, ""),
            entry("a/b/file", file("contents")),
            ("a", Kind::Directory, ""),
            ("a/link", link("/nowhere"), ""),
            ("a/again", hard("a/b/file"), ""),
            ("a/linked", hard("a/link"), ""),
            ("a/pipe", Kind::Fifo, ""),
        ],
    )
    .unwrap();
    // Until the end nobody else gets in.
    assert_eq!(fs::metadata(place.path("a")).unwrap().mode() & 0o7777, 0o700);
    assert!(writer.finish().unwrap().is_empty());
    assert_eq!(fs::read(place.path("a/again")).unwrap(), b"contents");
    assert_eq!(fs::metadata(place.path("a/again")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(place.path("a/linked")).unwrap(), Path::new("/nowhere"));
    assert!(fs::metadata(place.path("a/pipe")).unwrap().file_type().is_fifo());
    for (path, mode) in [("", 0o750), ("a", 0o750), ("a/b", 0o755), ("a/b/file", 0o750), ("a/pipe", 0o750)] {
        assert_eq!(fs::metadata(place.path(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
    for path in ["", "a", "a/b/file", "a/link", "a/pipe"] {
        let metadata = fs::symlink_metadata(place.path(path)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 5), "{path}");
    }
    place.assert_untouched();
}

#[test]
fn nothing_is_written_through_a_link() {
    for target in ["..", "/", ".", "b", "../tree"] {
        let place = Place::new();
        let mut writer = place.writer(OPTIONS);
        write(&mut writer, &[("b", Kind::Directory, ""), ("a", link(target), "")]).unwrap();
        for members in [
            [entry("a/precious", file("mine"))],
            [("a/d", Kind::Directory, "")],
            [("a/b/c", Kind::Fifo, "")],
            [("c", hard("a/precious"), "")],
            [("a/l", link("x"), "")],
        ] {
            let error = write(&mut writer, &members).unwrap_err();
            assert!(
                matches!(&error, TreeError::ThroughLink { link, .. } if link == "a"),
                "{target}: {error}"
            );
            assert!(error.is_about_the_archive());
        }
        place.assert_untouched();
        assert_eq!(fs::read_dir(place.path("b")).unwrap().count(), 0);
    }
}

#[test]
fn a_directory_that_becomes_a_link_is_not_written_through() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    write(&mut writer, &[("a", Kind::Directory, ""), ("a", link(".."), "")]).unwrap();
    let error = write(&mut writer, &[entry("a/precious", file("mine"))]).unwrap_err();
    assert!(matches!(error, TreeError::ThroughLink { .. }), "{error}");
    place.assert_untouched();
    // The directory is open as the last member's, and has something in it: then it stays.
    write(&mut writer, &[entry("d/x", file("x"))]).unwrap();
    let error = write(&mut writer, &[("d", link(".."), "")]).unwrap_err();
    assert!(matches!(&error, TreeError::Occupied { path } if path == "d"), "{error}");
    // Emptied, it goes, and is made anew for what comes then.
    write(&mut writer, &[("e/x", Kind::Directory, ""), ("e/x", link("y"), "")]).unwrap();
    let error = write(&mut writer, &[entry("e/x/z", file("z"))]).unwrap_err();
    assert!(matches!(error, TreeError::ThroughLink { .. }), "{error}");
    writer.finish().unwrap();
    place.assert_untouched();
}

#[test]
fn a_later_member_takes_the_place_of_an_earlier_one() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    symlink("../precious", place.path("a")).unwrap();
    write(&mut writer, &[entry("a", file("first")), ("b", hard("a"), ""), entry("a", file("2"))]).unwrap();
    write(&mut writer, &[("a", hard("b"), ""), ("c", Kind::Fifo, ""), ("c", Kind::Directory, "")]).unwrap();
    write(&mut writer, &[("c", Kind::Directory, ""), entry("c/x", file("x")), ("c", Kind::Directory, "")])
        .unwrap();
    write(&mut writer, &[("d", Kind::Directory, ""), entry("d", file("d"))]).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(place.path("a")).unwrap(), b"first");
    assert_eq!(fs::read(place.path("c/x")).unwrap(), b"x");
    assert_eq!(fs::read(place.path("d")).unwrap(), b"d");
    place.assert_untouched();
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    write(&mut writer, &[entry("file", file("x")), ("d", Kind::Directory, ""), ("pipe", Kind::Fifo, "")])
        .unwrap();
    for above in ["file", "pipe"] {
        let path = format!("{above}/below");
        let error = write(&mut writer, &[entry(&path, file("x"))]).unwrap_err();
        assert!(matches!(&error, TreeError::NoDirectory { above: found, .. } if found == above), "{error}");
    }
    for target in ["absent", "d/absent", "absent/x", "new"] {
        let error = write(&mut writer, &[("new", hard(target), "")]).unwrap_err();
        assert!(matches!(error, TreeError::LinkToNothing { .. }), "{target}: {error}");
    }
    let error = write(&mut writer, &[("file", hard("file"), "")]).unwrap_err();
    assert!(matches!(error, TreeError::LinkToNothing { .. }), "{error}");
    for target in ["d", "./"] {
        let error = write(&mut writer, &[("new", hard(target), "")]).unwrap_err();
        assert!(matches!(error, TreeError::LinkToDirectory { .. }), "{target}: {error}");
    }
    for kind in [Kind::CharacterDevice { major: 1, minor: 3 }, Kind::BlockDevice { major: 7, minor: 0 }] {
        let error = write(&mut writer, &[("device", kind, "")]).unwrap_err();
        assert!(matches!(error, TreeError::DeviceNode { .. }), "{error}");
        assert!(error.to_string().contains("--device-nodes"));
    }
    assert!(fs::symlink_metadata(place.path("new")).is_err());
    assert!(fs::symlink_metadata(place.path("device")).is_err());
}

#[test]
fn rights_are_not_lent_where_everybody_gets_at_them() {
    let place = Place::new();
    let mut writer = place.writer(TreeOptions { device_nodes: true, privileged: false });
    let mut refused = |kind: Kind, mode: u32, attribute: Option<&[u8]>| {
        let mut member = member("x", kind);
        member.attributes.mode = mode;
        member.attributes.extended.extend(attribute.map(|name| (name.to_vec(), b"value".to_vec())));
        match writer.make(member) {
            Err(error) => {
                assert!(matches!(error, TreeError::Privileged { .. }), "{error}");
                true
            }
            Ok(_) => false,
        }
    };
    let size = 0;
    assert!(refused(Kind::File { size }, 0o4755, None));
    assert!(refused(Kind::File { size }, 0o2755, None));
    assert!(refused(Kind::File { size }, 0o755, Some(b"security.capability")));
    assert!(refused(Kind::CharacterDevice { major: 1, minor: 3 }, 0o666, None));
    assert!(!refused(Kind::File { size }, 0o1755, None));
    assert!(!refused(Kind::Directory, 0o2755, None));
}

#[test]
fn set_user_id_is_kept_and_a_directory_may_forbid_its_owner() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    let mut closed = member("closed", Kind::Directory);
    closed.attributes.mode = 0o2000;
    writer.make(closed).unwrap();
    let mut program = member("closed/program", Kind::File { size: 4096 });
    program.attributes.mode = 0o6711;
    let new = writer.make(program).unwrap().unwrap();
    new.write_at(b"x", 4095).unwrap();
    writer.complete(new).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::metadata(place.path("closed")).unwrap().mode() & 0o7777, 0o2000);
    // Whoever runs this without privileges cannot look any further.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let metadata = fs::metadata(place.path("closed/program")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.len()), (0o6711, 4096));
    }
    fs::set_permissions(place.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn holes_stay_holes_up_to_the_end() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    let new = writer.make(member("sparse", Kind::File { size: 64 << 20 })).unwrap().unwrap();
    new.write_at(b"x", 32 << 20).unwrap();
    writer.complete(new).unwrap();
    let metadata = fs::metadata(place.path("sparse")).unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() < 64, "{}", metadata.blocks());
}

#[test]
fn what_is_kept_of_directories_is_bounded() {
    let place = Place::new();
    let mut writer = place.writer(OPTIONS);
    let mut large = member("d", Kind::Directory);
    large.attributes.extended = (0..16).map(|number| (vec![number], vec![0; 1 << 16])).collect();
    let mut made = 0;
    let error = loop {
        match writer.make(large.clone()) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made <= 64);
    };
    assert!(matches!(error, TreeError::TooManyDirectories), "{error}");
    assert_eq!(made, 63);
}

#[test]
fn a_tree_goes_with_everything_in_it_and_with_nothing_else() {
    let place = Place::new();
    let mut deep = place.path("");
    // Deeper than any path can be opened at once.
    let name = "n".repeat(200);
    let mut handle = File::open(&deep).unwrap();
    for _ in 0..40 {
        mkdirat(&handle, name.as_str(), Mode::S_IRWXU).unwrap();
        handle = open_directory(handle.as_fd(), OsStr::new(&name)).unwrap();
        deep.push(&name);
    }
    assert!(deep.as_os_str().len() > 4096);
    fs::create_dir_all(place.path("a/b/c")).unwrap();
    for number in 0..5000 {
        fs::write(place.path(&format!("a/b/{number}")), "").unwrap();
    }
    fs::create_dir_all(place.path(".removed-1/x")).unwrap();
    symlink(place.outside.path(), place.path("a/link")).unwrap();
    symlink("/", place.path("root")).unwrap();
    let outside = File::open(place.outside.path()).unwrap();
    remove_tree(outside.as_fd(), OsStr::new("tree")).unwrap();
    assert_eq!(fs::read_dir(place.outside.path()).unwrap().count(), 1);
    remove_tree(outside.as_fd(), OsStr::new("tree")).unwrap();
    for other in ["precious", "link"] {
        let _ = symlink("/", place.outside.path().join("link"));
        assert!(matches!(
            remove_tree(outside.as_fd(), OsStr::new(other)),
            Err(TreeError::System { doing: "opening", .. })
        ));
    }
    assert!(place.outside.path().join("precious").is_file());
}

#[test]
fn a_tree_that_a_process_works_in_is_in_use() {
    let place = Place::new();
    fs::create_dir(place.path("a")).unwrap();
    let tree = File::open(place.path("")).unwrap();
    refuse_in_use(&tree).unwrap();
    for directory in ["", "a"] {
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(place.path(directory)).spawn().unwrap();
        let error = refuse_in_use(&tree).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(&error, TreeError::InUse { user, .. } if user.contains("(sleep)")), "{error}");
    }
    refuse_in_use(&tree).unwrap();
}

#[test]
fn a_tree_appears_under_a_free_name_alone() {
    let place = Place::new();
    let outside = File::open(place.outside.path()).unwrap();
    let (tree, new) = (OsStr::new("tree"), OsStr::new("new"));
    let error = rename_tree((outside.as_fd(), tree), (outside.as_fd(), OsStr::new("precious"))).unwrap_err();
    assert!(
        matches!(&error, TreeError::System { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    );
    rename_tree((outside.as_fd(), tree), (outside.as_fd(), new)).unwrap();
    assert!(open_directory(outside.as_fd(), new).is_ok() && open_directory(outside.as_fd(), tree).is_err());
}

#[test]
fn a_file_is_found_as_within_the_tree() {
    let place = Place::new();
    fs::create_dir_all(place.path("usr/lib")).unwrap();
    fs::create_dir(place.path("etc")).unwrap();
    fs::write(place.path("usr/lib/os-release"), "ID=x").unwrap();
    symlink("/usr/lib/os-release", place.path("etc/os-release")).unwrap();
    symlink("/etc/../../precious", place.path("escape")).unwrap();
    let root = File::open(place.path("")).unwrap();
    assert!(has_file(root.as_fd(), "etc/os-release") && has_file(root.as_fd(), "/usr/lib/os-release"));
    for path in ["escape", "etc", "absent", "../precious"] {
        assert!(!has_file(root.as_fd(), path), "{path}");
    }
}
