//! GPU models and GPU requests of a replay, in terms of the domain.

use crate::replay::{GPU_MILLI, PodLine};
use fgpu_domain::slice::{GpuAmount, GpuRequest};
use fgpu_domain::units::Fgpu;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// Models in the replay, numbered: a replay compares models exactly and by case, a request does
/// not.
#[derive(Debug, Default)]
pub(crate) struct Models(BTreeMap<String, usize>);

impl Models {
    /// A name for a model that no other contains.
    pub(crate) fn name(&mut self, model: &str) -> String {
        let next = self.0.len();
        let number = *self.0.entry(model.to_owned()).or_insert(next);
        format!("<{number}>")
    }

    /// What a pod asks of GPUs; `None` where it asks for none.
    pub(crate) fn request(&mut self, pod: &PodLine) -> Option<GpuRequest> {
        let gpus = NonZeroU32::new(pod.num_gpu)?;
        let amount = match pod.gpu_milli {
            GPU_MILLI => GpuAmount::Whole(gpus),
            milli => GpuAmount::Fgpu(Fgpu(milli * u64::from(gpus.get()))),
        };
        let models = pod.gpu_spec.iter().map(|model| self.name(model)).collect();
        Some(GpuRequest { devices: Some(gpus), models, ..GpuRequest::new(amount) })
    }
}
