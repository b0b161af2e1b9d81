//! The images that every reader of images is shown: those without a fault, of every kind; and for every refusal that an
//! image alone brings about the image before, what is done to it, and what is then said of it.

#![allow(dead_code, reason = "every test binary uses another part of this")]
#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::sync::OnceLock;

use ddictl::format::designator::Designator;
use ddictl::format::root_hash::HashAlgorithm;
use ddictl::image::finding::Rule;

use crate::ddi_builder::{
    Ddi, GROWFS, NO_AUTO, Part, Protected, READ_ONLY, edit_json, fixture, luks2, overlaid,
    signature_partition, squashfs, vfat,
};
use crate::gpt_builder::{BuiltImage, Which, put_u32, put_u64};
use crate::keys::{CertificateOptions, KeyKind, Pair};

/// The key that every test trusts.
pub(crate) fn trusted() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| Pair::new(KeyKind::P256, &CertificateOptions::named("trusted")))
}

/// A key that nobody trusts.
pub(crate) fn stranger() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| Pair::new(KeyKind::P256, &CertificateOptions::named("stranger")))
}

/// A signed root.
pub(crate) fn root() -> Protected {
    Protected::root(squashfs()).signed_by(trusted())
}

/// A signed root alone.
pub(crate) fn rooted() -> Ddi {
    Ddi::new().protected(&root())
}

/// A signed root and an ESP.
pub(crate) fn sealed() -> Ddi {
    Ddi::signed(trusted())
}

/// A signed root, and a home partition with that in it.
pub(crate) fn homely(content: Vec<u8>) -> Ddi {
    rooted().with(Designator::Home, "home", content)
}

/// The same with a squashfs.
pub(crate) fn home_squashfs() -> Ddi {
    homely(squashfs())
}

/// Images without a fault, of every kind.
pub(crate) fn sound_images() -> Vec<(&'static str, Vec<u8>)> {
    let root = || Protected::root(squashfs());
    let ext4 = || fixture("ext4", 16 << 20);
    let growing = |part: &mut Part| part.attributes |= GROWFS;
    vec![
        ("signed root and ESP", Ddi::signed(trusted()).bytes()),
        ("signed by a stranger", Ddi::signed(stranger()).bytes()),
        ("signed root", Ddi::new().protected(&root().signed_by(trusted())).bytes()),
        ("root under verity", Ddi::new().protected(&root()).bytes()),
        (
            "signed root and usr",
            Ddi::new()
                .protected(&root().signed_by(trusted()))
                .protected(&Protected::usr(fixture("erofs-lz4", 8192)).signed_by(trusted()))
                .bytes(),
        ),
        (
            "signed root and encrypted home",
            Ddi::new()
                .protected(&root().signed_by(trusted()))
                .with(Designator::Home, "home", luks2(|_| {}))
                .bytes(),
        ),
        ("plain root", Ddi::new().with(Designator::Root, "root", ext4()).bytes()),
        (
            "plain root that grows",
            Ddi::new().with(Designator::Root, "root", ext4()).edit("root", growing).bytes(),
        ),
        ("ESP alone", Ddi::new().with(Designator::Esp, "esp", vfat()).bytes()),
        (
            "plain home and swap",
            Ddi::new()
                .with(Designator::Home, "home", ext4())
                .with(Designator::Swap, "swap", fixture("swap", 1 << 20))
                .bytes(),
        ),
        ("no table", squashfs()),
    ]
}

/// Policies that use nothing but what is signed.
pub(crate) const SIGNED: &[&str] = &["@verified-boot", "@verified-extension", "root=signed:=unused+absent"];
/// The same, and policies that use whatever there is.
const ANY: &[&str] = &["*", "@verified-boot", "root=verity+signed:=unused+absent"];
/// Policies that use the ESP.
const WITH_ESP: &[&str] = &["*", "root=signed:esp=unprotected:=unused+absent"];
/// Policies that use the home partition whatever its state.
const WITH_HOME: &[&str] = &["*", "home=unprotected+encrypted:=unused+absent"];

/// One refusal.
pub(crate) struct Row {
    /// What is done to the image.
    pub(crate) what: &'static str,
    /// The image before.
    pub(crate) base: fn() -> Ddi,
    /// The image after.
    pub(crate) done: fn(Ddi) -> Vec<u8>,
    /// Why it is refused.
    pub(crate) rule: Rule,
    /// Words of the message: what was expected or found.
    pub(crate) words: &'static str,
    /// Policies that refuse the image then, and accepted it before. A malformed image is refused under these as well.
    pub(crate) under: &'static [&'static str],
    /// Policies that accept the image even so, because they do not use the partition; empty where it is malformed.
    pub(crate) fine_under: &'static [&'static str],
}

impl Row {
    /// The image after.
    pub(crate) fn refused(&self) -> Vec<u8> {
        (self.done)((self.base)())
    }
}

fn home_luks1() -> Ddi {
    homely(fixture("luks1", 4 << 20))
}

/// The same with LUKS2.
pub(crate) fn home_luks2() -> Ddi {
    homely(luks2(|_| {}))
}

/// Changes the entry of the last partition in both copies of the table.
fn entry(ddi: &Ddi, edit: impl Fn(&mut [u8])) -> Vec<u8> {
    let image = ddi.build();
    let last = image.partitions.len();
    image.edit_both(last, edit).bytes
}

fn superblock(ddi: Ddi, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    ddi.edit("root-verity", |part| edit(&mut part.content)).bytes()
}

fn json(ddi: Ddi, edit: impl FnOnce(String) -> String) -> Vec<u8> {
    ddi.edit("root-verity-sig", |part| edit_json(&mut part.content, edit)).bytes()
}

fn table_row(what: &'static str, rule: Rule, words: &'static str, done: fn(Ddi) -> Vec<u8>) -> Row {
    Row { what, base: rooted, done, rule, words, under: ANY, fine_under: &[] }
}

fn tables() -> Vec<Row> {
    vec![
        table_row("nothing but zeros", Rule::NothingRecognised, "nothing that is known", |_| {
            vec![0; 1 << 20]
        }),
        table_row("an MBR in place of the GPT", Rule::MbrTable, "a GUID partition table", |ddi| {
            let mut image = without_table(ddi.build());
            image[450] = 0x83;
            image
        }),
        table_row("both checksums wrong", Rule::TableInvalid, "at least one copy is valid", |ddi| {
            let spoil = |header: &mut [u8]| header[16] ^= 1;
            ddi.build().edit_header(Which::Primary, spoil).edit_header(Which::Backup, spoil).bytes
        }),
        table_row("both entry checksums wrong", Rule::TableInvalid, "at least one copy is valid", |ddi| {
            let spoil = |entry: &mut [u8]| entry[56] ^= 1;
            ddi.build().edit_entry(Which::Primary, 1, spoil).edit_entry(Which::Backup, 1, spoil).bytes
        }),
        table_row("no protective MBR", Rule::TableInvalid, "GUID partition table", |ddi| {
            let mut image = ddi.bytes();
            image[446..512].fill(0);
            image
        }),
        table_row("another label in the backup", Rule::TableCopiesDiffer, "two copies that agree", |ddi| {
            ddi.build().edit_entry(Which::Backup, 1, |entry| entry[56] ^= 1).repaired().bytes
        }),
        table_row("another start in the backup", Rule::TableCopiesDiffer, "two copies that agree", |ddi| {
            ddi.build().edit_entry(Which::Backup, 1, |entry| put_u64(entry, 32, 90)).repaired().bytes
        }),
        table_row("a table for 4096-byte sectors too", Rule::SeveralSectorSizes, "one table", |ddi| {
            let small = ddi.build().bytes;
            let mut bytes = ddi.sector_size(4096).bytes();
            bytes.extend_from_slice(&small);
            let last = u64::try_from(bytes.len() / 512 - 1).unwrap();
            let both = BuiltImage { bytes, sector_size: 512, partitions: Vec::new() };
            let both = both.edit_header(Which::Backup, |header| {
                put_u64(header, 24, last);
                put_u64(header, 72, last - 32);
                put_u64(header, 48, last - 33);
            });
            both.repaired().bytes
        }),
        table_row("the last before the first block", Rule::PartitionReversed, "first block", |ddi| {
            entry(&ddi, |entry| put_u64(entry, 40, 1))
        }),
        table_row("an end behind the image", Rule::PartitionOutOfRange, "usable blocks", |ddi| {
            entry(&ddi, |entry| put_u64(entry, 40, 1 << 40))
        }),
        table_row("a start on the table", Rule::PartitionOutOfRange, "usable blocks", |ddi| {
            entry(&ddi, |entry| put_u64(entry, 32, 2))
        }),
        table_row("a start in the partition before", Rule::PartitionsOverlap, "apart", |ddi| {
            let image = ddi.build();
            let before = image.partitions[image.partitions.len() - 2].offset / 512;
            let last = image.partitions.len();
            image.edit_both(last, |entry| put_u64(entry, 32, before)).bytes
        }),
        table_row("two partitions of one UUID", Rule::DuplicatePartitionUuid, "UUID of its own", |ddi| {
            let uuid = ddi.get("root").uuid;
            ddi.edit("root-verity-sig", |part| part.uuid = uuid).bytes()
        }),
        table_row("a partition with a zero UUID", Rule::ZeroPartitionUuid, "a UUID", |ddi| {
            ddi.edit("root-verity-sig", |part| part.uuid = 0).bytes()
        }),
        table_row("more than 128 partitions", Rule::TooManyPartitions, "129 partitions", |ddi| {
            let more = |ddi: Ddi, _| ddi.with_type("other", 0x1234, "", vec![1]);
            (3..129).fold(ddi.entry_count(256), more).bytes()
        }),
        table_row("a partition in the MBR, too", Rule::HybridMbr, "a protective MBR", |ddi| {
            let mut image = ddi.bytes();
            image[466] = 0x0c;
            image
        }),
        table_row("a squashfs in front of the table", Rule::SuperblockBeforeTable, "squashfs", |ddi| {
            let mut image = ddi.bytes();
            image[..96].copy_from_slice(&squashfs()[..96]);
            image
        }),
        table_row("an ext4 in front of the table", Rule::SuperblockBeforeTable, "ext4", |ddi| {
            // At byte 1024 the table's entries begin, so it is one with room for sectors of 4096 bytes.
            let mut image = ddi.sector_size(4096).bytes();
            image[1024..2048].copy_from_slice(&fixture("ext4", 2048)[1024..]);
            image
        }),
        table_row("a LUKS header in front of the table", Rule::SuperblockBeforeTable, "LUKS", |ddi| {
            let mut image = ddi.bytes();
            image[..440].copy_from_slice(&fixture("luks1", 440));
            image
        }),
    ]
}

/// An image of which both headers are gone.
fn without_table(image: BuiltImage) -> Vec<u8> {
    let zero = |header: &mut [u8]| header.fill(0);
    image.edit_header(Which::Primary, zero).edit_header(Which::Backup, zero).bytes
}

fn home_row(
    what: &'static str,
    base: fn() -> Ddi,
    rule: Rule,
    words: &'static str,
    done: fn(Ddi) -> Vec<u8>,
) -> Row {
    Row { what, base, done, rule, words, under: WITH_HOME, fine_under: SIGNED }
}

fn esp_row(what: &'static str, words: &'static str, done: fn(Ddi) -> Vec<u8>) -> Row {
    let (rule, under, fine_under) = (Rule::EspNotVfat, WITH_ESP, SIGNED);
    Row { what, base: sealed, done, rule, words, under, fine_under }
}

/// Changes the metadata of the encrypted home partition.
fn luks(ddi: Ddi, edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    ddi.edit("home", |part| part.content = luks2(edit)).bytes()
}

fn contents() -> Vec<Row> {
    vec![
        home_row("two file systems", home_squashfs, Rule::SeveralSuperblocks, "squashfs and ext4", |ddi| {
            ddi.edit("home", |part| part.content = overlaid(squashfs(), "ext4")).bytes()
        }),
        home_row("LVM beside the file system", home_squashfs, Rule::SeveralSuperblocks, "LVM", |ddi| {
            ddi.edit("home", |part| part.content = overlaid(squashfs(), "lvm2")).bytes()
        }),
        home_row(
            "a file system cut off",
            home_squashfs,
            Rule::FileSystemLargerThanPartition,
            "ext4",
            |ddi| ddi.edit("home", |part| part.content = fixture("ext4", 1 << 20)).bytes(),
        ),
        home_row("a flipped bit in its superblock", home_squashfs, Rule::SuperblockChecksum, "fits", |ddi| {
            let spoil = |part: &mut Part| {
                part.content = fixture("ext4", 16 << 20);
                part.content[1024 + 0x78] ^= 1;
            };
            ddi.edit("home", spoil).bytes()
        }),
        esp_row("an ext4 in the ESP", "ext4", |ddi| {
            ddi.edit("esp", |part| part.content = fixture("ext4", 16 << 20)).bytes()
        }),
        esp_row("a vfat and an ext4 in the ESP", "vfat and nothing else", |ddi| {
            ddi.edit("esp", |part| part.content = overlaid(vfat(), "ext4")).bytes()
        }),
        esp_row("nothing in the ESP", "expected vfat", |ddi| {
            ddi.edit("esp", |part| part.content.fill(0)).bytes()
        }),
        esp_row("an ESP without a boot signature", "55 aa", |ddi| {
            ddi.edit("esp", |part| part.content[511] = 0).bytes()
        }),
        esp_row("an ESP with clusters of three sectors", "power of two of sectors", |ddi| {
            ddi.edit("esp", |part| part.content[13] = 3).bytes()
        }),
        esp_row("an ESP that claims more than it has", "1 to 1048576 bytes", |ddi| {
            ddi.edit("esp", |part| part.content.truncate(1 << 20)).bytes()
        }),
        Row {
            what: "an ext4 in XBOOTLDR",
            base: || rooted().with(Designator::Xbootldr, "boot", vfat()),
            done: |ddi| ddi.edit("xbootldr", |part| part.content = fixture("ext4", 16 << 20)).bytes(),
            rule: Rule::EspNotVfat,
            words: "ext4",
            under: &["*", "root=signed:xbootldr=unprotected:=unused+absent"],
            fine_under: SIGNED,
        },
    ]
}

fn encryption() -> Vec<Row> {
    use serde_json::json;
    let row = |what, rule, words, done| home_row(what, home_luks2, rule, words, done);
    vec![
        row("a null cipher", Rule::LuksNullCipher, "in every segment", |ddi| {
            luks(ddi, |value| value["segments"]["0"]["encryption"] = json!("cipher_null-ecb"))
        }),
        row("a segment in the clear", Rule::LuksNullCipher, "in every segment", |ddi| {
            let clear = json!({ "type": "linear", "offset": "16777216", "size": "dynamic" });
            luks(ddi, |value| value["segments"]["1"] = clear)
        }),
        row("a null cipher for the key", Rule::LuksNullCipher, "key slot 0", |ddi| {
            luks(ddi, |value| value["keyslots"]["0"]["area"]["encryption"] = json!("cipher_null-ecb"))
        }),
        row("a plug-in token", Rule::LuksExternalToken, "token 'systemd-tpm2'", |ddi| {
            let token = json!({ "type": "systemd-tpm2", "keyslots": ["0"] });
            luks(ddi, |value| value["tokens"]["0"] = token)
        }),
        row("an absurd Argon2 memory", Rule::LuksMemory, "4294967295 KiB", |ddi| {
            luks(ddi, |value| value["keyslots"]["0"]["kdf"]["memory"] = json!(u32::MAX))
        }),
        row("no segments at all", Rule::LuksInvalid, "segments", |ddi| {
            luks(ddi, |value| value["segments"] = json!(null))
        }),
        home_row("LUKS version 3", home_luks1, Rule::LuksInvalid, "version 1 or 2, found 3", |ddi| {
            ddi.edit("home", |part| part.content[7] = 3).bytes()
        }),
        row("a wrong LUKS2 checksum", Rule::LuksInvalid, "checksum", |ddi| {
            ddi.edit("home", |part| part.content[450] ^= 1).bytes()
        }),
        row("two LUKS2 copies that differ", Rule::LuksInvalid, "the same as the first", |ddi| {
            ddi.edit("home", |part| part.content[16384 + 4096 + 10] ^= 1).bytes()
        }),
        row("a damaged second LUKS2 copy", Rule::LuksInvalid, "another checksum", |ddi| {
            ddi.edit("home", |part| part.content[16384 + 450] ^= 1).bytes()
        }),
        row("a second LUKS2 copy alone", Rule::LuksInvalid, "second copy at byte 16384", |ddi| {
            ddi.edit("home", |part| part.content[..6].fill(0)).bytes()
        }),
        row("a reencryption that was not finished", Rule::LuksUnsupported, "online-reencrypt", |ddi| {
            luks(ddi, |value| {
                value["config"]["requirements"] = json!({ "mandatory": ["online-reencrypt-v2"] })
            })
        }),
        row("two LUKS segments", Rule::LuksUnsupported, "2 segments", |ddi| {
            luks(ddi, |value| value["segments"]["1"] = value["segments"]["0"].clone())
        }),
        row("absurd iterations", Rule::LuksMemory, "4294967295 iterations", |ddi| {
            luks(ddi, |value| value["digests"]["0"]["iterations"] = json!(u32::MAX))
        }),
        home_row("a null cipher in LUKS1", home_luks1, Rule::LuksNullCipher, "cipher_null", |ddi| {
            let cipher = b"cipher_null\0";
            ddi.edit("home", |part| part.content[8..][..cipher.len()].copy_from_slice(cipher)).bytes()
        }),
    ]
}

fn verity_row(what: &'static str, rule: Rule, words: &'static str, done: fn(Ddi) -> Vec<u8>) -> Row {
    Row { what, base: rooted, done, rule, words, under: ANY, fine_under: &["-"] }
}

fn trees() -> Vec<Row> {
    use Rule::VeritySuperblockInvalid as Invalid;
    vec![
        verity_row("verity version 2", Invalid, "found 2", |ddi| superblock(ddi, |s| s[8] = 2)),
        verity_row("verity type 0", Invalid, "found 0", |ddi| superblock(ddi, |s| s[12] = 0)),
        verity_row("sha1", Invalid, "sha1", |ddi| {
            superblock(ddi, |s| s[32..38].copy_from_slice(b"sha1\0\0"))
        }),
        verity_row("crc32", Invalid, "crc32", |ddi| {
            superblock(ddi, |s| s[32..38].copy_from_slice(b"crc32\0"))
        }),
        verity_row("data blocks of 256 bytes", Invalid, "found 256", |ddi| {
            superblock(ddi, |s| put_u32(s, 64, 256))
        }),
        verity_row("data blocks of 3000 bytes", Invalid, "found 3000", |ddi| {
            superblock(ddi, |s| put_u32(s, 64, 3000))
        }),
        verity_row("hash blocks of 8192 bytes", Invalid, "found 8192", |ddi| {
            superblock(ddi, |s| put_u32(s, 68, 8192))
        }),
        verity_row("a salt of 257 bytes", Invalid, "257", |ddi| superblock(ddi, |s| put_u32(s, 80, 257))),
        verity_row("no data blocks", Invalid, "data block", |ddi| superblock(ddi, |s| put_u64(s, 72, 0))),
        verity_row("a hash partition of zeros", Invalid, "magic", |ddi| superblock(ddi, |s| s.fill(0))),
        verity_row("a tree cut off", Rule::HashTreeOutside, "4096 bytes", |ddi| {
            ddi.edit("root-verity", |part| part.content.truncate(4096)).bytes()
        }),
        verity_row("more data blocks than data", Rule::DataBlocksOutside, "36864 hashed bytes", |ddi| {
            superblock(ddi, |s| put_u64(s, 72, 9))
        }),
        verity_row("data blocks without end", Rule::HashTreeOutside, "possible size", |ddi| {
            superblock(ddi, |s| put_u64(s, 72, u64::MAX))
        }),
        verity_row("another data UUID", Rule::DataUuidMismatch, "expected UUID", |ddi| {
            ddi.edit("root", |part| part.uuid ^= 1).bytes()
        }),
        verity_row("another hash UUID", Rule::HashUuidMismatch, "expected UUID", |ddi| {
            ddi.edit("root-verity", |part| part.uuid ^= 1).bytes()
        }),
        verity_row("a signature without its tree", Rule::SignatureWithoutHash, "found none", |ddi| {
            ddi.without("root-verity").bytes()
        }),
        verity_row("sha512 for a root hash of 32 bytes", Rule::DigestLengthMismatch, "32 bytes", |ddi| {
            superblock(ddi, |s| s[32..38].copy_from_slice(b"sha512"))
        }),
        verity_row("a tree over half a file system", Rule::FileSystemLargerThanHashedArea, "erofs", |_| {
            let half = fixture("erofs-lz4", 4096);
            let ddi = Ddi::new().protected(&Protected::root(half).signed_by(trusted()));
            ddi.edit("root", |part| part.content = fixture("erofs-lz4", 8192)).bytes()
        }),
        verity_row("a tree over no file system", Rule::HashedAreaWithoutFileSystem, "nothing that", |_| {
            Ddi::new().protected(&Protected::root(vec![0; 32768]).signed_by(trusted())).bytes()
        }),
        verity_row("a tree over LVM", Rule::HashedAreaWithoutFileSystem, "LVM", |_| {
            Ddi::new().protected(&Protected::root(fixture("lvm2", 32768)).signed_by(trusted())).bytes()
        }),
        verity_row("a tree over two file systems", Rule::SeveralSuperblocks, "squashfs and ext4", |_| {
            let data = overlaid(squashfs(), "ext4");
            Ddi::new().protected(&Protected::root(data).signed_by(trusted())).bytes()
        }),
        Row {
            base: || rooted().sector_size(4096),
            ..verity_row("blocks smaller than sectors", Rule::BlockSmallerThanSector, "at least 4096", |_| {
                Ddi::new().sector_size(4096).protected(&root().block_size(512)).bytes()
            })
        },
        Row {
            under: &["*", "@verified-boot", "root=signed+absent:=unused+absent"],
            ..verity_row("companions without data", Rule::HashWithoutData, "a root partition", |ddi| {
                ddi.without("root").bytes()
            })
        },
        Row {
            base: || Ddi::new().protected(&root().algorithm(HashAlgorithm::Sha512)),
            ..verity_row("a sha512 tree without signature", Rule::RootHashUnknown, "64 bytes", |ddi| {
                ddi.without("root-verity-sig").bytes()
            })
        },
    ]
}

fn signatures() -> Vec<Row> {
    use Rule::SignaturePartitionInvalid as Invalid;
    vec![
        verity_row("a signature partition of zeros", Invalid, "a JSON object, found nothing", |ddi| {
            ddi.edit("root-verity-sig", |part| part.content.fill(0)).bytes()
        }),
        verity_row("bytes behind the NULs", Invalid, "NUL bytes to the end", |ddi| {
            ddi.edit("root-verity-sig", |part| part.content[9000] = b'x').bytes()
        }),
        verity_row("an array in place of the object", Invalid, "exactly one JSON object", |ddi| {
            json(ddi, |text| format!("[{text}]"))
        }),
        verity_row("two objects", Invalid, "exactly one JSON object", |ddi| {
            json(ddi, |text| format!("{text}{text}"))
        }),
        verity_row("a truncated object", Invalid, "exactly one JSON object", |ddi| {
            json(ddi, |text| text[..text.len() - 1].to_owned())
        }),
        verity_row("a root hash given twice", Invalid, "each key once", |ddi| {
            json(ddi, |text| text.replacen('{', "{\"rootHash\":\"00\",", 1))
        }),
        verity_row("an upper-case root hash", Invalid, "rootHash", |ddi| {
            let upper = root().root_hash().to_string();
            json(ddi, |text| text.replace(&upper, &upper.to_uppercase()))
        }),
        verity_row("no signature", Invalid, "'signature'", |ddi| {
            json(ddi, |text| text.replace("\"signature\"", "\"other\""))
        }),
        verity_row("a fingerprint that is none", Invalid, "certificateFingerprint", |ddi| {
            let fingerprint = data_encoding::HEXLOWER.encode(&trusted().fingerprint());
            json(ddi, |text| text.replace(&fingerprint, "abc"))
        }),
        verity_row("another's signature", Rule::SignatureOfAnother, "root hash", |ddi| {
            let other = Protected::root(fixture("erofs-lz4", 8192));
            ddi.edit("root-verity-sig", |part| part.content = other.signature_partition(trusted())).bytes()
        }),
        verity_row("another's fingerprint", Rule::FingerprintMismatch, "fingerprint", |ddi| {
            let protected = root();
            let content = signature_partition(
                &protected.root_hash(),
                &protected.signature(trusted()),
                Some(stranger().fingerprint()),
            );
            ddi.edit("root-verity-sig", |part| part.content = content).bytes()
        }),
    ]
}

fn policies() -> Vec<Row> {
    let row = |what, rule, words, under, done: fn(Ddi) -> Vec<u8>| Row {
        what,
        base: rooted,
        done,
        rule,
        words,
        under,
        fine_under: &["*"],
    };
    vec![
        row("the signature taken away", Rule::PolicyState, "found root: verity", SIGNED, |ddi| {
            ddi.without("root-verity-sig").bytes()
        }),
        row("signature and tree taken away", Rule::PolicyState, "found root: unprotected", SIGNED, |ddi| {
            ddi.without("root-verity-sig").without("root-verity").bytes()
        }),
        row("another's key", Rule::PolicyState, "untrusted signer", SIGNED, |_| {
            Ddi::signed(stranger()).bytes()
        }),
        row("a signature of zeros", Rule::PolicyState, "invalid signature", SIGNED, |ddi| {
            let zeros = signature_partition(&root().root_hash(), &[0; 256], Some(trusted().fingerprint()));
            ddi.edit("root-verity-sig", |part| part.content = zeros).bytes()
        }),
        row("another's signature under this root hash", Rule::PolicyState, "signature", SIGNED, |ddi| {
            let der = Protected::root(fixture("erofs-lz4", 8192)).signature(trusted());
            let transplanted = signature_partition(&root().root_hash(), &der, Some(trusted().fingerprint()));
            ddi.edit("root-verity-sig", |part| part.content = transplanted).bytes()
        }),
        row(
            "the root taken away",
            Rule::PolicyAbsent,
            "found root: absent",
            &["root=signed:=unused+absent"],
            |_| Ddi::new().with(Designator::Home, "home", squashfs()).bytes(),
        ),
        row(
            "root and usr taken away",
            Rule::NoRootOrUsr,
            "a signed root or usr",
            &["@verified-boot"],
            |_| Ddi::new().with(Designator::Home, "home", squashfs()).bytes(),
        ),
        row("the root marked no-auto", Rule::NoRootOrUsr, "neither", &["@verified-boot"], |ddi| {
            let hide = |part: &mut Part| part.attributes |= NO_AUTO;
            ddi.edit("root", hide).edit("root-verity", hide).edit("root-verity-sig", hide).bytes()
        }),
        row(
            "the read-only flag taken away",
            Rule::PolicyAttribute,
            "read-only-on",
            &["root=signed+read-only-on:=unused+absent"],
            |ddi| ddi.edit("root", |part| part.attributes &= !READ_ONLY).bytes(),
        ),
        row(
            "the growfs flag set",
            Rule::PolicyAttribute,
            "growfs-off",
            &["root=signed+growfs-off:=unused+absent"],
            |ddi| ddi.edit("root", |part| part.attributes |= GROWFS).bytes(),
        ),
        row(
            "another file system",
            Rule::PolicyFileSystem,
            "expected squashfs",
            &["root=signed+squashfs:=unused+absent"],
            |_| {
                let erofs = Protected::root(fixture("erofs-lz4", 8192)).signed_by(trusted());
                Ddi::new().protected(&erofs).bytes()
            },
        ),
    ]
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    [tables(), contents(), encryption(), trees(), signatures(), policies()].into_iter().flatten().collect()
}
