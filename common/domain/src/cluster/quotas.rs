//! Quotas: asked of every create, and again of every placement.

use super::{Cluster, Refusal};
use crate::ids::{ProjectName, UserName};
use crate::project::{Held, QuotaHit, QuotaScope};
use crate::session::{Members, SessionSpec};
use crate::slice::{GpuAmount, GpuRequest};
use crate::units::Fgpu;

impl Cluster {
    /// Refuses a create that its quotas never allow, or that would let too many wait.
    pub(super) fn check_quota(
        &self,
        spec: &SessionSpec,
        owner: &UserName,
        members: Members,
    ) -> Result<(), Refusal> {
        let count = u64::from(members.count());
        // Members of an array can run one after another; a gang cannot.
        let at_once = if matches!(members, Members::Gang(_)) { count } else { 1 };
        let waiting = Held { pending: count, ..Held::default() };
        let project = spec.project();
        let hit = self
            .quota_hit(&project, owner, &waiting, true)
            .or_else(|| self.quota_hit(&project, owner, &self.least(spec).times(at_once), false));
        hit.map_or(Ok(()), |hit| Err(Refusal::QuotaExceeded(Box::new(hit))))
    }

    /// The quota that `asked` would break: on top of what is in use, or by itself alone.
    pub(super) fn quota_hit(
        &self,
        project: &ProjectName,
        user: &UserName,
        asked: &Held,
        on_top: bool,
    ) -> Option<QuotaHit> {
        let record = self.projects.get(project)?;
        let (all, own) = (self.held_by_project(project), self.held_by_user(project, user));
        let scopes = [
            (&record.quota, all, QuotaScope::Project(project.clone())),
            (record.quota_of(user), own, QuotaScope::User(project.clone(), user.clone())),
        ];
        scopes.into_iter().find_map(|(quota, used, scope)| {
            if quota.is_unlimited() {
                return None;
            }
            let base = if on_top { used } else { Held::default() };
            quota.hit(&base, asked, &scope).and_then(|_| quota.hit(&used, asked, &scope))
        })
    }

    /// The least a session of `spec` holds once it is placed. How much fGPU whole devices are
    /// depends on the device; amounts given directly are only known with it.
    pub(super) fn least(&self, spec: &SessionSpec) -> Held {
        Held {
            fgpu: spec.resources.gpu.as_ref().map(|gpu| self.least_fgpu(gpu)).unwrap_or_default(),
            cpu: spec.resources.cpu,
            memory: spec.resources.memory,
            sessions: 1,
            pending: 0,
        }
    }

    fn least_fgpu(&self, gpu: &GpuRequest) -> Fgpu {
        match gpu.amount {
            GpuAmount::Fgpu(amount) => amount,
            GpuAmount::Whole(count) => {
                let capacity = &self.index.accounts.capacity;
                let units = &self.settings.units;
                if let Some(profile) = &gpu.mig {
                    let allowed = capacity
                        .instances
                        .keys()
                        .filter(|(of, model, ..)| profile.is(of) && gpu.allows_model(model));
                    let least = allowed
                        .map(|(_, model, card, memory)| {
                            units.units_of_instance(model, *card, *memory).capacity
                        })
                        .min()
                        .unwrap_or_default();
                    return Fgpu(least.0.saturating_mul(u64::from(count.get())));
                }
                let devices = capacity.devices.keys();
                let allowed = devices.filter(|(model, _)| gpu.allows_model(model));
                let least = allowed.map(|(model, memory)| units.units_of(model, *memory).capacity);
                let least = least.min().unwrap_or_default();
                Fgpu(least.0.saturating_mul(u64::from(count.get())))
            }
            GpuAmount::Direct { .. } => Fgpu::ZERO,
        }
    }
}
