//! Collecting values from file, environment and flags.

use super::fault::{ConfigFault, ConfigFaults, Source};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// A setting by the names that lead to it, outermost first.
type FieldPath = Vec<String>;

/// Values from all layers added so far; a layer added later wins.
#[derive(Debug, Default)]
pub struct Layers {
    leaves: BTreeMap<FieldPath, (Value, Source)>,
    faults: Vec<ConfigFault>,
}

/// Where each setting came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Source>);

impl Origins {
    /// Where `field` (such as `timings.lost`) came from.
    #[must_use]
    pub fn of(&self, field: &str) -> Source {
        self.0.get(field).cloned().unwrap_or_default()
    }
}

impl Layers {
    /// No values yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a TOML file; one that cannot be read is a fault.
    #[must_use]
    pub fn file(self, path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => self.file_text(path, &text),
            Err(error) => {
                let rule = format!("cannot be read: {error}");
                let source = Source::File { path: path.to_owned(), line: 0 };
                self.fault("config", path.display(), rule, source)
            }
        }
    }

    /// Adds the text of a TOML file that lies at `path`.
    #[must_use]
    pub fn file_text(mut self, path: &Path, text: &str) -> Self {
        let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let line = error.span().map_or(0, |span| line_of(span.start));
            let source = Source::File { path: path.to_owned(), line };
            self = self.fault("config", "", format!("not TOML: {}", error.message()), source);
        }
        let values: Table = match toml::from_str(text) {
            Ok(values) => values,
            // Reported above.
            Err(_) => return self,
        };
        let mut lines = BTreeMap::new();
        collect_lines(table.get_ref(), &mut Vec::new(), &line_of, &mut lines);
        let source = |field: &FieldPath| {
            let line = lines.get(field).copied().unwrap_or(0);
            Source::File { path: path.to_owned(), line }
        };
        collect_leaves(values, &mut Vec::new(), &source, &mut self.leaves);
        self
    }

    /// Adds the environment: for each of `fields` (such as `timings.lost`) the variable
    /// `PREFIX_TIMINGS_LOST`, looked up by `lookup`. Empty variables count as absent.
    #[must_use]
    pub fn environment(
        mut self,
        prefix: &str,
        fields: &[&str],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Self {
        for field in fields {
            let name = format!("{prefix}_{}", field.replace('.', "_").to_uppercase());
            if let Some(text) = lookup(&name).filter(|text| !text.is_empty()) {
                self.add(field, text, Source::Environment(name));
            }
        }
        self
    }

    /// Adds a value given on the command line; `flag` is how it was written there.
    #[must_use]
    pub fn flag(mut self, flag: &str, field: &str, text: impl Into<String>) -> Self {
        self.add(field, text.into(), Source::Flag(flag.to_owned()));
        self
    }

    /// The settings, and where each came from.
    ///
    /// # Errors
    /// Everything that cannot be read or has no place in `S`: all of it at once.
    pub fn finish<S: DeserializeOwned>(self) -> Result<(S, Origins), ConfigFaults> {
        let Self { leaves, mut faults } = self;
        let mut all = Table::new();
        let mut origins = BTreeMap::new();
        for (field, (value, source)) in leaves {
            let name = field.join(".");
            // Every setting is optional, so a table of one value shows whether this one is fine.
            let mut alone = Table::new();
            insert(&mut alone, &field, value.clone());
            match Value::Table(alone).try_into::<S>() {
                Ok(_) => insert(&mut all, &field, value),
                Err(error) => faults.push(ConfigFault {
                    field: name.clone(),
                    value: shown(&value),
                    rule: error.message().trim().replace('\n', " "),
                    source: source.clone(),
                }),
            }
            origins.insert(name, source);
        }
        if !faults.is_empty() {
            return Err(ConfigFaults(faults));
        }
        let settings = Value::Table(all).try_into().map_err(|error: toml::de::Error| {
            let rule = error.message().to_owned();
            let field = "config".to_owned();
            ConfigFaults(vec![ConfigFault {
                field,
                value: String::new(),
                rule,
                source: Source::Default,
            }])
        })?;
        Ok((settings, Origins(origins)))
    }

    fn add(&mut self, field: &str, text: String, source: Source) {
        let path: FieldPath = field.split('.').map(str::to_owned).collect();
        self.leaves.insert(path, (Value::String(text), source));
    }

    fn fault(mut self, field: &str, value: impl ToString, rule: String, source: Source) -> Self {
        let (field, value) = (field.to_owned(), value.to_string());
        self.faults.push(ConfigFault { field, value, rule, source });
        self
    }
}

fn collect_lines(
    table: &DeTable<'_>,
    path: &mut FieldPath,
    line_of: &impl Fn(usize) -> usize,
    lines: &mut BTreeMap<FieldPath, usize>,
) {
    for (key, value) in table.iter() {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => collect_lines(inner, path, line_of, lines),
            _ => {
                lines.insert(path.clone(), line_of(key.span().start));
            }
        }
        path.pop();
    }
}

fn collect_leaves(
    table: Table,
    path: &mut FieldPath,
    source: &impl Fn(&FieldPath) -> Source,
    leaves: &mut BTreeMap<FieldPath, (Value, Source)>,
) {
    for (key, value) in table {
        path.push(key);
        match value {
            Value::Table(inner) => collect_leaves(inner, path, source, leaves),
            leaf => {
                leaves.insert(path.clone(), (leaf, source(path)));
            }
        }
        path.pop();
    }
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
