//! Which role may call what: one table, and nothing that is not in it.

use crate::tokens::Role;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// Who may make it.
    pub(super) roles: &'static [Role],
    /// Whether a manager that has lost touch with the store may answer from what it knew last.
    pub(super) stale: bool,
}

const ADMIN: &[Role] = &[Role::Admin];
const PEOPLE: &[Role] = &[Role::Admin, Role::Member];
const AGENTS: &[Role] = &[Role::Agent];

/// The rule for a call, by its path; `None`: nobody may make it.
pub(super) fn rule(path: &str) -> Option<Rule> {
    let (roles, stale) = match path {
        "/fgpu.v1.SessionService/GetSession"
        | "/fgpu.v1.SessionService/ListSessions"
        | "/fgpu.v1.NodeService/GetNode"
        | "/fgpu.v1.NodeService/ListNodes"
        | "/fgpu.v1.DeviceService/ListDevices"
        | "/fgpu.v1.AdminService/GetCluster" => (PEOPLE, true),
        "/fgpu.v1.SessionService/CreateSession"
        | "/fgpu.v1.SessionService/DryRunSession"
        | "/fgpu.v1.SessionService/WatchSessions"
        | "/fgpu.v1.SessionService/StopSession"
        | "/fgpu.v1.SessionService/StopGroup"
        | "/fgpu.v1.SessionService/RemoveSession"
        | "/fgpu.v1.SessionService/ExplainSession"
        | "/fgpu.v1.SessionService/StreamLogs"
        | "/fgpu.v1.SessionService/Exec"
        | "/fgpu.v1.SessionService/PortForward"
        // Asked of the engine, which a manager that has lost touch has no more.
        | "/fgpu.v1.ProjectService/GetProject"
        | "/fgpu.v1.ProjectService/ListProjects"
        | "/fgpu.v1.ProjectService/GetUsage"
        | "/fgpu.v1.ProjectService/ListClasses" => (PEOPLE, false),
        "/fgpu.v1.NodeService/CordonNode"
        | "/fgpu.v1.NodeService/UncordonNode"
        | "/fgpu.v1.NodeService/DrainNode"
        | "/fgpu.v1.NodeService/SetNodeLabels"
        | "/fgpu.v1.NodeService/RemoveNode"
        | "/fgpu.v1.DeviceService/CordonDevice"
        | "/fgpu.v1.DeviceService/UncordonDevice"
        | "/fgpu.v1.AdminService/CreateToken"
        | "/fgpu.v1.AdminService/ListTokens"
        | "/fgpu.v1.AdminService/RevokeToken"
        | "/fgpu.v1.AdminService/PlanDefrag"
        | "/fgpu.v1.AdminService/RunDefrag"
        | "/fgpu.v1.ProjectService/CreateProject"
        | "/fgpu.v1.ProjectService/UpdateProject"
        | "/fgpu.v1.ProjectService/RemoveProject"
        | "/fgpu.v1.ProjectService/SetQuota"
        | "/fgpu.v1.ProjectService/PutClass"
        | "/fgpu.v1.ProjectService/UpdateClass"
        | "/fgpu.v1.ProjectService/RemoveClass" => (ADMIN, false),
        "/fgpu.v1.AgentService/Link" | "/fgpu.v1.AgentService/OpenChannel" => (AGENTS, false),
        path if path.starts_with("/grpc.reflection.") => (PEOPLE, true),
        _ => return None,
    };
    Some(Rule { roles, stale })
}

/// Whether a call needs no token: health, so that a supervisor can look.
pub(super) fn is_open(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
}

/// Every call of the contract, as `service`, `method`.
#[cfg(test)]
pub(super) fn all_calls() -> Vec<(String, String)> {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(fgpu_wire::DESCRIPTORS).unwrap();
    let mut calls = Vec::new();
    for file in set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}", file.package(), service.name());
                calls.push((name, method.name().to_owned()));
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_contract_has_a_rule_and_nothing_else_has() {
        let calls = all_calls();
        assert!(calls.len() > 25, "{}", calls.len());
        for (service, method) in calls {
            assert!(rule(&format!("/{service}/{method}")).is_some(), "{service}/{method}");
        }
        for path in ["/", "/fgpu.v1.SessionService/", "/fgpu.v1.SessionService/Other", "/x/y"] {
            assert_eq!(rule(path), None, "{path}");
            assert!(!is_open(path));
        }
    }

    #[test]
    fn agents_do_nothing_but_act_as_agents_and_members_administer_nothing() {
        for (service, method) in all_calls() {
            let roles = rule(&format!("/{service}/{method}")).unwrap().roles;
            let agents = service.ends_with("AgentService");
            assert_eq!(roles.contains(&Role::Agent), agents, "{service}/{method}");
            assert_eq!(roles.contains(&Role::Admin), !agents, "{service}/{method}");
        }
        let member = |path: &str| rule(path).unwrap().roles.contains(&Role::Member);
        assert!(!member("/fgpu.v1.AdminService/CreateToken"));
        assert!(!member("/fgpu.v1.NodeService/DrainNode"));
        for method in ["PlanDefrag", "RunDefrag"] {
            assert!(!member(&format!("/fgpu.v1.AdminService/{method}")), "{method}");
        }
        assert!(member("/fgpu.v1.DeviceService/ListDevices"));
        for method in ["GetProject", "ListProjects", "GetUsage", "ListClasses"] {
            assert!(member(&format!("/fgpu.v1.ProjectService/{method}")), "{method}");
        }
        let administers = ["CreateProject", "UpdateProject", "RemoveProject", "SetQuota"];
        for method in administers.into_iter().chain(["PutClass", "UpdateClass", "RemoveClass"]) {
            assert!(!member(&format!("/fgpu.v1.ProjectService/{method}")), "{method}");
        }
    }

    #[test]
    fn what_changes_something_is_never_answered_by_a_manager_that_lost_touch() {
        for (service, method) in all_calls() {
            let stale = rule(&format!("/{service}/{method}")).unwrap().stale;
            let asks_the_engine = service.ends_with("ProjectService");
            let reads = method.starts_with("Get") && !asks_the_engine
                || method == "ListSessions"
                || method == "ListNodes"
                || method == "ListDevices";
            assert_eq!(stale, reads, "{service}/{method}");
        }
    }
}
