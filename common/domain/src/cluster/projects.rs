//! Projects and priority classes: made, changed, forgotten, and asked of every create.

use super::input::Applied;
use super::{Cluster, Records, Refusal, RestoreError};
use crate::class::PriorityClass;
use crate::ids::{ClassName, DEFAULT_PROJECT, ProjectName, UserName};
use crate::project::Project;
use crate::session::{Phase, Session, SessionSpec};
use crate::time::UnixMillis;
use crate::usage::Usage;
use std::sync::Arc;

impl Cluster {
    /// The project called `name`; `default` is there without a record.
    ///
    /// # Errors
    /// [`Refusal::ProjectNotFound`].
    pub fn project(&self, name: &ProjectName) -> Result<Arc<Project>, Refusal> {
        match self.projects.get(name) {
            Some(project) => Ok(project.clone()),
            None if name.as_str() == DEFAULT_PROJECT => Ok(Arc::new(Project::new(name.clone()))),
            None => Err(Refusal::ProjectNotFound { project: name.clone() }),
        }
    }

    /// The priority class called `name`, of a record or built in.
    ///
    /// # Errors
    /// [`Refusal::ClassNotFound`].
    pub fn class(&self, name: &ClassName) -> Result<PriorityClass, Refusal> {
        let recorded = self.classes.get(name).map(|class| PriorityClass::clone(class));
        let missing = || Refusal::ClassNotFound { class: name.clone() };
        recorded.or_else(|| PriorityClass::built_in(name)).ok_or_else(missing)
    }

    /// Everything a store keeps of the cluster.
    #[must_use]
    pub fn records(&self) -> Records {
        Records {
            sessions: self.sessions.values().map(|session| Session::clone(session)).collect(),
            nodes: self.nodes.values().map(|node| crate::node::Node::clone(node)).collect(),
            projects: self.projects.values().map(|project| Project::clone(project)).collect(),
            classes: self.classes.values().map(|class| PriorityClass::clone(class)).collect(),
            usage: self.usage.values().map(|usage| Usage::clone(usage)).collect(),
        }
    }

    pub(super) fn set_project(
        &mut self,
        mut project: Project,
        now: UnixMillis,
    ) -> Result<Applied, Refusal> {
        project.check()?;
        let known = self.projects.get(&project.name);
        project.created_at = known.map_or(now, |known| known.created_at);
        match known {
            Some(same) if **same == project => Ok(Applied::Project(same.clone())),
            _ => Ok(Applied::Project(self.put_project(project))),
        }
    }

    pub(super) fn remove_project(&mut self, name: &ProjectName) -> Result<Applied, Refusal> {
        if !self.projects.contains_key(name) {
            return Err(Refusal::ProjectNotFound { project: name.clone() });
        }
        let sessions = self.live(|session| session.spec.project() == *name);
        // The project `default` goes on, as if it had never been changed.
        if sessions > 0 && name.as_str() != DEFAULT_PROJECT {
            return Err(Refusal::ProjectInUse { project: name.clone(), sessions });
        }
        self.delete_project(name);
        if sessions == 0 {
            self.forget_history(name);
        }
        Ok(Applied::Removed)
    }

    pub(super) fn set_class(&mut self, class: PriorityClass) -> Result<Applied, Refusal> {
        class.check()?;
        match self.classes.get(&class.name) {
            Some(same) if **same == class => Ok(Applied::Class(same.clone())),
            _ => Ok(Applied::Class(self.put_class(class))),
        }
    }

    pub(super) fn remove_class(&mut self, name: &ClassName) -> Result<Applied, Refusal> {
        if !self.classes.contains_key(name) {
            return Err(Refusal::ClassNotFound { class: name.clone() });
        }
        let sessions = self.live(|session| session.spec.class() == *name);
        if sessions > 0 && PriorityClass::built_in(name).is_none() {
            return Err(Refusal::ClassInUse { class: name.clone(), sessions });
        }
        self.delete_class(name);
        Ok(Applied::Removed)
    }

    /// How many sessions that have not ended are such.
    fn live(&self, such: impl Fn(&Session) -> bool) -> usize {
        let live = self.sessions.values().filter(|s| !matches!(s.phase, Phase::Ended(_)));
        live.filter(|session| such(session)).count()
    }

    /// Refuses what names a project or a class that is not there or not the caller's.
    pub(super) fn check_project(
        &self,
        spec: &SessionSpec,
        owner: &UserName,
    ) -> Result<(), Refusal> {
        let project = self.project(&spec.project())?;
        if !project.admits(owner) {
            let (project, user) = (project.name.clone(), owner.clone());
            return Err(Refusal::NotAMember { project, user });
        }
        self.class(&spec.class()).map(drop)
    }

    pub(super) fn restore_projects(
        &mut self,
        projects: Vec<Project>,
        classes: Vec<PriorityClass>,
        usage: Vec<Usage>,
    ) -> Result<(), RestoreError> {
        let twice = |what: String| Err(RestoreError::Twice { what });
        for project in projects {
            if self.projects.contains_key(&project.name) {
                return twice(format!("project {}", project.name));
            }
            self.put_project(project);
        }
        for class in classes {
            if self.classes.contains_key(&class.name) {
                return twice(format!("class {}", class.name));
            }
            self.put_class(class);
        }
        for usage in usage {
            if self.usage.contains_key(&usage.project) {
                return twice(format!("the history of project {}", usage.project));
            }
            self.put_usage(usage);
        }
        Ok(())
    }
}
