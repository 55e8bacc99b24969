//! How a session ended, as a shell wants to know it.

use fgpu_wire::v1;

use crate::failure::{EXIT_OURS, Failure};
use crate::progress;
use crate::view::word;

/// How a session ended, for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Exit code: the session's own, or 125 where it has none.
    pub(crate) code: u8,
    /// What went wrong, where it was not the command itself that failed.
    pub(crate) failure: Option<Failure>,
}

/// Reads the end of a session.
pub(crate) fn ending(session: &v1::Session) -> Ending {
    let own = session.exit_code.map(|code| u8::try_from(code & 0xff).unwrap_or(1));
    let label = progress::label(session);
    let outcome = word(session.outcome().as_str_name(), "OUTCOME_").unwrap_or_default();
    let failure = |fact: String| {
        let mut failure = Failure::new(fact);
        failure.details.extend(Some(session.reason.clone()).filter(|text| !text.is_empty()));
        let code = Some(&session.reason_code).filter(|code| !code.is_empty());
        failure.details.extend(code.map(|code| format!("code: {code}")));
        failure
    };
    let failure = match (session.outcome(), own) {
        (v1::Outcome::Completed, Some(_)) => None,
        (v1::Outcome::Failed, Some(_)) if is_exit_code(&session.reason_code) => None,
        (v1::Outcome::Unspecified, _) => {
            Some(failure(format!("session {label} ended without saying how")))
        }
        _ => Some(failure(format!("session {label} {outcome}"))),
    };
    Ending { code: own.unwrap_or(EXIT_OURS), failure }
}

/// Whether the reason only repeats that the command returned an exit code.
fn is_exit_code(reason_code: &str) -> bool {
    reason_code.is_empty() || reason_code.contains("EXIT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fgpu_wire::v1::Phase;

    fn ended(outcome: v1::Outcome, exit_code: Option<i32>, reason_code: &str) -> Ending {
        ending(&v1::Session {
            id: "s1".into(),
            phase: Phase::Ended.into(),
            outcome: outcome.into(),
            exit_code,
            reason_code: reason_code.into(),
            reason: "why".into(),
            ..v1::Session::default()
        })
    }

    #[test]
    fn the_session_s_own_exit_code_is_ours() {
        for code in [0, 1, 7, 255] {
            let ending = ended(v1::Outcome::Completed, Some(code), "");
            assert_eq!(i32::from(ending.code), code);
            assert_eq!(ending.failure, None);
        }
        assert_eq!(ended(v1::Outcome::Failed, Some(3), "").failure, None);
    }

    #[test]
    fn without_an_exit_code_it_is_125_and_the_reason_is_said() {
        let ending = ended(v1::Outcome::Failed, None, "IMAGE_NOT_FOUND");
        assert_eq!(ending.code, 125);
        let text = ending.failure.unwrap().to_string();
        assert!(text.contains("why") && text.contains("IMAGE_NOT_FOUND"), "{text}");
    }

    #[test]
    fn a_session_that_was_ended_from_outside_keeps_its_code_and_says_why() {
        let ending = ended(v1::Outcome::Failed, Some(137), "OUT_OF_MEMORY");
        assert_eq!(ending.code, 137);
        assert!(ending.failure.unwrap().to_string().contains("OUT_OF_MEMORY"));
        let stopped = ended(v1::Outcome::Cancelled, Some(143), "STOPPED");
        assert_eq!(stopped.code, 143);
    }
}
