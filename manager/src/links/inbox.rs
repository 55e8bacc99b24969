//! What an agent said and the engine has not taken yet.
//!
//! One input is on its way at a time; what comes meanwhile is gathered, so an agent that talks much
//! costs no more memory than what it has to say. What the store could not take is told again. How far
//! starting has come is only for people to see: it waits a moment for something that counts.

use fgpu_domain::cluster::Input;
use fgpu_domain::ids::NodeName;
use fgpu_domain::node::Inventory;
use fgpu_domain::placement::MOST_IMAGES;
use fgpu_domain::session::{Report, ReportState};
use fgpu_wire::v1;
use std::mem::discriminant;
use std::time::Duration;
use tokio::time::Instant;

/// Names of images that are gone, kept until the engine takes them.
const MOST_TOLD: usize = 1024;
/// How long the progress of starting waits for other news to go with: few containers are being created
/// for longer, and those that are will be seen to be.
const PROGRESS_WAITS: Duration = Duration::from_millis(150);

/// Words of one agent on their way to the engine.
#[derive(Debug)]
pub(super) struct Inbox {
    node: NodeName,
    register: Option<Input>,
    inventory: Option<Inventory>,
    images: Option<v1::NodeImages>,
    reports: Vec<Report>,
    full: bool,
    /// Until when the reports can wait.
    patience: Option<Instant>,
}

impl Inbox {
    /// Begins with the registration.
    pub(super) fn new(node: NodeName, register: Input) -> Self {
        Self {
            node,
            register: Some(register),
            inventory: None,
            images: None,
            reports: Vec::new(),
            full: false,
            patience: None,
        }
    }

    pub(super) fn inventory(&mut self, inventory: Inventory) {
        self.inventory = Some(inventory);
    }

    /// Adds news of images to those not taken yet.
    pub(super) fn images(&mut self, news: v1::NodeImages) {
        let known = self.images.take().filter(|_| !news.full);
        let mut images = known.unwrap_or_default();
        let v1::NodeImages { full, added, removed } = news;
        images.full |= full;
        images.added.retain(|image| !removed.contains(image) && !added.contains(image));
        images.removed.retain(|image| !added.contains(image));
        images.added.splice(..0, added);
        images.removed.extend(removed);
        images.added.truncate(MOST_IMAGES);
        images.removed.truncate(MOST_TOLD);
        self.images = Some(images);
    }

    /// Adds news; with `full` they replace all that was said before.
    pub(super) fn reports(&mut self, reports: Vec<Report>, full: bool) {
        if full {
            self.reports.clear();
            self.full = true;
        }
        if self.full || !reports.iter().all(is_progress) {
            self.patience = None;
        } else if self.reports.is_empty() && !reports.is_empty() {
            self.patience = Some(Instant::now() + PROGRESS_WAITS);
        }
        for report in reports {
            // Progress of one placement: only the newest word of each kind matters.
            self.reports.retain(|old| !is_newer(&report, old));
            self.reports.push(report);
        }
    }

    /// Puts back what the engine could not take; what came since stands.
    pub(super) fn put_back(&mut self, input: Input) {
        match input {
            Input::Register { .. } => self.register = Some(input),
            Input::Inventory { inventory, .. } => {
                self.inventory.get_or_insert(*inventory);
            }
            Input::Images { full, added, removed, .. } => {
                let newer = self.images.take();
                self.images = Some(v1::NodeImages { full, added, removed });
                newer.into_iter().for_each(|newer| self.images(newer));
            }
            Input::Reports { reports, full, .. } if !self.full => {
                let newer = std::mem::take(&mut self.reports);
                self.reports(reports, full);
                self.reports(newer, false);
            }
            _ => {}
        }
    }

    /// Until when there is nothing to tell, although there is something.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.patience
    }

    /// The next input, if there is something to tell by now.
    pub(super) fn next(&mut self) -> Option<Input> {
        if let Some(register) = self.register.take() {
            return Some(register);
        }
        let node = self.node.clone();
        if let Some(inventory) = self.inventory.take() {
            return Some(Input::Inventory { node, inventory: Box::new(inventory) });
        }
        let waits = self.patience.is_some_and(|until| until > Instant::now());
        if waits || (self.reports.is_empty() && !self.full) {
            // Hints come last.
            let v1::NodeImages { full, added, removed } = self.images.take()?;
            return Some(Input::Images { node, full, added, removed });
        }
        self.patience = None;
        let reports = std::mem::take(&mut self.reports);
        let full = std::mem::take(&mut self.full);
        Some(Input::Reports { node, reports, full })
    }
}

fn is_progress(report: &Report) -> bool {
    matches!(report.state, ReportState::Preparing(_))
}

fn is_newer(new: &Report, old: &Report) -> bool {
    let kind = |report: &Report| match &report.state {
        ReportState::Preparing(_) => None,
        other => Some(discriminant(other)),
    };
    old.session == new.session && old.generation == new.generation && kind(old) == kind(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::ids::SessionId;
    use fgpu_domain::session::Progress;
    use fgpu_domain::time::UnixMillis;

    fn inbox() -> Inbox {
        let node = NodeName::new("a1").unwrap();
        let mut inbox = Inbox::new(node.clone(), Input::RemoveNode { node });
        inbox.next();
        inbox
    }

    fn report(session: &str, state: ReportState) -> Report {
        Report { session: SessionId::new(session).unwrap(), generation: 1, state, grant: None }
    }

    fn pulling(done: u64) -> ReportState {
        ReportState::Preparing(Progress::Pulling { done, total: 0 })
    }

    fn running() -> ReportState {
        ReportState::Running { at: UnixMillis(1), ports: Vec::new() }
    }

    fn gone() -> ReportState {
        ReportState::Gone { exit_code: Some(0), code: String::new(), message: String::new() }
    }

    fn taken(inbox: &mut Inbox) -> (Vec<ReportState>, bool) {
        match inbox.next() {
            Some(Input::Reports { reports, full, .. }) => {
                (reports.into_iter().map(|report| report.state).collect(), full)
            }
            other => panic!("reports were expected, not {other:?}"),
        }
    }

    #[test]
    fn progress_is_gathered_but_no_step_is_lost() {
        let mut inbox = inbox();
        for state in [pulling(1), pulling(2), running(), gone()] {
            inbox.reports(vec![report("aaaaaaaa", state)], false);
        }
        assert_eq!(taken(&mut inbox), (vec![pulling(2), running(), gone()], false));
        assert!(inbox.next().is_none());
    }

    #[tokio::test]
    async fn progress_alone_waits_a_moment_for_what_counts() {
        let mut inbox = inbox();
        inbox.reports(vec![report("aaaaaaaa", pulling(1))], false);
        assert!(inbox.next().is_none());
        inbox.reports(vec![report("aaaaaaaa", running())], false);
        assert_eq!(inbox.patience(), None);
        assert_eq!(taken(&mut inbox), (vec![pulling(1), running()], false));

        inbox.reports(vec![report("aaaaaaaa", pulling(1))], false);
        let patience = inbox.patience();
        inbox.reports(vec![report("aaaaaaaa", pulling(2))], false);
        assert_eq!(inbox.patience(), patience, "more progress does not make it wait longer");
        tokio::time::sleep_until(inbox.patience().unwrap()).await;
        assert_eq!(taken(&mut inbox), (vec![pulling(2)], false));
        assert_eq!(inbox.patience(), None);

        inbox.reports(Vec::new(), false);
        assert_eq!(inbox.patience(), None, "nothing is nothing to wait for");
        inbox.reports(vec![report("aaaaaaaa", pulling(3))], false);
        inbox.reports(vec![report("aaaaaaaa", pulling(4))], true);
        assert_eq!(taken(&mut inbox), (vec![pulling(4)], true));
    }

    #[test]
    fn what_could_not_be_taken_is_told_again_before_what_came_since() {
        let mut inbox = inbox();
        inbox.reports(vec![report("aaaaaaaa", running())], false);
        let first = inbox.next().unwrap();
        inbox.reports(vec![report("aaaaaaaa", gone())], false);

        inbox.put_back(first);

        assert_eq!(taken(&mut inbox), (vec![running(), gone()], false));
    }

    #[test]
    fn news_of_images_are_gathered_and_the_latest_word_counts() {
        let images = |full, added: &[&str], removed: &[&str]| v1::NodeImages {
            full,
            added: added.iter().map(|&name| name.to_owned()).collect(),
            removed: removed.iter().map(|&name| name.to_owned()).collect(),
        };
        let mut inbox = inbox();
        inbox.images(images(true, &["a", "b"], &[]));
        let first = inbox.next().unwrap();
        inbox.images(images(false, &["c"], &["a"]));
        inbox.put_back(first);
        inbox.images(images(false, &["a"], &["b"]));
        match inbox.next() {
            Some(Input::Images { full: true, added, .. }) => assert_eq!(added, ["a", "c"]),
            other => panic!("all images were expected, not {other:?}"),
        }
        assert!(inbox.next().is_none());
    }

    #[test]
    fn a_full_report_replaces_everything_said_before_even_nothing() {
        let mut inbox = inbox();
        inbox.reports(vec![report("aaaaaaaa", running())], false);
        let first = inbox.next().unwrap();
        inbox.reports(Vec::new(), true);
        inbox.put_back(first);

        assert_eq!(taken(&mut inbox), (Vec::new(), true));
    }
}
