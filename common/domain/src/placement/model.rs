//! What a policy derives from the mix of requests and the hardware there is.

use super::Request;
use super::entry::Entry;
use super::fit::Fit;
use super::layout::{Layout, layout};
use super::measure::Measure;
use super::mix::{Basis, Mix, Typical};
use super::policy::Policy;
use super::prices::{Values, WHOLE};
use super::reach::Asked;
use super::scarcity::Scarcity;
use super::view::View;
use super::worth::Worth;
use crate::units::MIB;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What requests of the mix mean on the hardware of a view.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// What it was worked out from; `None`: nothing yet.
    basis: Option<Basis>,
    /// The typical ones.
    classes: Vec<Class>,
    /// By position of the shape, for the published policy.
    measures: Vec<Measure>,
    /// By position of the shape, for [`Policy::Fragmentation`].
    worths: Vec<Worth>,
    /// CPU that goes with one device's worth of the mix, thousandths of a core; 0: none.
    cpu_per_device: i64,
    /// Host memory that goes with one device's worth of the mix, MiB; 0: not known.
    memory_per_device: i64,
    scarcity: Scarcity,
}

/// A kind of request that is expected again.
#[derive(Debug)]
pub(super) struct Class {
    /// Thousandths of a core.
    pub(super) cpu: u64,
    pub(super) weight: i64,
    /// The part of the weight whose host memory is known.
    counted: i64,
    /// Host memory of that part, MiB times weight.
    memory: i64,
    /// `None`: no GPU is asked for, or no hardware can hold it.
    pub(super) fit: Option<Fit>,
}

impl Model {
    /// Keeps up with the mix and the hardware; says whether scores have changed by it.
    pub(super) fn refresh(&mut self, policy: Policy, mix: &Mix, view: &View) -> bool {
        let holds = self.basis.as_ref().is_some_and(|basis| mix.is_met_by(basis, view));
        if !holds {
            self.rebuild(policy, mix, view);
        }
        if policy == Policy::Fragmentation {
            self.scarcity.refresh(mix.arrivals(), view);
        }
        !holds
    }

    /// The measure of fragmentation on the node.
    pub(super) fn measure(&self, entry: &Entry) -> Option<&Measure> {
        self.measures.get(entry.shape)
    }

    /// What the devices of the node are worth.
    pub(super) fn worth(&self, entry: &Entry) -> Option<&Worth> {
        self.worths.get(entry.shape)
    }

    /// The part of `worth` (millionths of a device) that idles on a node for want of the CPU and
    /// host memory (bytes) the mix asks for with it.
    pub(super) fn short(&self, worth: i64, cpu: u64, memory: u64) -> i64 {
        let lack = |have: u64, each: i64| match each {
            0 => 0,
            each => {
                let have = i64::try_from(have).unwrap_or(i64::MAX);
                (worth - have.saturating_mul(WHOLE) / each).max(0)
            }
        };
        lack(cpu, self.cpu_per_device).max(lack(memory / MIB, self.memory_per_device))
    }

    /// Added to the score of every node of a shape: what the request takes there from those that
    /// can go nowhere else.
    pub(super) fn extra(&self, request: &Request, fit: Option<&Fit>, shape: usize) -> i64 {
        -self.scarcity.charge(request, fit, shape)
    }

    fn rebuild(&mut self, policy: Policy, mix: &Mix, view: &View) {
        self.basis = Some(mix.basis(view));
        self.classes = mix.typical().iter().map(|typical| Class::new(typical, view)).collect();
        let shapes = 0..view.shapes().list().len();
        if policy != Policy::Fragmentation {
            self.measures = shapes.map(|shape| Measure::new(shape, &self.classes)).collect();
            return;
        }
        let narrow: Vec<Class> =
            mix.narrow().iter().map(|narrow| Class::new(narrow, view)).collect();
        self.scarcity = Scarcity::new(&self.classes, &narrow, view);
        let mut known = BTreeMap::new();
        self.worths = shapes
            .map(|shape| {
                let kinds = 0..view.shapes().get(shape).kinds.len();
                let values = kinds.map(|kind| values(&self.classes, shape, kind, &mut known));
                Worth::new(values.collect())
            })
            .collect();
        self.set_needs();
    }

    /// CPU and memory that are asked for with a device's worth of GPU.
    fn set_needs(&mut self) {
        let (mut cpu, mut worth, mut memory, mut worth_counted) = (0_i128, 0_i128, 0_i128, 0_i128);
        for class in &self.classes {
            let Some(fit) = &class.fit else { continue };
            let on_shape =
                |(shape, worth): (usize, &Worth)| fit.on_shape(shape).map(|fit| worth.asked(fit));
            let Some(each) = self.worths.iter().enumerate().find_map(on_shape) else { continue };
            cpu += i128::from(class.cpu) * i128::from(class.weight);
            worth += i128::from(each) * i128::from(class.weight);
            memory += i128::from(class.memory);
            worth_counted += i128::from(each) * i128::from(class.counted);
        }
        let per_device = |amount: i128, worth: i128| match worth {
            0 => 0,
            worth => i64::try_from(amount * i128::from(WHOLE) / worth).unwrap_or(i64::MAX),
        };
        self.cpu_per_device = per_device(cpu, worth);
        self.memory_per_device = per_device(memory, worth_counted);
    }
}

impl Class {
    fn new(typical: &Typical<'_>, view: &View) -> Self {
        let amount = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        Self {
            cpu: typical.cpu.0,
            weight: amount(typical.weight),
            counted: amount(typical.counted),
            memory: amount(typical.memory),
            fit: fit(typical, view),
        }
    }
}

/// The class on the hardware of `view`.
fn fit(typical: &Typical<'_>, view: &View) -> Option<Fit> {
    let gpu = typical.gpu?;
    let request = Request { cpu: typical.cpu, gpu: Some(gpu.clone()), ..Request::default() };
    match layout(&request, view) {
        Ok(Layout::Devices(plan)) => Some(Fit::new(gpu, plan.counts[0], plan.split, view)),
        Ok(Layout::NoGpu | Layout::NoNode) | Err(_) => None,
    }
}

/// The value of rests on one kind of device; worked out once for equal demand.
fn values(
    classes: &[Class],
    shape: usize,
    kind: usize,
    known: &mut BTreeMap<Vec<Asked>, Arc<Values>>,
) -> Arc<Values> {
    let mut demand: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for class in classes {
        let Some(fit) = class.fit.as_ref().and_then(|fit| fit.on_shape(shape)) else { continue };
        for part in 0..fit.parts.len() {
            let want = fit.want(part, kind);
            if want.allowed {
                // With each part of several goes a part of the CPU.
                let parts = u64::try_from(fit.parts.len()).unwrap_or(1).max(1);
                *demand.entry((want.milli, class.cpu / parts)).or_default() +=
                    class.weight.unsigned_abs();
            }
        }
    }
    let asked = demand.into_iter().map(|((size, cpu), weight)| Asked { size, cpu, weight });
    known.entry(asked.collect()).or_insert_with_key(|asked| Arc::new(Values::new(asked))).clone()
}
