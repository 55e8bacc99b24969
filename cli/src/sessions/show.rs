//! Sessions as people see them: a row each, or one in full.

use crate::output::{self, Table};
use crate::progress;
use crate::view::{self, SessionView};

/// The sessions for people.
pub(super) fn table(sessions: &[SessionView], now_ms: u64) -> Table {
    let grouped = sessions.iter().any(|session| session.group.is_some());
    let mut heads = vec![
        "ID",
        "NAME",
        "OWNER",
        "PROJECT",
        "STATE",
        "FGPU",
        "MEMORY",
        "COMPUTE",
        "ISOLATION",
        "NODE",
        "AGE",
        "COMMAND",
    ];
    let waiting_any = sessions.iter().any(|session| session.pending_reason.is_some());
    if waiting_any {
        heads.insert(5, "WAITS FOR");
    }
    if grouped {
        heads.insert(1, "GROUP");
    }
    let mut table = Table::new(&heads);
    for session in sessions {
        let grant = session.grant.as_ref().filter(|grant| !grant.slices.is_empty());
        let asked = session.spec.gpu.as_ref();
        let fgpu = match (grant, asked) {
            (Some(grant), _) => fgpu_domain::units::Fgpu(grant.fgpu_milli()).to_string(),
            (None, Some(asked)) => asked.summary(),
            (None, None) => String::new(),
        };
        let mut cells = vec![
            session.id.clone(),
            session.name.clone().unwrap_or_default(),
            session.owner.clone(),
            session.project.clone(),
            waiting(session, now_ms),
            fgpu,
            grant.map(|grant| view::gib(grant.memory_bytes())).unwrap_or_default(),
            grant.map(view::GrantView::compute).unwrap_or_default(),
            grant.and_then(|grant| grant.isolation.clone()).unwrap_or_default(),
            session.grant.as_ref().map(|grant| grant.node.clone()).unwrap_or_default(),
            output::age_of(session.created_at_ms, now_ms),
            short(&command(session), 40),
        ];
        if waiting_any {
            cells.insert(5, session.pending_reason.clone().unwrap_or_default());
        }
        if grouped {
            let group = session.group.as_ref();
            cells.insert(1, group.map(view::GroupView::label).unwrap_or_default());
        }
        table.row(cells);
    }
    table
}

/// The phase, or how it ended: `failed (3)`.
fn state(session: &SessionView) -> String {
    let phase = session.phase.clone().unwrap_or_else(|| "unknown".to_owned());
    match (&session.outcome, session.exit_code) {
        (Some(outcome), Some(code)) => format!("{outcome} ({code})"),
        (Some(outcome), None) => outcome.clone(),
        (None, _) => phase,
    }
}

/// The state, and of one whose time has not come when it does: `pending (in 2h)`.
fn waiting(session: &SessionView, now_ms: u64) -> String {
    let pending = session.phase.as_deref() == Some("pending");
    let start = session.spec.start_at_ms.filter(|at| pending && *at > now_ms);
    match start {
        Some(at) => format!("{} (in {})", state(session), output::age(at - now_ms)),
        None => state(session),
    }
}

/// Image and command in one line.
fn command(session: &SessionView) -> String {
    let spec = &session.spec;
    let image = Some(spec.image.as_str()).filter(|image| !image.is_empty());
    let words = spec.entrypoint.iter().chain(&spec.command).map(String::as_str);
    let words: Vec<_> = image.into_iter().chain(words).collect();
    words.join(" ").replace(['\n', '\t'], " ")
}

fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// `spread over fgpu.io/rack`
fn arrangement(spec: &view::SpecView) -> String {
    match (&spec.arrangement, &spec.spread_over) {
        (Some(arrangement), Some(label)) => format!("{arrangement} over {label}"),
        (Some(arrangement), None) => arrangement.clone(),
        (None, _) => String::new(),
    }
}

/// One session in full.
pub(super) fn detail(view: &SessionView, now_ms: u64) -> String {
    let spec = &view.spec;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let ago = |at: u64| format!("{} ago", output::age_of(at, now_ms));
    let grants = view.grant.iter().map(progress::grant_line);
    let stranded =
        view.stranded.iter().map(|grant| format!("stranded: {}", progress::grant_line(grant)));
    let slice = |slice: &view::SliceView| {
        let compute = match slice.compute_milli {
            0 => "shared".to_owned(),
            milli => view::percent(milli),
        };
        let (fgpu, memory) = (view::fgpu(slice.fgpu_milli), view::gib(slice.memory_bytes));
        format!("  {}: {fgpu}, {memory}, {compute}", slice.device_uuid)
    };
    let slices = view.grant.iter().flat_map(|grant| grant.slices.iter().map(slice));
    let ports = view.ports.iter();
    let ports = ports.map(|p| format!("{} at {}:{}", p.container_port, p.host, p.host_port));
    let attempts = view.attempts.iter().map(|a| format!("{} {}", ago(a.at_ms), a.line()));
    let lines = |items: Vec<String>| items.join("\n");
    output::fields(&[
        ("id", view.id.clone()),
        ("name", text(&view.name)),
        ("owner", view.owner.clone()),
        ("project", view.project.clone()),
        ("group", view.group.as_ref().map(group).unwrap_or_default()),
        ("state", format!("{} for {}", state(view), output::age_of(view.phase_since_ms, now_ms))),
        ("waits for", text(&view.pending_reason)),
        ("reason", text(&view.reason)),
        ("reason code", text(&view.reason_code)),
        ("created", ago(view.created_at_ms)),
        ("started", view.started_at_ms.map(ago).unwrap_or_default()),
        ("kind", text(&spec.kind)),
        ("command", command(view)),
        ("asked for", spec.gpu.as_ref().map(view::GpuView::summary).unwrap_or_default()),
        ("granted", lines(grants.chain(slices).chain(stranded).collect())),
        ("compute policy", text(&spec.compute_policy)),
        (
            "cpu",
            some_amount(spec.cpu_milli, |milli| fgpu_domain::units::CpuMilli(milli).to_string()),
        ),
        ("memory", some_amount(spec.memory_bytes, view::gib)),
        ("shm", some_amount(spec.shm_bytes, view::gib)),
        ("class", spec.class.clone()),
        ("priority", spec.priority.to_string()),
        ("after", lines(spec.after.iter().map(after).collect())),
        ("start at", spec.start_at_ms.map(output::instant).unwrap_or_default()),
        ("pending timeout", some_amount(spec.pending_timeout_ms, output::age)),
        ("arrangement", arrangement(spec)),
        ("movable", if spec.movable { "yes".to_owned() } else { String::new() }),
        ("time limit", some_amount(spec.time_limit_ms, output::age)),
        ("stop grace", some_amount(spec.stop_grace_ms, output::age)),
        ("on disconnect", text(&spec.on_disconnect)),
        ("on lost", text(&spec.on_lost)),
        ("ports", lines(ports.collect())),
        ("labels", pairs(&spec.labels)),
        ("attempts", lines(attempts.collect())),
    ])
}

/// `array abcdefgh of 9 sessions; this is abcdefgh/3`
fn group(group: &view::GroupView) -> String {
    let kind = group.kind.as_deref().unwrap_or("group");
    let at_once = group.at_once.map(|count| format!(", {count} at once")).unwrap_or_default();
    format!("{kind} {} of {} sessions{at_once}; this is {}", group.id, group.size, group.label())
}

/// `abcdefgh completes`
fn after(after: &view::DependencyView) -> String {
    let how = if after.condition.as_deref() == Some("any") { "ends" } else { "completes" };
    format!("{} {how}", after.session)
}

fn some_amount(amount: u64, show: impl Fn(u64) -> String) -> String {
    if amount == 0 { String::new() } else { show(amount) }
}

/// `a=1, b=2`
pub(crate) fn pairs(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1::{self, Phase};

    fn running() -> v1::Session {
        let slice = v1::Slice {
            device_uuid: "GPU-1".into(),
            memory_bytes: 80 << 30,
            compute_milli: 1000,
            fgpu_milli: 10_000,
        };
        v1::Session {
            id: "abcd1234".into(),
            owner: "ann".into(),
            created_at_ms: 1_000,
            phase: Phase::Running.into(),
            grant: Some(v1::Grant {
                node: "a1".into(),
                slices: vec![slice],
                isolation: v1::Isolation::Shared.into(),
            }),
            spec: Some(v1::SessionSpec {
                name: "train".into(),
                image: "pytorch".into(),
                command: vec!["python".into(), "train.py".into()],
                ..v1::SessionSpec::default()
            }),
            ..v1::Session::default()
        }
    }

    #[test]
    fn ps_shows_fgpu_memory_compute_isolation_and_node() {
        let mut waiting = running();
        waiting.grant = None;
        waiting.phase = Phase::Pending.into();
        let spec = waiting.spec.as_mut().unwrap();
        spec.gpu = Some(v1::GpuRequest {
            amount: Some(v1::gpu_request::Amount::FgpuMilli(2_500)),
            ..v1::GpuRequest::default()
        });

        let table = table(&[running().into(), waiting.into()], 61_000).render();

        assert_eq!(
            table,
            "ID        NAME   OWNER  PROJECT  STATE    FGPU      MEMORY  COMPUTE  ISOLATION  NODE  AGE  COMMAND\n\
             abcd1234  train  ann    default  running  10        80 GiB  100 %    shared     a1    60s  pytorch python train.py\n\
             abcd1234  train  ann    default  pending  2.5 fGPU  -       -        -          -     60s  pytorch python train.py\n"
        );
    }

    fn member(index: u32) -> v1::Session {
        let kind = v1::GroupKind::Array.into();
        let group = v1::Group { id: "abcd1234".into(), index, size: 9, kind, at_once: 2 };
        v1::Session { group: Some(group), ..running() }
    }

    #[test]
    fn what_sessions_wait_for_is_a_column_where_any_does() {
        let mut waits = member(1);
        waits.group = None;
        waits.phase = v1::Phase::Pending.into();
        waits.pending_reason = "room".into();
        let mut runs = waits.clone();
        runs.phase = v1::Phase::Running.into();
        runs.pending_reason = String::new();
        let text = table(&[runs.clone().into(), waits.into()], 0).render();
        assert!(
            text.lines().next().is_some_and(|heads| heads.contains("STATE    WAITS FOR")),
            "{text}"
        );
        assert!(text.contains("running  -  ") && text.contains("pending  room"), "{text}");
        assert!(!table(&[runs.into()], 0).render().contains("WAITS FOR"));
    }

    #[test]
    fn members_of_a_group_are_shown_as_they_may_be_named() {
        let text = table(&[member(7).into(), running().into()], 61_000).render();
        assert!(text.starts_with("ID        GROUP       NAME   OWNER"), "{text}");
        assert!(text.contains("abcd1234  abcd1234/7  train"), "{text}");
        assert!(text.contains("abcd1234  -           train"), "{text}");
        let text = detail(&member(7).into(), 61_000);
        let group = "array abcd1234 of 9 sessions, 2 at once; this is abcd1234/7";
        assert!(text.contains(group), "{text}");
    }

    #[test]
    fn what_a_session_waits_for_is_part_of_it() {
        let mut waiting = running();
        waiting.phase = Phase::Pending.into();
        let spec = waiting.spec.as_mut().unwrap();
        let condition = v1::DependencyCondition::Any.into();
        spec.start_at_ms = 1_772_352_000_000;
        spec.after = vec![v1::Dependency { session: "efgh5678".into(), condition }];
        let view = SessionView::from(waiting);

        let text = detail(&view, 61_000);
        assert!(text.contains("2026-03-01T08:00:00Z"), "{text}");
        assert!(text.contains("efgh5678 ends"), "{text}");
        let table = table(&[view], 1_772_352_000_000 - 7_200_000).render();
        assert!(table.contains("pending (in 2h)"), "{table}");
    }

    #[test]
    fn an_ended_session_shows_outcome_and_code() {
        let mut session = running();
        session.phase = Phase::Ended.into();
        session.outcome = v1::Outcome::Failed.into();
        session.exit_code = Some(3);
        assert_eq!(state(&session.into()), "failed (3)");
    }

    #[test]
    fn one_session_in_full_names_devices_and_leaves_out_what_is_not_set() {
        let text = detail(&running().into(), 61_000);
        assert!(text.contains("GPU-1: 10 fGPU, 80 GiB, 100 %"), "{text}");
        assert!(!text.contains("time limit"), "{text}");
    }

    #[test]
    fn long_commands_are_cut_not_wrapped() {
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abcd", 4), "abcd");
    }
}
