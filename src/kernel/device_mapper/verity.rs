//! Making a dm-verity device.

use devicemapper::{DevId, DmUuid};
use nix::errno::Errno;

use super::error::{errno, of_crate};
use super::signature::{Consequence, KernelSignature, NotChecked, SignatureCheck, consequence};
use super::unfinished::Wanted;
use super::{Attribute, Control, DeviceMapperError, MappedDevice, compare};
use crate::format::verity::table::{KeyDescription, VerityTable};
use crate::kernel::keyring::{KeyringError, UserKey};

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
        let made = making.wanted().create(&control)?;
        let (table, outcome) = making.load(&control, signature)?;
        let node = made.bring_up()?;
        let live = made.check(&node)?;
        let live = live.verity().map_or_else(|| "another one".to_owned(), ToString::to_string);
        compare(request.name, Attribute::Table, &table.to_string(), &live)?;
        let device = made.keep();
        let (name, uuid) = (request.name.to_owned(), request.uuid.to_owned());
        // Where this fails, closing the descriptor undoes the rest: the device is marked for removal.
        Self::adopt(control, name, uuid, device, node).map(|device| (device, outcome))
    }
}

/// A checked request.
struct Making<'a> {
    request: &'a VerityRequest<'a>,
    uuid: &'a DmUuid,
    sectors: u64,
}

impl<'a> Making<'a> {
    fn of(request: &'a VerityRequest<'_>) -> Result<Self, DeviceMapperError> {
        let sectors = request.table.sectors().ok_or_else(|| DeviceMapperError::Size {
            device: request.name.to_owned(),
            blocks: request.table.data_blocks,
            block_size: request.table.data_block_size.bytes(),
        })?;
        let wanted = Wanted { name: request.name, uuid: request.uuid, sectors, read_only: true };
        wanted.dm_name()?;
        Ok(Self { request, uuid: wanted.dm_uuid()?, sectors })
    }

    const fn wanted(&self) -> Wanted<'a> {
        Wanted { name: self.request.name, uuid: self.request.uuid, sectors: self.sectors, read_only: true }
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
                _ => Err(self.wanted().failing("loading the table")(errno.into())),
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
            Consequence::Unrelated => Err(self.wanted().failing("loading the table")(errno.into())),
        }
    }

    /// Loads a table; the error number where the kernel refuses it.
    fn load_table(&self, control: &Control, table: &VerityTable) -> Result<Option<Errno>, DeviceMapperError> {
        let line = (0, self.sectors, VerityTable::TARGET.to_owned(), table.to_string());
        match control.dm.table_load(&DevId::Uuid(self.uuid), &[line], self.wanted().options()) {
            Ok(_) => Ok(None),
            Err(error) => match errno(&error) {
                Some(errno) => Ok(Some(errno)),
                None => Err(of_crate(self.request.name, "loading the table", &error)),
            },
        }
    }

    fn refused(&self, refusal: super::SignatureRefusal) -> DeviceMapperError {
        DeviceMapperError::Signature { device: self.request.name.to_owned(), refusal }
    }
}

/// A description that no other request of this boot has: the process, and how many it has made.
fn key_description() -> KeyDescription {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KeyDescription::of_process(std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
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
    fn a_name_or_uuid_that_the_kernel_would_change_is_refused() {
        assert!(matches!(refusal("a b", "u", 1), Some(DeviceMapperError::Name { .. })));
        assert!(matches!(refusal("n", "a b", 1), Some(DeviceMapperError::Uuid { .. })));
        assert!(refusal("n", "u", 1).is_none());
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
