//! Making a device of one target whose line is read back as it was meant by whoever made it: dm-crypt, dm-integrity.

use devicemapper::{DevId, DmFlags, DmOptions};

use super::error::of_crate;
use super::unfinished::Wanted;
use super::{Attribute, Control, DeviceMapperError, MappedDevice, compare};

/// A device of one target that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct MappingRequest<'a> {
    /// Its name: 1 to 127 bytes of printable ASCII without `/` and blanks.
    pub name: &'a str,
    /// Its UUID: 1 to 128 bytes of printable ASCII without blanks.
    pub uuid: &'a str,
    /// The target, such as `crypt`.
    pub target: &'static str,
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters. There is no key in them: whoever may read a table may read this one.
    pub parameters: &'a str,
    /// Whether writes fail.
    pub read_only: bool,
}

impl MappedDevice {
    /// Makes a device that is removed with its last user, and gives the parameters as the kernel shows them.
    ///
    /// # Errors
    /// A [`DeviceMapperError`]; no device is left behind then.
    pub fn create_mapping(request: &MappingRequest<'_>) -> Result<(Self, String), DeviceMapperError> {
        let MappingRequest { name, uuid, target, sectors, parameters, read_only } = *request;
        let wanted = Wanted { name, uuid, sectors, read_only };
        let id = DevId::Uuid(wanted.dm_uuid()?);
        wanted.dm_name()?;
        let control = Control::required()?;
        if control.target_version(target)?.is_none() {
            return Err(DeviceMapperError::NoTarget { target });
        }
        let made = wanted.create(&control)?;
        let line = (0, sectors, target.to_owned(), parameters.to_owned());
        control
            .dm
            .table_load(&id, &[line], wanted.options())
            .map_err(|error| of_crate(name, "loading the table", &error))?;
        let node = made.bring_up()?;
        made.check(&node)?;
        let shown = shown_parameters(&control, request, &id)?;
        let device = made.keep();
        // Where this fails, closing the descriptor undoes the rest: the device is marked for removal.
        Ok((Self::adopt(control, name.to_owned(), uuid.to_owned(), device, node)?, shown))
    }
}

/// The parameters of the live table, which has the target and length that were asked for; the parameters themselves are
/// for the caller to compare.
fn shown_parameters(
    control: &Control,
    request: &MappingRequest<'_>,
    id: &DevId<'_>,
) -> Result<String, DeviceMapperError> {
    let name = request.name;
    let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH);
    let (_, table) =
        control.dm.table_status(id, options).map_err(|error| of_crate(name, "reading the table", &error))?;
    let [(start, sectors, target, parameters)] = table.as_slice() else {
        return compare(name, Attribute::Table, &"one line", &format!("{} lines", table.len()).as_str())
            .map(|()| String::new());
    };
    compare(
        name,
        Attribute::Table,
        &format!("0 {} {}", request.sectors, request.target),
        &format!("{start} {sectors} {target}"),
    )?;
    Ok(parameters.clone())
}
