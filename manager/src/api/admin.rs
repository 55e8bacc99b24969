//! The cluster, and who may use it.

use super::{Caller, defrag, errors};
use crate::tokens::{Role, TokenRecord};
use fgpu_domain::ids::UserName;
use fgpu_service::secret::{Token, TokenId};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

/// Plans of moves are kept here until they are run.
#[derive(Default)]
pub(super) struct Admin {
    plans: defrag::Plans,
}

#[tonic::async_trait]
impl AdminService for Admin {
    type RunDefragStream = defrag::Progress;

    async fn plan_defrag(
        &self,
        request: Request<v1::PlanDefragRequest>,
    ) -> Result<Response<v1::DefragPlan>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(defrag::plan(&caller, &self.plans, &request.into_inner()).await?))
    }

    async fn run_defrag(
        &self,
        request: Request<v1::RunDefragRequest>,
    ) -> Result<Response<Self::RunDefragStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(defrag::run(caller, &self.plans, &request.into_inner()).await?))
    }

    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let Caller { identity, term } = Caller::of(&request)?;
        let snapshot = term.engine.snapshot();
        let devices = snapshot.nodes.values().map(|node| node.inventory.devices.len()).sum();
        Ok(Response::new(v1::Cluster {
            id: term.cluster_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: term.store.clone(),
            leader: term.address.clone(),
            epoch: term.epoch,
            units: Some((&term.config.units).into()),
            policy: term.config.policy.to_string(),
            user: identity.user.to_string(),
            role: wire_role(identity.role).into(),
            nodes: count(snapshot.nodes.len()),
            devices: count(devices),
            sessions: count(snapshot.sessions.len()),
            allow_shared: term.config.allow_shared,
        }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let Caller { identity, term } = Caller::of(&request)?;
        let wanted = request.into_inner();
        let role = match wanted.role() {
            v1::Role::Admin => Role::Admin,
            v1::Role::Member => Role::Member,
            v1::Role::Agent => Role::Agent,
            v1::Role::Unspecified => {
                return Err(CallError::field("--role", "", "`admin`, `member` or `agent`").into());
            }
        };
        let user: UserName = wanted.user.parse().map_err(|error: fgpu_domain::ids::IdError| {
            CallError::field("--user", &error.value, error.rule)
        })?;
        let lifetime = (wanted.lifetime_ms != 0).then_some(wanted.lifetime_ms);
        let token = Token::generate()
            .map_err(|error| CallError::new(ErrorCode::Internal, error.to_string()))?;
        let record = TokenRecord::new(&token, user, role, term.clock.now(), lifetime);
        let answer = wire_token(&record);
        term.tokens.insert(record).await.map_err(|error| errors::from_tokens(&error))?;
        tracing::info!(token = answer.id, user = answer.user, by = %identity.user, "token made");
        Ok(Response::new(v1::CreateTokenResponse {
            token: Some(answer),
            secret: token.secret().expose().to_owned(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let Caller { term, .. } = Caller::of(&request)?;
        let tokens = term.tokens.list().iter().map(wire_token).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let Caller { identity, term } = Caller::of(&request)?;
        let id = request.into_inner().id;
        let missing = || {
            CallError::new(ErrorCode::TokenNotFound, format!("there is no token `{id}`"))
                .with("token", &id)
                .hint("see `fgpu token list`")
        };
        let parsed = TokenId::try_from(id.clone()).map_err(|_| missing())?;
        let last = is_last_admin(&term.tokens.list(), &parsed, term.clock.now());
        if last {
            let message = format!("token {id} is the last one of an administrator");
            let error = CallError::new(ErrorCode::WrongPhase, message).with("token", &id);
            return Err(error.hint("make another with `fgpu token create --role admin`").into());
        }
        let revoked =
            term.tokens.revoke(&parsed).await.map_err(|error| errors::from_tokens(&error))?;
        if !revoked {
            return Err(missing().into());
        }
        tracing::info!(token = id, by = %identity.user, "token revoked");
        Ok(Response::new(v1::RevokeTokenResponse { id }))
    }
}

/// Whether nobody could administer the cluster without this token.
fn is_last_admin(tokens: &[TokenRecord], id: &TokenId, now: fgpu_domain::time::UnixMillis) -> bool {
    let good = |token: &&TokenRecord| {
        token.role == Role::Admin && token.expires_at.is_none_or(|at| now < at)
    };
    let mut admins = tokens.iter().filter(good);
    admins.next().is_some_and(|token| token.id == *id) && admins.next().is_none()
}

fn wire_role(role: Role) -> v1::Role {
    match role {
        Role::Admin => v1::Role::Admin,
        Role::Member => v1::Role::Member,
        Role::Agent => v1::Role::Agent,
    }
}

fn wire_token(record: &TokenRecord) -> v1::Token {
    v1::Token {
        id: record.id.to_string(),
        user: record.user.to_string(),
        role: wire_role(record.role).into(),
        created_at_ms: record.created_at.0,
        expires_at_ms: record.expires_at.map_or(0, |at| at.0),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
