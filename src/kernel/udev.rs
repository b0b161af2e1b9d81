//! udev: asking it to look at a device again, and waiting until it has.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use udev::{Device, DeviceType, MonitorBuilder, MonitorSocket};

use super::device_number::DeviceNumber;
use super::signal::{Interrupted, SignalWatch};

/// Where udevd listens for `udevadm control`.
const CONTROL_SOCKET: &str = "/run/udev/control";

/// Why udev did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum UdevError {
    /// A signal came while waiting.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The udev library cannot listen to udevd.
    #[error("listening to udev")]
    Listening(#[source] io::Error),
    /// There is no udevd: nobody would answer.
    #[error("no udevd is running")]
    NotRunning,
    /// The udev library cannot tell about a device.
    #[error("reading the udev database of {device}")]
    ReadingDatabase {
        /// The device.
        device: DeviceNumber,
        /// What went wrong.
        source: io::Error,
    },
    /// At the deadline udevd has not finished with these devices.
    #[error("waiting for udev: no answer in time for {}", Listed(.devices))]
    TimedOut {
        /// The devices that are left.
        devices: Vec<DeviceNumber>,
    },
    /// The kernel did not take the request for an event.
    #[error("triggering a change event for {device}")]
    Triggering {
        /// The device.
        device: DeviceNumber,
        /// What went wrong.
        source: io::Error,
    },
}

/// A device as udevd has left it after the change event that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessedDevice {
    /// The device.
    pub device: DeviceNumber,
    /// The symbolic links that lead to it now.
    pub links: Vec<PathBuf>,
    /// Whether udev takes it for ready: anything but `SYSTEMD_READY=0`.
    pub ready: bool,
}

/// Whether a udevd is there to answer. One that the service manager starts on demand counts.
#[must_use]
pub fn is_running() -> bool {
    // The socket takes packets, not a stream. To a socket of another type that is alive the kernel says so; to one
    // whose listener is gone it says that the connection is refused.
    match UnixStream::connect(CONTROL_SOCKET) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::EPROTOTYPE),
    }
}

/// Has udevd look at block devices again, and waits until it has finished with each of them: until its answer to
/// exactly these events has come. In the order of the answers.
///
/// # Errors
/// [`UdevError::NotRunning`] without a udevd; [`UdevError::TimedOut`] at the deadline; any other [`UdevError`].
pub fn change_and_wait(
    devices: &[DeviceNumber],
    signals: Option<&SignalWatch>,
    deadline: Instant,
) -> Result<Vec<ProcessedDevice>, UdevError> {
    if !is_running() {
        return Err(UdevError::NotRunning);
    }
    // Before the events are triggered: an answer that comes at once must not be missed.
    let socket = listen().map_err(UdevError::Listening)?;
    let token = EventToken::new().map_err(UdevError::Listening)?;
    for device in devices {
        trigger_change(*device, &token)?;
    }
    let mut waiting = devices.to_vec();
    let mut processed = Vec::new();
    while !waiting.is_empty() {
        for event in socket.iter() {
            let event = event.device();
            let Some(device) = answered(&event, &token).filter(|device| waiting.contains(device)) else {
                continue;
            };
            waiting.retain(|other| *other != device);
            processed.push(ProcessedDevice { device, links: links_in(&event), ready: is_ready(&event) });
        }
        if !waiting.is_empty() {
            wait_for_input(socket.as_fd(), signals, deadline, &waiting)?;
        }
    }
    Ok(processed)
}

/// Has udevd look at a block device again, without waiting.
///
/// # Errors
/// [`UdevError::Triggering`].
pub fn trigger_change(device: DeviceNumber, token: &EventToken) -> Result<(), UdevError> {
    fs::write(device.sysfs_path().join("uevent"), format!("change {token}"))
        .map_err(|source| UdevError::Triggering { device, source })
}

/// The symbolic links that udev keeps for a block device, from its database; none where it knows none.
///
/// # Errors
/// [`UdevError::ReadingDatabase`] where there is no such device.
pub fn links_of(device: DeviceNumber) -> Result<Vec<PathBuf>, UdevError> {
    Device::from_devnum(DeviceType::Block, device.packed())
        .map(|known| links_in(&known))
        .map_err(|source| UdevError::ReadingDatabase { device, source })
}

/// What an event carries so that its answer is known: a UUID (sysfs-uevent in the kernel's ABI documentation), which
/// udevd hands on as the property `SYNTH_UUID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventToken(String);

impl EventToken {
    /// One that nobody else has.
    ///
    /// # Errors
    /// The error of reading the kernel's generator of UUIDs.
    pub fn new() -> io::Result<Self> {
        fs::read_to_string("/proc/sys/kernel/random/uuid").map(|text| Self(text.trim_ascii().to_owned()))
    }
}

impl fmt::Display for EventToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn listen() -> io::Result<MonitorSocket> {
    MonitorBuilder::new()?.match_subsystem("block")?.listen()
}

/// The device of an event that answers to the token.
fn answered(event: &Device, token: &EventToken) -> Option<DeviceNumber> {
    let ours = event.property_value("SYNTH_UUID").is_some_and(|uuid| uuid == OsStr::new(&token.0));
    ours.then(|| event.devnum()).flatten().map(DeviceNumber::from_packed)
}

fn links_in(device: &Device) -> Vec<PathBuf> {
    let links = device.property_value("DEVLINKS").unwrap_or_default().as_bytes();
    let links = links.split(|byte| *byte == b' ').filter(|link| !link.is_empty());
    links.map(|link| Path::new(OsStr::from_bytes(link)).to_owned()).collect()
}

fn is_ready(device: &Device) -> bool {
    device.property_value("SYSTEMD_READY").is_none_or(|ready| ready != "0")
}

/// Returns when there is something to read from udev; time and signals end it with an error.
fn wait_for_input(
    socket: BorrowedFd<'_>,
    signals: Option<&SignalWatch>,
    deadline: Instant,
    waiting: &[DeviceNumber],
) -> Result<(), UdevError> {
    loop {
        if let Some(signals) = signals {
            signals.check()?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(UdevError::TimedOut { devices: waiting.to_vec() });
        }
        // Rounded up to the next millisecond: no turn of this loop is idle.
        let timeout = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut polled = vec![PollFd::new(socket, PollFlags::POLLIN)];
        polled.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(UdevError::Listening(errno.into())),
        }
        if polled.first().and_then(PollFd::any) == Some(true) {
            return Ok(());
        }
    }
}

/// Device numbers as a sentence names them.
struct Listed<'a>(&'a [DeviceNumber]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_device_that_does_not_exist_is_named() {
        let absent = DeviceNumber::new(4095, 1_048_575);
        let token = EventToken::new().unwrap();
        let error = trigger_change(absent, &token).unwrap_err();
        assert!(matches!(error, UdevError::Triggering { device, .. } if device == absent), "{error}");
        let error = links_of(absent).unwrap_err();
        assert!(matches!(error, UdevError::ReadingDatabase { device, .. } if device == absent), "{error}");
    }

    #[test]
    fn two_tokens_are_never_the_same_and_have_the_form_the_kernel_takes() {
        let (one, other) = (EventToken::new().unwrap().to_string(), EventToken::new().unwrap().to_string());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert!(one.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
    }

    #[test]
    fn silence_ends_at_the_deadline_and_names_the_devices() {
        let (_write, silent) = UnixStream::pair().unwrap();
        let begun = Instant::now();
        let devices = [DeviceNumber::new(7, 0), DeviceNumber::new(7, 1)];
        let error =
            wait_for_input(silent.as_fd(), None, begun + Duration::from_millis(30), &devices).unwrap_err();
        assert_eq!(error.to_string(), "waiting for udev: no answer in time for 7:0, 7:1");
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn a_signal_ends_the_waiting() {
        let (_write, silent) = UnixStream::pair().unwrap();
        let watch = SignalWatch::new().unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let error = wait_for_input(silent.as_fd(), Some(&watch), deadline, &[]).unwrap_err();
        assert!(matches!(error, UdevError::Interrupted(Interrupted { signal: 15 })), "{error}");
    }
}
