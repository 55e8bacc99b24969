//! From texts to types, gathering every fault on the way.

use super::fault::{ConfigFault, ConfigFaults};
use super::layers::Origins;
use super::text::Text;
use std::fmt::Display;
use std::str::FromStr;

/// Reads values one after another and keeps what is wrong with each.
#[derive(Debug)]
pub struct Resolver<'a> {
    origins: &'a Origins,
    faults: Vec<ConfigFault>,
}

impl<'a> Resolver<'a> {
    /// Nothing wrong yet.
    #[must_use]
    pub fn new(origins: &'a Origins) -> Self {
        Self { origins, faults: Vec::new() }
    }

    /// The value of `field`, or `default` when it is absent or faulty.
    pub fn value<T>(&mut self, field: &str, text: Option<&Text>, default: T) -> T
    where
        T: FromStr,
        T::Err: Display,
    {
        self.optional(field, text).unwrap_or(default)
    }

    /// The value of `field`, if there is one that can be read.
    pub fn optional<T>(&mut self, field: &str, text: Option<&Text>) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.with(field, text, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// The value of `field` as `read` understands it; its error is the rule broken.
    pub fn with<T>(
        &mut self,
        field: &str,
        text: Option<&Text>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Text(text) = text?;
        match read(text.trim()) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.fault(field, text, rule);
                None
            }
        }
    }

    /// Notes that `field` breaks `rule`.
    pub fn fault(&mut self, field: &str, value: impl ToString, rule: impl Into<String>) {
        self.faults.push(ConfigFault {
            field: field.to_owned(),
            value: value.to_string(),
            rule: rule.into(),
            source: self.origins.of(field),
        });
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// Every fault noted.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigFaults> {
        if self.faults.is_empty() { Ok(value) } else { Err(ConfigFaults(self.faults)) }
    }
}
