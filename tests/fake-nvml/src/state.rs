//! What the library keeps between calls, and the one gate every call passes.

use crate::CONFIG_VARIABLE;
use crate::config::{Config, DeviceConfig, MigConfig, MigInstanceConfig};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
    nvmlReturn_t,
};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The outcome of a call: a value, or the NVML error to return.
pub(crate) type Answer<T> = Result<T, nvmlReturn_t>;

/// What one process of the library holds.
#[derive(Default)]
pub(crate) struct State {
    /// How many times it was initialised more than shut down.
    pub(crate) users: u32,
    content: Vec<u8>,
    config: Option<Arc<Config>>,
    /// Open event sets, by handle.
    pub(crate) event_sets: BTreeMap<usize, EventSet>,
    /// The last event set handle given out.
    pub(crate) last_event_set: usize,
}

/// One event set: which devices it watches, and what it already gave.
#[derive(Default)]
pub(crate) struct EventSet {
    /// Event types registered, by device index.
    pub(crate) registered: BTreeMap<u32, u64>,
    /// Xids already given, by device index.
    pub(crate) delivered: BTreeMap<u32, Vec<u64>>,
}

/// What a device handle stands for, with the configuration of this moment.
pub(crate) struct Target {
    pub(crate) config: Arc<Config>,
    /// Index of the physical device.
    pub(crate) index: u32,
    /// Which MIG instance of it, for a handle of one.
    pub(crate) mig: Option<u32>,
}

impl Target {
    pub(crate) fn device(&self) -> Answer<&DeviceConfig> {
        device_at(&self.config, self.index).ok_or(INVALID_ARGUMENT)
    }

    pub(crate) fn instance(&self) -> Answer<Option<&MigInstanceConfig>> {
        let Some(mig) = self.mig else { return Ok(None) };
        let MigConfig::Enabled(instances) = &self.device()?.mig else {
            return Err(INVALID_ARGUMENT);
        };
        let found = usize::try_from(mig).ok().and_then(|at| instances.get(at));
        found.map(Some).ok_or(INVALID_ARGUMENT)
    }
}

/// The device at `index`.
pub(crate) fn device_at(config: &Config, index: u32) -> Option<&DeviceConfig> {
    usize::try_from(index).ok().and_then(|at| config.devices.get(at))
}

/// A value that may not be supported.
pub(crate) fn supported<T>(value: Option<T>) -> Answer<T> {
    value.ok_or(NOT_SUPPORTED)
}

/// The return code of `outcome`.
pub(crate) fn answer(outcome: impl FnOnce() -> Answer<()>) -> nvmlReturn_t {
    match outcome() {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

/// Passes a call without a device: initialised, not told to fail.
pub(crate) fn enter(call: &str) -> Answer<Arc<Config>> {
    let config = initialised()?;
    injected(&config, call, None)?;
    Ok(config)
}

/// Passes a call on the device behind `handle`: as [`enter`], and the device exists and is there.
pub(crate) fn enter_device(call: &str, handle: nvmlDevice_t) -> Answer<Target> {
    let config = initialised()?;
    let (index, mig) = indices(handle).ok_or(INVALID_ARGUMENT)?;
    let device = device_at(&config, index).ok_or(INVALID_ARGUMENT)?;
    if device.lost {
        return Err(GPU_IS_LOST);
    }
    injected(&config, call, Some(index))?;
    Ok(Target { config, index, mig })
}

/// Whether the configuration makes `call` fail on the device at `index`.
pub(crate) fn injected(config: &Config, call: &str, index: Option<u32>) -> Answer<()> {
    let plain = call.rsplit_once("_v").map_or(call, |(plain, _)| plain);
    let matching = config.errors.iter().find(|error| {
        (error.call == call || error.call == plain)
            && (error.device.is_none() || error.device == index)
    });
    matching.map_or(Ok(()), |error| Err(error.error))
}

/// The handle of a physical device, or of its MIG instance `mig`.
pub(crate) fn handle(index: u32, mig: Option<u32>) -> nvmlDevice_t {
    let address = match mig {
        None => (index as usize) + 1,
        Some(mig) => (((index as usize) + 1) << 16) | ((mig as usize) + 1),
    };
    std::ptr::without_provenance_mut(address)
}

fn indices(handle: nvmlDevice_t) -> Option<(u32, Option<u32>)> {
    let address = u32::try_from(handle.addr()).ok()?;
    match (address >> 16, address & 0xffff) {
        (0, device) => Some((device.checked_sub(1)?, None)),
        (device, mig) => Some((device.checked_sub(1)?, Some(mig.checked_sub(1)?))),
    }
}

/// The library's state.
pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The configuration as the file says it now.
pub(crate) fn current() -> Answer<Arc<Config>> {
    let mut state = state();
    let Some(path) = config_path() else {
        return Err(complain(&mut state, b"", "no configuration: set ", CONFIG_VARIABLE));
    };
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) => {
            let text = format!("{}: {error}", path.display());
            return Err(complain(&mut state, b"", "cannot read ", &text));
        }
    };
    if let Some(config) = state.config.as_ref().filter(|_| state.content == content) {
        return Ok(config.clone());
    }
    match serde_json::from_slice::<Config>(&content) {
        Ok(config) => {
            let config = Arc::new(config);
            state.config = Some(config.clone());
            state.content = content;
            Ok(config)
        }
        Err(error) => {
            let text = format!("{}: {error}", path.display());
            Err(complain(&mut state, &content, "cannot understand ", &text))
        }
    }
}

fn initialised() -> Answer<Arc<Config>> {
    if state().users == 0 {
        return Err(UNINITIALIZED);
    }
    current()
}

/// Says once per content why there is no answer; a C caller only ever sees the code.
#[allow(clippy::print_stderr, reason = "the caller has no other way to learn what is wrong")]
fn complain(state: &mut State, content: &[u8], what: &str, which: &str) -> nvmlReturn_t {
    if state.config.is_some() || state.content != content || state.content.is_empty() {
        eprintln!("fake NVML: {what}{which}");
    }
    state.config = None;
    state.content = content.to_vec();
    UNKNOWN
}

/// The file to answer from: the variable's, else `<this library>.json`.
fn config_path() -> Option<&'static PathBuf> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os(CONFIG_VARIABLE) {
        Some(path) => Some(PathBuf::from(path)),
        None => own_path().map(|path| {
            let mut name = path.into_os_string();
            name.push(".json");
            PathBuf::from(name)
        }),
    })
    .as_ref()
}

#[repr(C)]
struct DlInfo {
    file_name: *const c_char,
    base: *mut c_void,
    symbol_name: *const c_char,
    symbol_address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The file this code was loaded from.
fn own_path() -> Option<PathBuf> {
    let mut info = DlInfo {
        file_name: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol_name: std::ptr::null(),
        symbol_address: std::ptr::null_mut(),
    };
    let address = own_path as fn() -> Option<PathBuf> as *const c_void;
    // SAFETY: `info` is a valid, writable `Dl_info`; the address is only looked up.
    let found = unsafe { dladdr(address, &raw mut info) };
    if found == 0 || info.file_name.is_null() {
        return None;
    }
    // SAFETY: on success `dli_fname` is a C string that lives as long as the object is loaded.
    let name = unsafe { CStr::from_ptr(info.file_name) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_gives_back_what_it_was_made_of() {
        for (index, mig) in [(0, None), (7, None), (0, Some(0)), (15, Some(6))] {
            assert_eq!(indices(handle(index, mig)), Some((index, mig)));
        }
        assert_eq!(indices(std::ptr::null_mut()), None);
    }

    #[test]
    fn an_error_is_injected_by_full_or_plain_name_and_by_device() {
        let config = Config::default().with_error("nvmlDeviceGetMemoryInfo", 15);

        assert_eq!(injected(&config, "nvmlDeviceGetMemoryInfo_v2", Some(1)), Err(15));
        assert_eq!(injected(&config, "nvmlDeviceGetName", Some(1)), Ok(()));
        let mut one = config;
        one.errors[0].device = Some(0);
        assert_eq!(injected(&one, "nvmlDeviceGetMemoryInfo", Some(1)), Ok(()));
        assert_eq!(injected(&one, "nvmlDeviceGetMemoryInfo", Some(0)), Err(15));
    }
}
