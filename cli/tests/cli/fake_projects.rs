//! The part of the fake manager that knows projects: it keeps what it is asked, and answers with
//! one project, `research`, of which ann holds a quarter.

use crate::fake::Script;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1::project_service_server::ProjectService;
use fgpu_wire::v1::*;
use std::fmt::Debug;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub struct Projects(pub Arc<Script>);

impl Projects {
    fn note<T: Debug>(&self, request: &Request<T>) {
        self.0.projects.lock().unwrap().push(format!("{:?}", request.get_ref()));
    }
}

fn quota() -> Quota {
    Quota { fgpu_milli: Some(40_000), ..Quota::default() }
}

fn research() -> Project {
    Project {
        name: "research".into(),
        weight: 300,
        quota: Some(quota()),
        members: vec!["ann".into()],
        ..Project::default()
    }
}

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn create_project(
        &self,
        request: Request<CreateProjectRequest>,
    ) -> Result<Response<Project>, Status> {
        self.note(&request);
        Ok(Response::new(research()))
    }

    async fn get_project(
        &self,
        request: Request<GetProjectRequest>,
    ) -> Result<Response<Project>, Status> {
        self.note(&request);
        match request.get_ref().name.as_str() {
            "research" => Ok(Response::new(research())),
            name => {
                let text = format!("there is no project `{name}`");
                let error = CallError::new(ErrorCode::ProjectNotFound, text);
                Err(error.hint("see `fgpu project list`").into())
            }
        }
    }

    async fn list_projects(
        &self,
        request: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        self.note(&request);
        Ok(Response::new(ListProjectsResponse { projects: vec![research()] }))
    }

    async fn update_project(
        &self,
        request: Request<UpdateProjectRequest>,
    ) -> Result<Response<Project>, Status> {
        self.note(&request);
        Ok(Response::new(research()))
    }

    async fn remove_project(
        &self,
        request: Request<RemoveProjectRequest>,
    ) -> Result<Response<RemoveProjectResponse>, Status> {
        self.note(&request);
        Ok(Response::new(RemoveProjectResponse { name: request.into_inner().name }))
    }

    async fn set_quota(
        &self,
        request: Request<SetQuotaRequest>,
    ) -> Result<Response<Project>, Status> {
        self.note(&request);
        Ok(Response::new(research()))
    }

    async fn get_usage(
        &self,
        request: Request<GetUsageRequest>,
    ) -> Result<Response<GetUsageResponse>, Status> {
        self.note(&request);
        let held = Held { fgpu_milli: 10_000, sessions: 3, ..Held::default() };
        let user = UserUsage { user: "ann".into(), held: Some(held), quota: None };
        let usage = ProjectUsage {
            project: "research".into(),
            weight: 300,
            held: Some(held),
            quota: Some(quota()),
            share_millionths: 123_456,
            users: vec![user],
            ..ProjectUsage::default()
        };
        Ok(Response::new(GetUsageResponse { projects: vec![usage] }))
    }

    async fn list_classes(
        &self,
        request: Request<ListClassesRequest>,
    ) -> Result<Response<ListClassesResponse>, Status> {
        self.note(&request);
        let low = PriorityClass {
            name: "low".into(),
            priority: -100,
            preemptible: true,
            built_in: true,
            on_preempt: OnPreempt::Requeue.into(),
            ..PriorityClass::default()
        };
        Ok(Response::new(ListClassesResponse { classes: vec![low] }))
    }

    async fn put_class(
        &self,
        request: Request<PutClassRequest>,
    ) -> Result<Response<PriorityClass>, Status> {
        self.note(&request);
        Ok(Response::new(request.into_inner().class.unwrap()))
    }

    async fn update_class(
        &self,
        request: Request<UpdateClassRequest>,
    ) -> Result<Response<PriorityClass>, Status> {
        self.note(&request);
        let name = request.into_inner().name;
        Ok(Response::new(PriorityClass { name, ..PriorityClass::default() }))
    }

    async fn remove_class(
        &self,
        request: Request<RemoveClassRequest>,
    ) -> Result<Response<RemoveClassResponse>, Status> {
        self.note(&request);
        Ok(Response::new(RemoveClassResponse { name: request.into_inner().name }))
    }
}
