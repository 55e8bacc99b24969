//! Projects, quotas and priority classes.

mod usage;

use super::{Caller, errors};
use crate::engine::EngineError;
use fgpu_domain::class::PriorityClass;
use fgpu_domain::cluster::{Applied, Cluster, Input};
use fgpu_domain::ids::{ProjectName, UserName};
use fgpu_domain::project::{DEFAULT_WEIGHT, Project, Quota};
use fgpu_wire::convert;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::project_service_server::ProjectService;
use fgpu_wire::v1::set_quota_request::Of;
use std::sync::Arc;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

/// Changes are made one at a time: each begins with what the one before has left.
#[derive(Default)]
pub(super) struct Projects {
    changing: Mutex<()>,
}

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn create_project(
        &self,
        request: Request<v1::CreateProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request)?;
        let wanted = request.into_inner();
        let name = convert::project_name(&wanted.name)?;
        let members = convert::users("--member", &wanted.members)?;
        let weight = if wanted.weight == 0 { DEFAULT_WEIGHT } else { wanted.weight };
        let _one = self.changing.lock().await;
        let project = Project { weight, members, ..Project::new(name.clone()) };
        if let Some(known) = recorded(&caller, &name).await? {
            let same = Project { created_at: known.created_at, ..project } == *known;
            return if same {
                Ok(Response::new((&*known).into()))
            } else {
                Err(exists(&name).into())
            };
        }
        put(&caller, project).await
    }

    async fn get_project(
        &self,
        request: Request<v1::GetProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request)?;
        let name = convert::project_name(&request.into_inner().name)?;
        let project = visible(&caller, &name).await?;
        Ok(Response::new(shown(&caller, &project)))
    }

    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let all = read(&caller, all_projects).await?;
        let seen = all.iter().filter(|project| sees(&caller, project));
        let projects = seen.map(|project| shown(&caller, project)).collect();
        Ok(Response::new(v1::ListProjectsResponse { projects }))
    }

    async fn update_project(
        &self,
        request: Request<v1::UpdateProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request)?;
        let change = request.into_inner();
        let name = convert::project_name(&change.name)?;
        let _one = self.changing.lock().await;
        let mut project = Project::clone(&*visible(&caller, &name).await?);
        apply_update(&mut project, &change)?;
        put(&caller, project).await
    }

    async fn remove_project(
        &self,
        request: Request<v1::RemoveProjectRequest>,
    ) -> Result<Response<v1::RemoveProjectResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name = convert::project_name(&request.into_inner().name)?;
        let _one = self.changing.lock().await;
        submit(&caller, Input::RemoveProject { name: name.clone() }).await?;
        Ok(Response::new(v1::RemoveProjectResponse { name: name.to_string() }))
    }

    async fn set_quota(
        &self,
        request: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let caller = Caller::of(&request)?;
        let change = request.into_inner();
        let name = convert::project_name(&change.project)?;
        let _one = self.changing.lock().await;
        let mut project = Project::clone(&*visible(&caller, &name).await?);
        apply_quota(&mut project, &change)?;
        put(&caller, project).await
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let caller = Caller::of(&request)?;
        let now = caller.term.clock.now();
        let of: Vec<Arc<Project>> = match request.into_inner().project.as_str() {
            "" => {
                let all = read(&caller, all_projects).await?;
                all.into_iter().filter(|project| sees(&caller, project)).collect()
            }
            name => vec![visible(&caller, &convert::project_name(name)?).await?],
        };
        let only = caller.owner().cloned();
        let projects = read(&caller, move |cluster| {
            of.iter().map(|project| usage::of(cluster, project, only.as_ref(), now)).collect()
        });
        Ok(Response::new(v1::GetUsageResponse { projects: projects.await? }))
    }

    async fn list_classes(
        &self,
        request: Request<v1::ListClassesRequest>,
    ) -> Result<Response<v1::ListClassesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let classes = read(&caller, all_classes).await?;
        let classes = classes.iter().map(Into::into).collect();
        Ok(Response::new(v1::ListClassesResponse { classes }))
    }

    async fn put_class(
        &self,
        request: Request<v1::PutClassRequest>,
    ) -> Result<Response<v1::PriorityClass>, Status> {
        let caller = Caller::of(&request)?;
        let class = request.into_inner().class.unwrap_or_default();
        let _one = self.changing.lock().await;
        put_class(&caller, &class).await
    }

    async fn update_class(
        &self,
        request: Request<v1::UpdateClassRequest>,
    ) -> Result<Response<v1::PriorityClass>, Status> {
        let caller = Caller::of(&request)?;
        let change = request.into_inner();
        let _one = self.changing.lock().await;
        let known = read(&caller, all_classes).await?;
        let known = known.iter().find(|class| class.name.as_str() == change.name);
        let fresh = || v1::PriorityClass { name: change.name.clone(), ..Default::default() };
        let class = updated(known.map_or_else(fresh, Into::into), &change);
        put_class(&caller, &class).await
    }

    async fn remove_class(
        &self,
        request: Request<v1::RemoveClassRequest>,
    ) -> Result<Response<v1::RemoveClassResponse>, Status> {
        let caller = Caller::of(&request)?;
        let class = v1::PriorityClass { name: request.into_inner().name, ..Default::default() };
        let name = convert::priority_class(&class)?.name;
        let _one = self.changing.lock().await;
        submit(&caller, Input::RemoveClass { name: name.clone() }).await?;
        Ok(Response::new(v1::RemoveClassResponse { name: name.to_string() }))
    }
}

async fn put_class(
    caller: &Caller,
    class: &v1::PriorityClass,
) -> Result<Response<v1::PriorityClass>, Status> {
    let class = Box::new(convert::priority_class(class)?);
    match submit(caller, Input::PutClass { class }).await? {
        Applied::Class(class) => Ok(Response::new((&*class).into())),
        other => Err(errors::unexpected(&other).into()),
    }
}

/// A class with what a change names.
fn updated(class: v1::PriorityClass, change: &v1::UpdateClassRequest) -> v1::PriorityClass {
    v1::PriorityClass {
        priority: change.priority.unwrap_or(class.priority),
        may_preempt: change.may_preempt.unwrap_or(class.may_preempt),
        preemptible: change.preemptible.unwrap_or(class.preemptible),
        min_run_ms: change.min_run_ms.unwrap_or(class.min_run_ms),
        grace_ms: change.grace_ms.or(class.grace_ms),
        on_preempt: match change.on_preempt() {
            v1::OnPreempt::Unspecified => class.on_preempt,
            named => named.into(),
        },
        ..class
    }
}

async fn submit(caller: &Caller, input: Input) -> Result<Applied, CallError> {
    caller.term.engine.submit(input).await.map_err(errors::from_engine)
}

async fn read<T: Send + 'static>(
    caller: &Caller,
    question: impl FnOnce(&Cluster) -> T + Send + 'static,
) -> Result<T, CallError> {
    caller.term.engine.read(question).await.map_err(errors::from_engine)
}

async fn put(caller: &Caller, project: Project) -> Result<Response<v1::Project>, Status> {
    match submit(caller, Input::PutProject { project: Box::new(project) }).await? {
        Applied::Project(project) => Ok(Response::new((&*project).into())),
        other => Err(errors::unexpected(&other).into()),
    }
}

async fn recorded(caller: &Caller, name: &ProjectName) -> Result<Option<Arc<Project>>, CallError> {
    let name = name.clone();
    read(caller, move |cluster| cluster.projects().get(&name).cloned()).await
}

/// The project called `name`, if the caller may see it.
async fn visible(caller: &Caller, name: &ProjectName) -> Result<Arc<Project>, CallError> {
    let wanted = name.clone();
    let found = read(caller, move |cluster| cluster.project(&wanted)).await?;
    let missing = fgpu_domain::cluster::Refusal::ProjectNotFound { project: name.clone() };
    let found = found.and_then(|found| if sees(caller, &found) { Ok(found) } else { Err(missing) });
    found.map_err(|refusal| errors::from_engine(EngineError::Refused(refusal)))
}

/// Every project, `default` among them, in the order of their names.
fn all_projects(cluster: &Cluster) -> Vec<Arc<Project>> {
    let mut projects: Vec<Arc<Project>> = cluster.projects().values().cloned().collect();
    let default = ProjectName::default();
    if !cluster.projects().contains_key(&default) {
        projects.extend(cluster.project(&default).ok());
        projects.sort_by(|a, b| a.name.cmp(&b.name));
    }
    projects
}

/// Every class, lowest priority first.
fn all_classes(cluster: &Cluster) -> Vec<PriorityClass> {
    let recorded = cluster.classes();
    let built_in = PriorityClass::all_built_in().into_iter();
    let mut classes: Vec<PriorityClass> =
        built_in.filter(|class| !recorded.contains_key(&class.name)).collect();
    classes.extend(recorded.values().map(|class| PriorityClass::clone(class)));
    classes.sort_by(|a, b| a.priority.cmp(&b.priority).then_with(|| a.name.cmp(&b.name)));
    classes
}

/// Members see the projects that take their sessions.
fn sees(caller: &Caller, project: &Project) -> bool {
    caller.owner().is_none_or(|user| project.admits(user))
}

/// A project as the caller may see it: what others may hold is nothing to a member.
fn shown(caller: &Caller, project: &Project) -> v1::Project {
    let mut wire = v1::Project::from(project);
    if let Some(user) = caller.owner() {
        wire.users.retain(|name, _| name == user.as_str());
    }
    wire
}

fn exists(name: &ProjectName) -> CallError {
    CallError::new(ErrorCode::ProjectExists, format!("project {name} is there already"))
        .with("project", name)
        .hint(format!("change it with `fgpu project set {name}`"))
}

fn apply_update(project: &mut Project, change: &v1::UpdateProjectRequest) -> Result<(), CallError> {
    if change.weight != 0 {
        project.weight = change.weight;
    }
    let added = convert::users("--add-member", &change.add_members)?;
    let removed = convert::users("--remove-member", &change.remove_members)?;
    if let Some(both) = added.intersection(&removed).next() {
        return Err(CallError::field("--add-member", both, "either added or removed, not both"));
    }
    if change.everybody {
        if let Some(user) = added.first() {
            let rule = "a project open to everybody has no members";
            return Err(CallError::field("--add-member", user, rule));
        }
        project.members.clear();
        return Ok(());
    }
    let had_members = !project.members.is_empty();
    project.members.extend(added);
    project.members.retain(|user| !removed.contains(user));
    if had_members && project.members.is_empty() {
        let rule = "without any member the project would be open to everybody";
        let last = change.remove_members.last().cloned().unwrap_or_default();
        let error = CallError::field("--remove-member", last, rule);
        return Err(error.hint("say so with `--everybody`"));
    }
    Ok(())
}

fn apply_quota(project: &mut Project, change: &v1::SetQuotaRequest) -> Result<(), CallError> {
    let remove: Vec<v1::QuotaKind> = change.remove().collect();
    let set = change.set.unwrap_or_default();
    let changed = |quota: &Quota| convert::change_quota(quota, &set, &remove);
    let nothing = set == v1::Quota::default() && remove.is_empty();
    if change.reset != nothing {
        let rule = "say which limits to set or to remove";
        return Err(CallError::field("quota", "", rule));
    }
    match &change.of {
        Some(Of::User(user)) => {
            let user: UserName = convert::users("--user", std::slice::from_ref(user))?
                .pop_first()
                .ok_or_else(|| CallError::field("--user", "", "name a user"))?;
            if change.reset {
                project.users.remove(&user);
            } else {
                let own = changed(project.quota_of(&user));
                project.users.insert(user, own);
            }
        }
        _ if change.reset => {
            return Err(CallError::field("--reset", "", "name the user it is for"));
        }
        Some(Of::EachUser(true)) => project.user_quota = changed(&project.user_quota),
        Some(Of::EachUser(false)) | None => project.quota = changed(&project.quota),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_domain::units::Fgpu;

    fn project(members: &[&str]) -> Project {
        let members = members.iter().map(|user| user.parse().unwrap()).collect();
        Project { members, ..Project::new("research".parse().unwrap()) }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_update_changes_what_it_names_and_leaves_the_rest() {
        let mut changed = project(&["ann", "bob"]);
        let change = v1::UpdateProjectRequest {
            add_members: names(&["cyd"]),
            remove_members: names(&["bob"]),
            ..Default::default()
        };
        apply_update(&mut changed, &change).unwrap();
        assert_eq!(changed, project(&["ann", "cyd"]));

        let change = v1::UpdateProjectRequest { weight: 7, ..Default::default() };
        apply_update(&mut changed, &change).unwrap();
        assert_eq!(changed, Project { weight: 7, ..project(&["ann", "cyd"]) });
    }

    #[test]
    fn a_project_is_opened_to_everybody_only_when_that_is_said() {
        let mut changed = project(&["ann"]);
        let last =
            v1::UpdateProjectRequest { remove_members: names(&["ann"]), ..Default::default() };
        let refused = apply_update(&mut changed, &last).unwrap_err();
        assert_eq!(refused.fields[0].field, "--remove-member");

        let mut changed = project(&["ann"]);
        let open = v1::UpdateProjectRequest { everybody: true, ..last };
        apply_update(&mut changed, &open).unwrap();
        assert_eq!(changed, project(&[]));
    }

    #[test]
    fn a_quota_is_of_the_project_of_each_user_or_of_one() {
        let fgpu = |milli| v1::Quota { fgpu_milli: Some(milli), ..Default::default() };
        let change =
            |of, milli| v1::SetQuotaRequest { of, set: Some(fgpu(milli)), ..Default::default() };
        let mut changed = project(&[]);
        apply_quota(&mut changed, &change(None, 8_000)).unwrap();
        apply_quota(&mut changed, &change(Some(Of::EachUser(true)), 4_000)).unwrap();
        let ann = || Some(Of::User("ann".to_owned()));
        let pending = v1::Quota { pending: Some(5), ..Default::default() };
        let own = v1::SetQuotaRequest { set: Some(pending), ..change(ann(), 0) };
        apply_quota(&mut changed, &own).unwrap();

        assert_eq!(changed.quota.fgpu, Some(Fgpu::whole(8)));
        assert_eq!(changed.user_quota.fgpu, Some(Fgpu::whole(4)));
        // Begun with what every user may hold.
        let of_ann = *changed.quota_of(&"ann".parse().unwrap());
        assert_eq!((of_ann.fgpu, of_ann.pending), (Some(Fgpu::whole(4)), Some(5)));

        let reset = v1::SetQuotaRequest { of: ann(), reset: true, ..Default::default() };
        apply_quota(&mut changed, &reset).unwrap();
        assert!(changed.users.is_empty());
    }

    #[test]
    fn what_a_change_of_a_class_does_not_name_stays_as_it_is() {
        let before = v1::PriorityClass {
            name: "batch".into(),
            priority: -50,
            may_preempt: true,
            preemptible: true,
            min_run_ms: 60_000,
            grace_ms: Some(5_000),
            on_preempt: v1::OnPreempt::Stop.into(),
            built_in: false,
        };
        assert_eq!(updated(before.clone(), &v1::UpdateClassRequest::default()), before);
        let change = v1::UpdateClassRequest {
            name: "batch".into(),
            priority: Some(0),
            may_preempt: Some(false),
            min_run_ms: Some(0),
            grace_ms: Some(60_000),
            on_preempt: v1::OnPreempt::Requeue.into(),
            ..v1::UpdateClassRequest::default()
        };
        let expected = v1::PriorityClass {
            priority: 0,
            may_preempt: false,
            min_run_ms: 0,
            grace_ms: Some(60_000),
            on_preempt: v1::OnPreempt::Requeue.into(),
            ..before.clone()
        };
        assert_eq!(updated(before, &change), expected);
    }

    #[test]
    fn a_change_of_nothing_is_refused() {
        let mut changed = project(&[]);
        for of in [None, Some(Of::User("ann".to_owned()))] {
            let nothing = v1::SetQuotaRequest { of, ..Default::default() };
            assert!(apply_quota(&mut changed, &nothing).is_err());
        }
        let reset = v1::SetQuotaRequest { reset: true, ..Default::default() };
        assert_eq!(apply_quota(&mut changed, &reset).unwrap_err().fields[0].field, "--reset");
    }
}
