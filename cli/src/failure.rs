//! How an error reaches a person: the fact, indented facts, the next step, and the exit code.
//!
//! Everything that goes wrong in a verb becomes a [`Failure`] and is printed once, at the edge.

use fgpu_wire::error::CallError;
use std::error::Error;
use std::fmt;
use tonic::Status;

/// Exit code of a wrong command line.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code of everything else that goes wrong.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of `run`, `exec` and `wait` for errors of fgpu itself; lower codes are the session's.
pub(crate) const EXIT_OURS: u8 = 125;
/// Exit code after the second Ctrl-C.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Why a verb did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The fact, with its numbers.
    pub(crate) fact: String,
    /// More facts, one a line.
    pub(crate) details: Vec<String>,
    /// The next step.
    pub(crate) hint: Option<String>,
    /// Exit code, where it is not that of the verb.
    pub(crate) exit: Option<u8>,
}

impl Failure {
    /// An error with one fact.
    pub(crate) fn new(fact: impl Into<String>) -> Self {
        Self { fact: fact.into(), details: Vec::new(), hint: None, exit: None }
    }

    /// An error of the command line that only shows once it is looked at as a whole.
    pub(crate) fn usage(fact: impl Into<String>) -> Self {
        Self::new(fact).exit(EXIT_USAGE)
    }

    /// An error with everything that caused it.
    pub(crate) fn because(fact: impl Into<String>, cause: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(fact);
        failure.add_chain(Some(cause));
        failure
    }

    /// An error whose own text is the fact, and its sources the details.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(error.to_string());
        failure.add_chain(error.source());
        failure
    }

    /// Adds a fact.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit code.
    pub(crate) fn exit(mut self, code: u8) -> Self {
        self.exit = Some(code);
        self
    }

    /// Sets the exit code where none is set.
    pub(crate) fn or_exit(mut self, code: u8) -> Self {
        self.exit.get_or_insert(code);
        self
    }

    /// The sources of an error, leaving out those that only repeat the one before.
    fn add_chain(&mut self, mut cause: Option<&(dyn Error + 'static)>) {
        let mut last = self.fact.clone();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.contains(&text) {
                self.details.push(text.clone());
                last = text;
            }
            cause = error.source();
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.fact)?;
        for detail in &self.details {
            for line in detail.lines() {
                write!(f, "\n  {line}")?;
            }
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let mut failure = Self::new(error.message);
        for field in &error.fields {
            // One fault is often the whole message.
            let said = [&field.field, &field.value].iter().all(|part| failure.fact.contains(*part));
            if failure.fact.contains(&field.rule) && (said || field.value.is_empty()) {
                continue;
            }
            failure.details.push(format!("{} `{}`: {}", field.field, field.value, field.rule));
        }
        for (name, value) in &error.metadata {
            if !failure.fact.contains(value.as_str()) {
                failure.details.push(format!("{}: {value}", name.replace('_', " ")));
            }
        }
        failure.details.push(format!("code: {}", error.code));
        failure.hint = Some(error.hint).filter(|hint| !hint.is_empty());
        failure
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        if let Some(error) = CallError::from_status(status) {
            return error.into();
        }
        let message = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let mut failure = Self::new(format!("the manager answered: {message}"));
        failure.add_chain(status.source());
        failure.details.push(format!("gRPC status: {:?}", status.code()));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::error::ErrorCode;

    #[test]
    fn an_error_is_the_fact_the_numbers_and_the_next_step() {
        let failure = Failure::new("no node can hold session 7f3c")
            .detail("node a1: needs 30 GiB of device memory, largest free slice is 24 GiB")
            .detail("node b2: cordoned")
            .hint("ask for less with `--gpu-memory`, or see `fgpu device list`");

        assert_eq!(
            failure.to_string(),
            "error: no node can hold session 7f3c\n  \
             node a1: needs 30 GiB of device memory, largest free slice is 24 GiB\n  \
             node b2: cordoned\n\
             hint: ask for less with `--gpu-memory`, or see `fgpu device list`"
        );
    }

    #[test]
    fn a_call_error_is_shown_with_fields_ids_code_and_hint() {
        let mut error = CallError::new(ErrorCode::InvalidArgument, "two fields are wrong")
            .with("quantum_fgpu", "0.1")
            .hint("ask for 7.9");
        error.fields = CallError::field("--fgpu", "7.93", "multiples of 0.1").fields;

        let text = Failure::from(error).to_string();

        assert_eq!(
            text,
            "error: two fields are wrong\n  --fgpu `7.93`: multiples of 0.1\n  \
             quantum fgpu: 0.1\n  code: INVALID_ARGUMENT\nhint: ask for 7.9"
        );
    }

    #[test]
    fn one_wrong_field_is_said_once() {
        let text = Failure::from(CallError::field("--fgpu", "0", "more than nothing")).to_string();

        assert_eq!(text.matches("more than nothing").count(), 1, "{text}");
    }

    #[test]
    fn the_chain_of_causes_is_printed_once_without_repeats() {
        let inner = std::io::Error::other("disk is on fire");
        let outer = std::io::Error::other(inner);

        let failure = Failure::because("cannot write `/x`", &outer);

        assert_eq!(failure.to_string(), "error: cannot write `/x`\n  disk is on fire");
    }
}
