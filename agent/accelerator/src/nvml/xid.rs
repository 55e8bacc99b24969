//! Xid errors: faults the driver tells once, to whoever listens at the time.
//!
//! One thread owns the event sets and empties them whenever it is asked, and often enough in
//! between that the driver, which keeps only the last number, loses none. Each device has a set of
//! its own: an event then names its device even when the device can no longer say who it is, and a
//! lost device does not end the waiting for others.

use fgpu_domain::ids::DeviceUuid;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Xid errors that a faulty program causes on a sound device: illegal access, an exception in a
/// kernel, a channel cleaned up after either, a context that ran too long (NVIDIA's Xid catalogue).
pub const APPLICATION_XIDS: &[u64] = &[13, 31, 43, 45, 68, 109];

/// How often the sets are emptied without being asked.
const LOOK: Duration = Duration::from_millis(500);
/// How long one empty set is waited for: NVML's shortest wait.
const WAIT_MS: u32 = 1;
/// How long an answer is waited for: a driver that hangs must not hang the caller.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most events taken from one set at once.
const MOST: usize = 64;

/// One Xid of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct XidEvent {
    pub(super) device: DeviceUuid,
    pub(super) xid: u64,
}

/// The listening thread; it ends with this.
pub(super) struct Watcher {
    requests: Option<Sender<Sender<Vec<XidEvent>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts to listen.
    pub(super) fn start(nvml: Arc<Nvml>) -> io::Result<Self> {
        let (requests, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name("nvml-events".to_owned())
            .spawn(move || watch(&nvml, &inbox))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Everything told since the last time, up to this moment.
    pub(super) fn drain(&self) -> Vec<XidEvent> {
        let (reply, answer) = channel();
        let asked = self.requests.as_ref().is_some_and(|requests| requests.send(reply).is_ok());
        if !asked {
            return Vec::new();
        }
        answer.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            tracing::warn!(%error, "NVML does not answer about events");
            Vec::new()
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // It ends at its next look; a panic in it was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// One device that is listened to.
enum Watched<'nvml> {
    Events {
        uuid: DeviceUuid,
        set: EventSet<'nvml>,
    },
    /// It has no such events.
    Silent,
}

fn watch(nvml: &Nvml, inbox: &Receiver<Sender<Vec<XidEvent>>>) {
    let mut watched = BTreeMap::new();
    let mut told = Vec::new();
    loop {
        let request = inbox.recv_timeout(LOOK);
        if matches!(request, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        look(nvml, &mut watched, &mut told);
        if let Ok(reply) = request
            && let Err(unsent) = reply.send(std::mem::take(&mut told))
        {
            // Whoever asked has given up; the next to ask gets them.
            told = unsent.0;
        }
    }
}

/// Takes every event there is; devices that have appeared are listened to from now on.
fn look<'nvml>(
    nvml: &'nvml Nvml,
    watched: &mut BTreeMap<u32, Watched<'nvml>>,
    told: &mut Vec<XidEvent>,
) {
    for index in 0..nvml.device_count().unwrap_or(0) {
        if let std::collections::btree_map::Entry::Vacant(entry) = watched.entry(index) {
            match register(nvml, index) {
                Ok(new) => {
                    entry.insert(new);
                }
                Err(error) => tracing::debug!(index, %error, "cannot listen to a device yet"),
            }
        }
    }
    for device in watched.values() {
        if let Watched::Events { uuid, set } = device {
            told.extend(xids(set).map(|xid| XidEvent { device: uuid.clone(), xid }));
        }
    }
}

/// Listens to the device at `index`. What it supports is asked first: a set that a device refuses
/// is gone.
fn register(nvml: &Nvml, index: u32) -> Result<Watched<'_>, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let uuid = DeviceUuid::new(device.uuid()?).map_err(|_| NvmlError::Unknown)?;
    let wanted = EventTypes::CRITICAL_XID_ERROR;
    match device.supported_event_types() {
        Ok(supported) if supported.contains(wanted) => {
            let set = nvml.create_event_set()?;
            let set = device.register_events(wanted, set).map_err(|refused| refused.error)?;
            Ok(Watched::Events { uuid, set })
        }
        Ok(_) | Err(NvmlError::NotSupported) => {
            tracing::info!(device = %uuid, "the device tells no Xid errors");
            Ok(Watched::Silent)
        }
        Err(error) => Err(error),
    }
}

/// The Xids waiting in `set`. An error ends them: empty, or a device lost, which others notice.
fn xids(set: &EventSet<'_>) -> impl Iterator<Item = u64> {
    let next = || set.wait(WAIT_MS).ok();
    std::iter::from_fn(next).take(MOST).filter_map(|event| match event.event_data? {
        XidError::Value(xid) => Some(xid),
        XidError::Unknown => Some(999),
    })
}

/// An Xid in words, `Xid 79: fallen off the bus` (NVIDIA's Xid catalogue).
pub(super) fn describe(xid: u64) -> String {
    let what = match xid {
        46 => "the GPU stopped processing",
        48 => "double bit ECC error",
        61 | 62 => "internal micro-controller halt",
        63 => "memory page retired or row remapped",
        64 => "memory page could not be retired or row remapped",
        74 => "NVLink error",
        79 => "fallen off the bus",
        92 => "high rate of single bit ECC errors",
        94 => "contained ECC error",
        95 => "uncontained ECC error",
        119 | 120 => "the GPU's system processor does not answer",
        _ => return format!("Xid {xid}"),
    };
    format!("Xid {xid}: {what}")
}
