//! The conversation with agents.
//!
//! One task per agent ([`link`]) holds one outbound state ([`outbox`]) and what is still to be told
//! to the engine ([`inbox`](mod@inbox)). Heartbeats are answered right here; only what changes the
//! state goes to the engine. An agent that does not read keeps nobody waiting but itself.

mod inbox;
mod link;
mod outbox;
mod register;

pub(crate) use link::serve;
