//! Making a dm-verity device.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use devicemapper::{DevId, DmFlags, DmName, DmOptions, DmUuid};
use nix::errno::Errno;

use super::error::{errno, of_crate};
use super::signature::{Consequence, KernelSignature, NotChecked, SignatureCheck, consequence};
use super::{
    Attribute, Control, DeviceMapperError, MAXIMUM_NAME_LENGTH, MAXIMUM_UUID_LENGTH, MappedDevice, compare,
    node_path, open_node, status,
};
use crate::format::verity::table::{KeyDescription, VerityTable};
use crate::kernel::device_number::DeviceNumber;
use crate::kernel::keyring::{KeyringError, UserKey};
use crate::kernel::pause;
use crate::kernel::raw::device_mapper::{self as raw, Key};
use crate::kernel::raw::{IoctlError, block};

/// How long the node of a new device may take to appear, and a failed one to go. The kernel makes and removes nodes
/// while it answers; only a machine without devtmpfs, or a udev that looks at the device, takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two looks: nobody tells that a node is there or a name free.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A dm-verity device that is to be made.
#[derive(Debug, Clone)]
pub struct VerityRequest<'a> {
    /// Its name: 1 to 127 bytes of printable ASCII without `/` and blanks.
    pub name: &'a str,
    /// Its UUID: 1 to 128 bytes of printable ASCII without blanks.
    pub uuid: &'a str,
    /// Its table. The name of a signature key is not taken from here.
    pub table: VerityTable,
}

impl MappedDevice {
    /// Makes a read-only dm-verity device that is removed with its last user, and lets the kernel check `signature` (a
    /// detached PKCS#7 signature of the root hash in DER) where it can.
    ///
    /// The caller has authenticated the root hash: where the kernel cannot check, the device is made all the same, and
    /// the answer says so.
    ///
    /// # Errors
    /// A [`DeviceMapperError`], [`DeviceMapperError::Signature`] where the kernel refuses the signature or demands one;
    /// no device is left behind then.
    pub fn create_verity(
        request: &VerityRequest<'_>,
        signature: Option<&[u8]>,
    ) -> Result<(Self, KernelSignature), DeviceMapperError> {
        let making = Making::of(request)?;
        let control = Control::required()?;
        if control.target_version(VerityTable::TARGET)?.is_none() {
            return Err(DeviceMapperError::NoVerity);
        }
        let device = making.create(&control)?;
        let mut undo = Undo { control: &control, uuid: request.uuid, armed: true };
        let (table, outcome) = making.load(&control, signature)?;
        let node = wait_for_node(device)?;
        making.mark(&control, device)?;
        making.resume(&control)?;
        making.check(&control, device, &table, &node)?;
        undo.armed = false;
        drop(undo);
        let name = request.name.to_owned();
        let uuid = request.uuid.to_owned();
        // Where this fails, closing the descriptor undoes the rest: the device is marked for removal.
        Self::adopt(control, name, uuid, device, node).map(|device| (device, outcome))
    }
}

/// A checked request.
struct Making<'a> {
    request: &'a VerityRequest<'a>,
    name: &'a DmName,
    uuid: &'a DmUuid,
    sectors: u64,
}

impl<'a> Making<'a> {
    fn of(request: &'a VerityRequest<'_>) -> Result<Self, DeviceMapperError> {
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let bad_name = || DeviceMapperError::Name { found: request.name.to_owned() };
        let bad_uuid = || DeviceMapperError::Uuid { found: request.uuid.to_owned() };
        let dots = matches!(request.name, "." | ".." | "control");
        let (longest_name, longest_uuid) = (MAXIMUM_NAME_LENGTH, MAXIMUM_UUID_LENGTH);
        if dots || request.name.len() > longest_name || !graphic(request.name) || request.name.contains('/') {
            return Err(bad_name());
        }
        if request.uuid.len() > longest_uuid || !graphic(request.uuid) {
            return Err(bad_uuid());
        }
        let sectors = request.table.sectors().ok_or_else(|| DeviceMapperError::Size {
            device: request.name.to_owned(),
            blocks: request.table.data_blocks,
            block_size: request.table.data_block_size.bytes(),
        })?;
        Ok(Self {
            request,
            name: DmName::new(request.name).map_err(|_| bad_name())?,
            uuid: DmUuid::new(request.uuid).map_err(|_| bad_uuid())?,
            sectors,
        })
    }

    fn create(&self, control: &Control) -> Result<DeviceNumber, DeviceMapperError> {
        let options = DmOptions::default().set_flags(DmFlags::DM_READONLY);
        match control.dm.device_create(self.name, Some(self.uuid), options) {
            Ok(info) => Ok(DeviceNumber::new(info.device().major, info.device().minor)),
            Err(error) if errno(&error) == Some(Errno::EBUSY) => Err(self.taken(control)?),
            Err(error) => Err(of_crate(self.request.name, "creation", &error)),
        }
    }

    /// Who has the name or the UUID.
    fn taken(&self, control: &Control) -> Result<DeviceMapperError, DeviceMapperError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = self.request.name.to_owned();
        let uuid = self.request.uuid.to_owned();
        if let Some(found) = control.describe(Key::Name(&name))? {
            let device = DeviceNumber::from_packed(found.device);
            return Ok(DeviceMapperError::NameTaken { name, device, uuid: text(&found.uuid) });
        }
        if let Some(found) = control.describe(Key::Uuid(&uuid))? {
            let device = DeviceNumber::from_packed(found.device);
            return Ok(DeviceMapperError::UuidTaken { name, uuid, device, other: text(&found.name) });
        }
        Ok(DeviceMapperError::Ioctl { device: name, operation: "creation", source: IoctlError::Busy })
    }

    /// Loads the table, with the signature where there is one and the kernel checks it.
    fn load(
        &self,
        control: &Control,
        signature: Option<&[u8]>,
    ) -> Result<(VerityTable, KernelSignature), DeviceMapperError> {
        let check = SignatureCheck::of_this_kernel();
        let plain = VerityTable { signature_key: None, ..self.request.table.clone() };
        let mut outcome = KernelSignature::None;
        if let Some(signature) = signature {
            match self.load_signed(control, signature, check, &plain)? {
                Ok(table) => return Ok((table, KernelSignature::Checked)),
                Err(why) => outcome = KernelSignature::NotChecked { why },
            }
        }
        match self.load_table(control, &plain)? {
            None => Ok((plain, outcome)),
            Some(errno) => match consequence(errno, check, false) {
                Consequence::Refuse(refusal) => Err(self.refused(refusal)),
                _ => Err(self.failing("loading the table")(errno.into())),
            },
        }
    }

    /// Loads the table with its signature in a key that lives as long as the request; the inner error where the kernel
    /// cannot check it.
    fn load_signed(
        &self,
        control: &Control,
        signature: &[u8],
        check: SignatureCheck,
        plain: &VerityTable,
    ) -> Result<Result<VerityTable, NotChecked>, DeviceMapperError> {
        if check == SignatureCheck::Absent {
            return Ok(Err(NotChecked::NotSupported));
        }
        let description = key_description();
        let key = match UserKey::add(description.as_str(), signature) {
            Ok(key) => key,
            Err(KeyringError::NotSupported) => return Ok(Err(NotChecked::NotSupported)),
            Err(source) => {
                return Err(DeviceMapperError::Keyring { device: self.request.name.to_owned(), source });
            }
        };
        let table = VerityTable { signature_key: Some(description), ..plain.clone() };
        let answer = self.load_table(control, &table)?;
        drop(key);
        let Some(errno) = answer else { return Ok(Ok(table)) };
        match consequence(errno, check, true) {
            Consequence::LoadWithout(why) => Ok(Err(why)),
            Consequence::Refuse(refusal) => Err(self.refused(refusal)),
            Consequence::Unrelated => Err(self.failing("loading the table")(errno.into())),
        }
    }

    /// Loads a table; the error number where the kernel refuses it.
    fn load_table(&self, control: &Control, table: &VerityTable) -> Result<Option<Errno>, DeviceMapperError> {
        let line = (0, self.sectors, VerityTable::TARGET.to_owned(), table.to_string());
        let options = DmOptions::default().set_flags(DmFlags::DM_READONLY);
        match control.dm.table_load(&DevId::Uuid(self.uuid), &[line], options) {
            Ok(_) => Ok(None),
            Err(error) => match errno(&error) {
                Some(errno) => Ok(Some(errno)),
                None => Err(of_crate(self.request.name, "loading the table", &error)),
            },
        }
    }

    /// From here on the device goes with our descriptor, however we end.
    fn mark(&self, control: &Control, device: DeviceNumber) -> Result<(), DeviceMapperError> {
        let failing = self.failing("marking for removal");
        raw::remove_deferred(control.fd(), Key::Device(device.packed()))
            .map_err(&failing)?
            .ok_or_else(|| failing(IoctlError::Kernel(Errno::ENXIO)))
    }

    fn resume(&self, control: &Control) -> Result<(), DeviceMapperError> {
        let failing = self.failing("activation");
        raw::resume(control.fd(), Key::Uuid(self.request.uuid))
            .map_err(&failing)?
            .map(drop)
            .ok_or_else(|| failing(IoctlError::Kernel(Errno::ENXIO)))
    }

    /// Compares everything that the kernel shows of the device with what was asked for.
    fn check(
        &self,
        control: &Control,
        device: DeviceNumber,
        table: &VerityTable,
        node: &File,
    ) -> Result<(), DeviceMapperError> {
        let name = self.request.name;
        let found = status::read(control, device)?
            .ok_or_else(|| self.failing("reading the status")(IoctlError::Kernel(Errno::ENXIO)))?;
        compare(name, Attribute::Name, &name, &found.name.as_str())?;
        compare(name, Attribute::Uuid, &self.request.uuid, &found.uuid.as_str())?;
        compare(name, Attribute::Device, &device, &found.device)?;
        compare(name, Attribute::ReadOnly, &true, &found.read_only)?;
        compare(name, Attribute::Suspended, &false, &found.suspended)?;
        compare(name, Attribute::DeferredRemoval, &true, &found.deferred_removal)?;
        let live = found.verity().map_or_else(|| "another one".to_owned(), ToString::to_string);
        compare(name, Attribute::Table, &table.to_string(), &live)?;
        let size = block::size(node.as_fd()).map_err(self.failing("reading the size"))?;
        compare(name, Attribute::Size, &(self.sectors << 9), &size.bytes())?;
        let read_only =
            block::is_read_only(node.as_fd()).map_err(self.failing("reading the read-only state"))?;
        compare(name, Attribute::ReadOnly, &true, &read_only)
    }

    fn refused(&self, refusal: super::SignatureRefusal) -> DeviceMapperError {
        DeviceMapperError::Signature { device: self.request.name.to_owned(), refusal }
    }

    fn failing(&self, operation: &'static str) -> impl Fn(IoctlError) -> DeviceMapperError {
        let device = self.request.name.to_owned();
        move |source| DeviceMapperError::Ioctl { device: device.clone(), operation, source }
    }
}

/// A description that no other request of this boot has: the process, and how many it has made.
fn key_description() -> KeyDescription {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KeyDescription::of_process(std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Opens the node of a new device, as soon as it is there.
fn wait_for_node(device: DeviceNumber) -> Result<File, DeviceMapperError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(node) = open_node(device, 0)? {
            return Ok(node);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DeviceMapperError::NoNode { path: node_path(device) });
        }
        pause(LOOK_AGAIN.min(left));
    }
}

/// Removes a device that did not come to be.
struct Undo<'a> {
    control: &'a Control,
    uuid: &'a str,
    armed: bool,
}

impl Drop for Undo<'_> {
    /// Asks for the removal, now or with the last user, and waits until it has happened. The error that brought us here
    /// is the one to report.
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let key = Key::Uuid(self.uuid);
        let mut answer = raw::remove_deferred(self.control.fd(), key).map(|found| found.is_some());
        while matches!(answer, Ok(true)) && Instant::now() < deadline {
            answer = raw::describe(self.control.fd(), key).map(|found| found.is_some());
            if matches!(answer, Ok(true)) {
                pause(LOOK_AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "1 7:0 7:1 4096 4096 1024 1 sha256 \
        5bcb6e4d14882f9597707e6fef19c94078a6ddd77f99adb086ed6a5939aec959 -";

    fn refusal(name: &str, uuid: &str, data_blocks: u64) -> Option<DeviceMapperError> {
        let table = VerityTable { data_blocks, ..TABLE.parse().unwrap() };
        Making::of(&VerityRequest { name, uuid, table }).err()
    }

    #[test]
    fn a_name_that_the_kernel_would_change_is_refused() {
        for name in ["", "a b", "a/b", "gr\u{fc}n", ".", "..", "control", "a\0b", "a\nb", &"x".repeat(128)] {
            assert!(matches!(refusal(name, "u", 1), Some(DeviceMapperError::Name { .. })), "{name:?}");
        }
        for name in ["a", "a\\x20b", "...", &"x".repeat(127)] {
            assert!(refusal(name, "u", 1).is_none(), "{name:?}");
        }
    }

    #[test]
    fn a_uuid_that_the_kernel_would_change_is_refused() {
        for uuid in ["", "a b", "gr\u{fc}n", "a\0b", &"x".repeat(129)] {
            assert!(matches!(refusal("n", uuid, 1), Some(DeviceMapperError::Uuid { .. })), "{uuid:?}");
        }
        assert!(refusal("n", &"x".repeat(128), 1).is_none());
    }

    #[test]
    fn a_table_that_is_no_device_is_refused() {
        for blocks in [0, u64::MAX] {
            assert!(matches!(refusal("n", "u", blocks), Some(DeviceMapperError::Size { .. })), "{blocks}");
        }
    }

    #[test]
    fn no_two_keys_have_one_description() {
        assert_ne!(key_description(), key_description());
    }
}
