//! The context file: clusters by name, so that an address and a token need not be typed.
//!
//! `~/.config/fgpu/config.toml`, readable by its owner alone because it holds tokens.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use fgpu_domain::ids::ProjectName;

use crate::failure::Failure;
use crate::output::{self, ListArgs, Table};

/// Everything in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The context used where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// Contexts by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One cluster and who we are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `http://host:port` or `https://host:port`, several with commas.
    pub(crate) address: String,
    /// Bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// File with the certificates to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// Project of sessions that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
}

/// `fgpu context …`
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List the contexts; the current one is marked
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Make a context the current one
    Use {
        /// Name of the context
        name: String,
    },
    /// Add a context, or change what is given of it
    Set(SetArgs),
    /// Remove a context
    Rm {
        /// Name of the context
        name: String,
    },
}

/// `fgpu context set`
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the context
    name: String,
    /// Address of the manager, several with commas
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Bearer token; better `--token-file`, which leaves no trace in the shell's history
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// File that holds the bearer token (`-`: standard input)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with the certificates to trust, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Project of sessions that name none; empty: the cluster's own, `default`
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

#[derive(Serialize)]
struct ContextView {
    name: String,
    current: bool,
    address: String,
    has_token: bool,
    ca: Option<PathBuf>,
    project: Option<String>,
}

/// Runs `fgpu context …`.
pub(crate) fn run(command: ContextCommand) -> Result<(), Failure> {
    let path = path()?;
    let mut file = Contexts::read(&path)?;
    match command {
        ContextCommand::List(args) => return list(&file, &args),
        ContextCommand::Use { name } => {
            file.get(&name)?;
            output::say(format!("context `{name}` is now the current one"));
            file.current = Some(name);
        }
        ContextCommand::Set(args) => set(&mut file, args)?,
        ContextCommand::Rm { name } => {
            file.get(&name)?;
            file.contexts.remove(&name);
            file.current = file.current.filter(|current| *current != name);
            output::say(format!("context `{name}` is removed"));
        }
    }
    file.write(&path)
}

fn list(file: &Contexts, args: &ListArgs) -> Result<(), Failure> {
    let view = |(name, context): (&String, &Context)| ContextView {
        name: name.clone(),
        current: file.current.as_ref() == Some(name),
        address: context.address.clone(),
        has_token: context.token.is_some(),
        ca: context.ca.clone(),
        project: context.project.clone(),
    };
    let views: Vec<_> = file.contexts.iter().map(view).collect();
    args.print(
        &views,
        |view| view.name.clone(),
        |views| {
            let mut table = Table::new(&["", "NAME", "ADDRESS", "TOKEN", "PROJECT", "CA"]);
            for view in views {
                let yes = |yes: bool, text: &str| if yes { text.to_owned() } else { String::new() };
                let ca = view.ca.as_ref().map(|ca| ca.display().to_string()).unwrap_or_default();
                table.plain_row([
                    yes(view.current, "*"),
                    view.name.clone(),
                    view.address.clone(),
                    yes(view.has_token, "yes"),
                    view.project.clone().unwrap_or_default(),
                    ca,
                ]);
            }
            table
        },
    )
}

fn set(file: &mut Contexts, args: SetArgs) -> Result<(), Failure> {
    let known = file.contexts.contains_key(&args.name);
    let context = file.contexts.entry(args.name.clone()).or_default();
    match args.address {
        Some(address) => {
            crate::connect::check_addresses(&address)?;
            context.address = address;
        }
        None if !known => {
            return Err(Failure::usage(format!(
                "context `{}` is new and has no address",
                args.name
            ))
            .hint("add `--address http://host:7070`"));
        }
        None => {}
    }
    if let Some(path) = args.token_file {
        context.token = Some(read_token(&path)?);
    }
    if let Some(token) = args.token {
        context.token = Some(token);
    }
    if let Some(ca) = args.ca {
        let absolute = fs::canonicalize(&ca).map_err(|error| {
            Failure::because(format!("cannot read the certificates in `{}`", ca.display()), &error)
        })?;
        context.ca = Some(absolute);
    }
    if let Some(project) = args.project {
        context.project = project_of(&project)?;
    }
    file.current.get_or_insert_with(|| args.name.clone());
    output::say(format!("context `{}` is saved", args.name));
    Ok(())
}

/// `None` for the empty text.
fn project_of(text: &str) -> Result<Option<String>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let project = text.parse::<ProjectName>();
    let project = project.map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Some(project.to_string()))
}

/// The token in a file, or on standard input for `-`.
pub(crate) fn read_token(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        fs::read_to_string(path)
    };
    let text = read.map_err(|error| {
        Failure::because(format!("cannot read the token in `{}`", path.display()), &error)
    })?;
    match text.trim() {
        "" => Err(Failure::new(format!("`{}` holds no token: it is empty", path.display()))),
        token => Ok(token.to_owned()),
    }
}

/// Where the file is: `$XDG_CONFIG_HOME/fgpu/config.toml`, or under `~/.config`.
pub(crate) fn path() -> Result<PathBuf, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")));
    match folder {
        Some(folder) => Ok(folder.join("fgpu/config.toml")),
        None => Err(Failure::new("there is no place for the context file: HOME is not set")
            .hint("set HOME or XDG_CONFIG_HOME, or name the manager with `--address`")),
    }
}

impl Contexts {
    /// What is in the file; nothing where there is none.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                let fact = format!("cannot read the context file `{}`", path.display());
                return Err(Failure::because(fact, &error));
            }
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(format!("the context file `{}` is not understood", path.display()))
                .detail(error.to_string().trim_end())
                .hint("correct it, or remove it and use `fgpu context set`")
        })
    }

    /// Writes the file whole or not at all, readable by its owner alone.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::because(format!("cannot write the context file `{}`", path.display()), error)
        };
        let text = toml::to_string_pretty(self).map_err(|error| failed(&error))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| failed(&error))?;
        let temporary = path.with_extension(format!("toml.{}", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| {
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed(&error)
        })
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let failure = Failure::usage(format!("there is no context `{name}`"));
            match known.is_empty() {
                true => failure.hint("add one with `fgpu context set NAME --address URL`"),
                false => failure.detail(format!("contexts: {}", known.join(", "))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Contexts {
        let context = Context {
            address: "http://127.0.0.1:7070".to_owned(),
            token: Some("secret".to_owned()),
            ca: None,
            project: Some("research".to_owned()),
        };
        Contexts {
            current: Some("local".to_owned()),
            contexts: BTreeMap::from([("local".to_owned(), context)]),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fgpu/config.toml");

        sample().write(&path).unwrap();

        assert_eq!(Contexts::read(&path).unwrap(), sample());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn no_file_is_no_contexts_and_a_broken_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert_eq!(Contexts::read(&path).unwrap(), Contexts::default());

        fs::write(&path, "current = 7").unwrap();

        let refused = Contexts::read(&path).unwrap_err();
        assert!(refused.fact.contains("not understood"), "{refused}");
    }

    #[test]
    fn an_unknown_context_names_the_known_ones() {
        let refused = sample().get("remote").unwrap_err();
        assert!(refused.to_string().contains("local"), "{refused}");
    }
}
