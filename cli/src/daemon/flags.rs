//! One flag for each setting of a daemon, made from a list, so that flag, environment variable and
//! key in the file always have the same name.

use std::marker::PhantomData;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// A setting as the command line shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Key in the file: `timings.lost`.
    pub(crate) field: &'static str,
    /// What its value is called.
    pub(crate) value: &'static str,
    /// Help, with the default.
    pub(crate) help: &'static str,
}

/// The settings of one daemon.
pub(crate) trait Settings: 'static {
    /// What every environment variable begins with: `FGPU_MANAGER`.
    const PREFIX: &'static str;
    /// All settings, in the order of the help text.
    const ALL: &'static [Setting];
    /// Those that may be written without a value.
    const SWITCHES: &'static [&'static str];
}

/// The flags given for the settings of `S`.
#[derive(Debug, Clone)]
pub(crate) struct Flags<S> {
    /// Flag as written, key, text.
    pub(crate) given: Vec<(&'static str, &'static str, String)>,
    of: PhantomData<S>,
}

impl Setting {
    /// `timings-lost`
    pub(crate) fn flag(&self) -> String {
        self.field.replace(['.', '_'], "-")
    }

    /// `FGPU_MANAGER_TIMINGS_LOST`
    pub(crate) fn variable(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.field.replace('.', "_").to_uppercase())
    }
}

impl<S: Settings> Args for Flags<S> {
    fn augment_args(mut command: Command) -> Command {
        for setting in S::ALL {
            let help = format!("{} [env: {}]", setting.help, setting.variable(S::PREFIX));
            let mut arg = Arg::new(setting.field)
                .long(setting.flag())
                .value_name(setting.value)
                .help(help)
                .help_heading("Settings")
                .required(false);
            if S::SWITCHES.contains(&setting.field) {
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true");
            }
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Settings> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = S::ALL.iter().filter_map(|setting| {
            let text = matches.get_one::<String>(setting.field)?;
            Some((setting.field, setting.field, text.clone()))
        });
        Ok(Self { given: given.collect(), of: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<S: Settings> Flags<S> {
    /// What was given, with the flags as they were written.
    pub(crate) fn written(&self) -> Vec<(String, &'static str, String)> {
        let given = self.given.iter();
        given
            .map(|(flag, field, text)| {
                (format!("--{}", flag.replace(['.', '_'], "-")), *field, text.clone())
            })
            .collect()
    }
}

/// The value of an environment variable; empty counts as absent.
pub(crate) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
