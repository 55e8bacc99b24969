//! How much of the idle GPU a usual pod cannot use: the measure of "Beware of Fragmentation"
//! (USENIX ATC 2023).

use crate::replay::ClassLine;

/// The usual pods, by which idle GPU is judged.
#[derive(Debug, Default)]
pub(super) struct Usual {
    classes: Vec<ClassLine>,
    weight: u128,
}

impl Usual {
    pub(super) fn add(&mut self, class: ClassLine) {
        self.weight += u128::from(class.weight);
        self.classes.push(class);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Idle thousandths of a GPU on a node that a usual pod cannot use, on the average: all where
    /// it does not fit or wants none, else those of GPUs with less left than it wants of each.
    pub(super) fn unusable(&self, cpu_free: u64, gpus_free: &[u64], model: Option<&str>) -> u64 {
        let idle: u64 = gpus_free.iter().sum();
        if idle == 0 || self.weight == 0 {
            return 0;
        }
        let lost = self.classes.iter().map(|class| {
            let usable = usable(class, cpu_free, gpus_free, model);
            u128::from(class.weight) * u128::from(idle - usable)
        });
        u64::try_from(lost.sum::<u128>() / self.weight).unwrap_or(u64::MAX)
    }
}

fn usable(class: &ClassLine, cpu_free: u64, gpus_free: &[u64], model: Option<&str>) -> u64 {
    let allowed =
        class.gpu_spec.is_empty() || model.is_some_and(|m| class.gpu_spec.iter().any(|s| s == m));
    if class.num_gpu == 0 || class.cpu_milli > cpu_free || !allowed {
        return 0;
    }
    let fitting = gpus_free.iter().filter(|free| **free >= class.gpu_milli);
    let (count, sum) = fitting.fold((0_u32, 0), |(count, sum), free| (count + 1, sum + free));
    if count >= class.num_gpu { sum } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(num_gpu: u32, gpu_milli: u64, weight: u64) -> ClassLine {
        ClassLine { cpu_milli: 1000, num_gpu, gpu_milli, gpu_spec: Vec::new(), weight }
    }

    fn usual(classes: Vec<ClassLine>) -> Usual {
        let mut usual = Usual::default();
        classes.into_iter().for_each(|class| usual.add(class));
        usual
    }

    #[test]
    fn what_is_left_beside_a_large_share_is_lost_to_whoever_wants_more() {
        let free = [190, 1000];
        assert_eq!(usual(vec![class(1, 1000, 1)]).unusable(1000, &free, None), 190);
        assert_eq!(usual(vec![class(1, 100, 1)]).unusable(1000, &free, None), 0);
        assert_eq!(usual(vec![class(2, 500, 1)]).unusable(1000, &free, None), 1190);
        let both = usual(vec![class(1, 1000, 3), class(1, 100, 1)]);
        assert_eq!(both.unusable(1000, &free, None), 190 * 3 / 4);
    }

    #[test]
    fn without_cpu_or_of_another_model_everything_idle_is_lost() {
        assert_eq!(usual(vec![class(1, 100, 1)]).unusable(999, &[500], None), 500);
        assert_eq!(usual(vec![class(0, 0, 1)]).unusable(1000, &[500], None), 500);
        let only = ClassLine { gpu_spec: vec!["A".to_owned()], ..class(1, 100, 1) };
        assert_eq!(usual(vec![only.clone()]).unusable(1000, &[500], Some("B")), 500);
        assert_eq!(usual(vec![only]).unusable(1000, &[500], Some("A")), 0);
    }
}
