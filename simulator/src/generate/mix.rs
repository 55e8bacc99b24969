//! Turns a list of pods into another mix: other shares of fractions, of several GPUs, of pods
//! without GPU, and of pods that only take certain GPU models.

use super::GenerateError;
use super::lists::{Lists, holds};
use crate::random::SplitMix64;
use crate::replay::{GPU_MILLI, NodeLine, PodLine};
use std::collections::BTreeMap;

/// What the pods of a mix shall be, in percent; what is absent stays as the list has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mix {
    /// Of the GPU asked for, by pods that want less than a whole device.
    pub fractional_share: Option<u32>,
    /// Of the GPU asked for, by pods that want several whole devices.
    pub multi_gpu_share: Option<u32>,
    /// Of the pods with GPU, those that take one or two GPU models only. Replaces the constraints
    /// of the list.
    pub constrained_share: Option<u32>,
    /// How often each model is named in a constraint.
    pub constrained_models: ModelWeights,
    /// Of all pods, those without GPU.
    pub cpu_only_share: Option<u32>,
}

/// How often each GPU model is named in a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModelWeights {
    /// In proportion to the GPUs there are of it.
    #[default]
    Capacity,
    /// All alike, so that rare models are asked for beyond what there is.
    Even,
}

/// What a pod wants of GPUs, as far as a mix tells pods apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    CpuOnly,
    Fractional,
    One,
    Several,
}

fn kind(pod: &PodLine) -> Kind {
    match (pod.num_gpu, pod.gpu_milli) {
        (0, _) => Kind::CpuOnly,
        (_, ..GPU_MILLI) => Kind::Fractional,
        (1, _) => Kind::One,
        _ => Kind::Several,
    }
}

/// The pods of `lists` in the mix asked for. The GPU asked for by all of them stays what it was,
/// and so does the number of pods without GPU unless the mix names their share.
pub(super) fn mixed(
    lists: &Lists,
    mix: &Mix,
    random: &mut SplitMix64,
) -> Result<Vec<PodLine>, GenerateError> {
    let mut base: BTreeMap<Kind, Vec<&PodLine>> = BTreeMap::new();
    for pod in &lists.pods {
        base.entry(kind(pod)).or_default().push(pod);
    }
    let mut pods: Vec<PodLine> = Vec::with_capacity(lists.pods.len());
    match targets(&base, mix)? {
        None => pods.extend(lists.pods.iter().filter(|pod| pod.num_gpu > 0).cloned()),
        Some(targets) => {
            for (kind, target) in targets {
                draw(base.get(&kind).map_or(&[], Vec::as_slice), target, random, &mut pods);
            }
        }
    }
    let cpu_only = base.get(&Kind::CpuOnly).map_or(&[][..], Vec::as_slice);
    add_cpu_only(cpu_only, mix, random, &mut pods)?;
    if let Some(percent) = mix.constrained_share {
        constrain(&mut pods, &lists.nodes, percent, mix.constrained_models, random)?;
    }
    let redrawn = mix.fractional_share.or(mix.multi_gpu_share).or(mix.cpu_only_share).is_some();
    if redrawn {
        for (number, pod) in pods.iter_mut().enumerate() {
            pod.name = format!("pod-{number:06}");
        }
    }
    Ok(pods)
}

/// GPU each kind shall ask for; `None` where the mix says nothing of it.
fn targets(
    base: &BTreeMap<Kind, Vec<&PodLine>>,
    mix: &Mix,
) -> Result<Option<[(Kind, u64); 3]>, GenerateError> {
    let demand = |kind| {
        let pods: &[&PodLine] = base.get(&kind).map_or(&[], Vec::as_slice);
        pods.iter().map(|pod| pod.gpu_demand()).sum::<u64>()
    };
    let [part, one, several] = [Kind::Fractional, Kind::One, Kind::Several].map(demand);
    let all = part + one + several;
    let share = |percent: u32| all * u64::from(percent) / 100;
    let [wanted_part, wanted_one, wanted_several] =
        match (mix.fractional_share, mix.multi_gpu_share) {
            (None, None) => return Ok(None),
            (Some(fractional), Some(multi)) => {
                check("--multi-gpu-share", multi, fractional.saturating_add(multi) <= 100, OVER)?;
                [share(fractional), all - share(fractional) - share(multi), share(multi)]
            }
            (Some(fractional), None) => {
                check("--fractional-share", fractional, fractional <= 100, OVER)?;
                let rest = all - share(fractional);
                let several = scaled(rest, several, one + several);
                [share(fractional), rest - several, several]
            }
            (None, Some(multi)) => {
                check("--multi-gpu-share", multi, multi <= 100, OVER)?;
                let rest = all - share(multi);
                let part = scaled(rest, part, one + part);
                [part, rest - part, share(multi)]
            }
        };
    let targets =
        [(Kind::Fractional, wanted_part), (Kind::One, wanted_one), (Kind::Several, wanted_several)];
    for (kind, wanted) in targets {
        let flag = if kind == Kind::Several { "--multi-gpu-share" } else { "--fractional-share" };
        let percent = mix.fractional_share.or(mix.multi_gpu_share).unwrap_or(0);
        check(flag, percent, wanted == 0 || demand(kind) > 0, "the list has no pod of a kind")?;
    }
    Ok(Some(targets))
}

const OVER: &str = "the shares come to more than 100 %";

fn check(
    flag: &'static str,
    percent: u32,
    possible: bool,
    rule: &'static str,
) -> Result<(), GenerateError> {
    if possible { Ok(()) } else { Err(GenerateError::Share { flag, percent, rule }) }
}

fn scaled(amount: u64, part: u64, whole: u64) -> u64 {
    (amount * part).checked_div(whole).unwrap_or(0)
}

/// Takes pods until they ask for as close to `target` as whole pods come: all of the list in a
/// drawn order, then all of it again, so that what repeats is spread evenly.
fn draw(base: &[&PodLine], target: u64, random: &mut SplitMix64, pods: &mut Vec<PodLine>) {
    let mut asked = 0;
    let mut deck: Vec<&PodLine> = Vec::new();
    while asked < target && !base.is_empty() {
        if deck.is_empty() {
            deck = base.to_vec();
            random.shuffle(&mut deck);
        }
        let Some(pod) = deck.pop() else { return };
        let demand = pod.gpu_demand();
        if asked + demand / 2 > target {
            return;
        }
        asked += demand;
        pods.push(pod.clone());
    }
}

fn add_cpu_only(
    base: &[&PodLine],
    mix: &Mix,
    random: &mut SplitMix64,
    pods: &mut Vec<PodLine>,
) -> Result<(), GenerateError> {
    let Some(percent) = mix.cpu_only_share else {
        pods.extend(base.iter().map(|pod| (*pod).clone()));
        return Ok(());
    };
    let flag = "--cpu-only-share";
    check(flag, percent, percent < 100, "there would be no pod with GPU: use 0 to 99")?;
    check(flag, percent, percent == 0 || !base.is_empty(), "the list has no pod without GPU")?;
    let with_gpu = pods.len();
    let [percent, rest] = [percent, 100 - percent].map(|part| usize::try_from(part).unwrap_or(0));
    let wanted = (with_gpu * percent + rest / 2) / rest.max(1);
    let mut deck: Vec<&PodLine> = Vec::new();
    for _ in 0..wanted {
        if deck.is_empty() {
            deck = base.to_vec();
            random.shuffle(&mut deck);
        }
        pods.extend(deck.pop().cloned());
    }
    Ok(())
}

/// Gives `percent` of the pods with GPU one or two models they can run on, and the others none.
fn constrain(
    pods: &mut [PodLine],
    nodes: &[NodeLine],
    percent: u32,
    weights: ModelWeights,
    random: &mut SplitMix64,
) -> Result<(), GenerateError> {
    check("--constrained-share", percent, percent <= 100, "there are only 100 percent")?;
    for pod in pods.iter_mut() {
        pod.gpu_spec.clear();
    }
    let mut capacity: BTreeMap<&str, u64> = BTreeMap::new();
    for node in nodes {
        if let Some(model) = node.gpu_model.as_deref() {
            *capacity.entry(model).or_default() += u64::from(node.num_gpu);
        }
    }
    let named = !capacity.is_empty() || percent == 0;
    check("--constrained-share", percent, named, "no node names its GPU model")?;
    let mut order: Vec<usize> = (0..pods.len()).filter(|at| pods[*at].num_gpu > 0).collect();
    let wanted = (order.len() * usize::try_from(percent).unwrap_or(0) + 50) / 100;
    random.shuffle(&mut order);
    for at in order.into_iter().take(wanted) {
        let fitting = |model: &str| {
            nodes.iter().any(|n| n.gpu_model.as_deref() == Some(model) && holds(n, &pods[at]))
        };
        let mut models: Vec<(&str, u64)> = capacity
            .iter()
            .filter(|(model, _)| fitting(model))
            .map(|(model, gpus)| (*model, if weights == ModelWeights::Even { 1 } else { *gpus }))
            .collect();
        let count = 1 + random.position(2);
        for _ in 0..count.min(models.len()) {
            let by: Vec<u64> = models.iter().map(|(_, weight)| *weight).collect();
            let (model, _) = models.remove(random.weighted(&by));
            pods[at].gpu_spec.push(model.to_owned());
        }
        pods[at].gpu_spec.sort_unstable();
    }
    Ok(())
}
