//! `fgpu token …` and `fgpu cluster`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use fgpu_wire::v1::{CreateTokenRequest, GetClusterRequest, ListTokensRequest, RevokeTokenRequest};

use crate::connect::{ConnectArgs, Repeat};
use crate::failure::Failure;
use crate::output::{self, Format, ListArgs, OutputArgs, Table};
use crate::parse;
use crate::view::{self, ClusterView, TokenView};

/// `fgpu token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token; its secret is shown once and never again
    Create(CreateArgs),
    /// List the tokens, without their secrets
    #[command(visible_alias = "ls")]
    List(TokenListArgs),
    /// Make a token invalid
    Revoke(RevokeArgs),
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything
    Admin,
    /// Sessions of one's own
    Member,
    /// Only to be the agent of a node
    Agent,
}

impl From<Role> for fgpu_wire::v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
            Role::Agent => Self::Agent,
        }
    }
}

/// `fgpu token create`
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Who will use it
    #[arg(value_name = "USER")]
    user: String,
    /// What it allows
    #[arg(long, value_enum, value_name = "ROLE", default_value = "member")]
    role: Role,
    /// How long it is valid, e.g. `30d` [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse::some_duration)]
    lifetime: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu token list`
#[derive(Debug, Args)]
pub(crate) struct TokenListArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu token revoke`
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Id of the token, see `fgpu token list`
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `fgpu cluster`
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `fgpu token …`.
pub(crate) async fn token(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => {
            let request = RevokeTokenRequest { id: args.id };
            let link = args.connect.link()?;
            let revoked = link
                .call(Repeat::Safe, async |c| c.admin().revoke_token(request.clone()).await)
                .await?;
            output::line(revoked.id)
        }
    }
}

async fn create(args: CreateArgs) -> Result<(), Failure> {
    let role = fgpu_wire::v1::Role::from(args.role);
    let request = CreateTokenRequest {
        user: args.user,
        role: role.into(),
        lifetime_ms: args.lifetime.map(parse::millis).unwrap_or(0),
    };
    let link = args.connect.link()?;
    let created =
        link.call(Repeat::Never, async |c| c.admin().create_token(request.clone()).await).await?;
    let mut view = TokenView::from(created.token.unwrap_or_default());
    match args.output.output {
        Format::Json => {
            view.secret = Some(created.secret);
            output::json(&view)
        }
        Format::Table => {
            output::line(created.secret)?;
            output::say(format!(
                "token {} of {}: the line above is its secret, shown this once",
                view.id, view.user
            ));
            Ok(())
        }
    }
}

async fn list(args: TokenListArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let answer = link
        .call(Repeat::Safe, async |c| c.admin().list_tokens(ListTokensRequest {}).await)
        .await?;
    let views: Vec<_> = answer.tokens.into_iter().map(TokenView::from).collect();
    let now_ms = output::now_ms();
    args.list.print(
        &views,
        |view| view.id.clone(),
        |views| {
            let mut table = Table::new(&["ID", "USER", "ROLE", "AGE", "EXPIRES"]);
            for view in views {
                table.row([
                    view.id.clone(),
                    view.user.clone(),
                    view.role.clone().unwrap_or_default(),
                    output::age_of(view.created_at_ms, now_ms),
                    match view.expires_at_ms {
                        None => "never".to_owned(),
                        Some(at) if at <= now_ms => "expired".to_owned(),
                        Some(at) => format!("in {}", output::age(at - now_ms)),
                    },
                ]);
            }
            table
        },
    )
}

/// Runs `fgpu cluster`.
pub(crate) async fn cluster(args: ClusterArgs) -> Result<(), Failure> {
    let link = args.connect.link()?;
    let cluster = link
        .call(Repeat::Safe, async |c| c.admin().get_cluster(GetClusterRequest {}).await)
        .await?;
    let view = ClusterView::from(cluster);
    match args.output.output {
        Format::Json => output::json(&view),
        Format::Table => output::text(cluster_text(&view)),
    }
}

fn cluster_text(view: &ClusterView) -> String {
    let unit = view.default_unit.as_ref().map(view::UnitRuleView::summary).unwrap_or_default();
    let by_model = view.units_by_model.iter();
    let by_model = by_model.map(|(model, rule)| format!("{model}: {}", rule.summary()));
    let units: Vec<_> =
        Some(unit).filter(|unit| !unit.is_empty()).into_iter().chain(by_model).collect();
    let shared = if view.allow_shared { "allowed where nothing enforces a slice" } else { "" };
    output::fields(&[
        ("cluster", view.id.clone()),
        ("manager", view.version.clone()),
        ("store", view.store.clone()),
        ("leader", format!("{} (epoch {})", view.leader, view.epoch)),
        ("policy", view.policy.clone()),
        ("unit", units.join("\n")),
        ("quantum", view::fgpu(view.quantum_fgpu_milli)),
        ("shared isolation", shared.to_owned()),
        ("nodes", view.nodes.to_string()),
        ("devices", view.devices.to_string()),
        ("sessions", view.sessions.to_string()),
        ("you are", format!("{} ({})", view.user, view.role.as_deref().unwrap_or("no role"))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1;

    #[test]
    fn the_cluster_says_what_one_fgpu_is_and_who_asks() {
        use v1::unit_rule::Rule;
        let rule = |rule| v1::UnitRule { rule: Some(rule) };
        let cluster = v1::Cluster {
            id: "c1".into(),
            leader: "m1".into(),
            epoch: 3,
            user: "ann".into(),
            role: v1::Role::Admin.into(),
            units: Some(v1::UnitPolicy {
                default_rule: Some(rule(Rule::FgpuPerDeviceMilli(10_000))),
                by_model: [("T4".to_owned(), rule(Rule::UnitMemoryBytes(8 << 30)))].into(),
                quantum_milli: 100,
            }),
            ..v1::Cluster::default()
        };

        let text = cluster_text(&cluster.into());

        assert!(text.contains("one device is 10 fGPU\n"), "{text}");
        assert!(text.contains("T4: one fGPU is 8 GiB"), "{text}");
        assert!(text.contains("ann (admin)"), "{text}");
        assert!(text.contains("0.1 fGPU"), "{text}");
    }
}
