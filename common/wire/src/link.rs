//! The agents' stream as a manager speaks it: the messages of [`v1`], with the parts that
//! are many or seldom read left encoded.
//!
//! What a node shall have is sent again whole with every change, so each of its sessions is encoded
//! once and the bytes are sent as often as needed. Of a heartbeat only its sequence is read; the
//! rest is decoded when somebody asks for it. On the wire both are the messages of the contract,
//! which a test holds.

use crate::v1;
use bytes::Bytes;
use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A [`v1::AgentMessage`] whose heartbeat is left encoded.
#[derive(Clone, PartialEq, Message)]
pub struct AgentMessage {
    /// What the agent says.
    #[prost(oneof = "Up", tags = "1, 2, 3, 4, 5")]
    pub message: Option<Up>,
}

/// See [`v1::agent_message::Message`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Up {
    /// First of all.
    #[prost(message, tag = "1")]
    Register(v1::Register),
    /// A [`v1::Heartbeat`]. Not shared with the buffer it came in, which is much larger.
    #[prost(bytes = "vec", tag = "2")]
    Heartbeat(Vec<u8>),
    /// What has changed since the last report.
    #[prost(message, tag = "3")]
    Reports(v1::SessionReports),
    /// The node changed.
    #[prost(message, tag = "4")]
    Inventory(v1::NodeInventory),
    /// Which images are on the node.
    #[prost(message, tag = "5")]
    Images(v1::NodeImages),
}

/// A [`v1::ManagerMessage`] whose desired state consists of encoded sessions.
#[derive(Clone, PartialEq, Message)]
pub struct ManagerMessage {
    /// What the manager says.
    #[prost(oneof = "Down", tags = "1, 2, 3, 4")]
    pub message: Option<Down>,
}

/// See [`v1::manager_message::Message`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Down {
    /// First of all.
    #[prost(message, tag = "1")]
    Welcome(v1::Welcome),
    /// Everything the node shall have.
    #[prost(message, tag = "2")]
    Desired(DesiredState),
    /// Asks for a channel.
    #[prost(message, tag = "3")]
    OpenChannel(v1::OpenChannel),
    /// Answers a heartbeat.
    #[prost(message, tag = "4")]
    Ack(v1::HeartbeatAck),
}

/// A [`v1::DesiredState`] of encoded sessions.
#[derive(Clone, PartialEq, Message)]
pub struct DesiredState {
    /// The leader's term.
    #[prost(int64, tag = "1")]
    pub epoch: i64,
    /// Grows by one with every change for this node within an epoch.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Each a [`v1::DesiredSession`].
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub sessions: Vec<Bytes>,
}

/// What of a heartbeat is read at once.
#[derive(Clone, Copy, PartialEq, Message)]
struct HeartbeatHead {
    #[prost(uint64, tag = "1")]
    sequence: u64,
}

/// The sequence of an encoded [`v1::Heartbeat`].
///
/// # Errors
/// When it is not a message at all.
pub fn heartbeat_sequence(heartbeat: &[u8]) -> Result<u64, prost::DecodeError> {
    Ok(HeartbeatHead::decode(heartbeat)?.sequence)
}

/// [`ProstCodec`] with small buffers, which grow with the message. A stream keeps both for as long as
/// it lives, a manager has a stream for every node, and most messages are far below 1 KiB.
#[derive(Debug, Clone)]
pub struct LinkCodec<T, U>(PhantomData<(T, U)>);

/// What a stream's buffers begin with and grow by, bytes.
const BUFFER_BYTES: usize = 1 << 10;
/// Encoded bytes after which they are sent, even if more messages are there: as `tonic` has it.
const SEND_AT_BYTES: usize = 32 << 10;

impl<T, U> Default for LinkCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for LinkCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_BYTES, SEND_AT_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, SEND_AT_BYTES))
    }
}

/// The service of the contract, for these messages.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/fgpu.v1.AgentService.rs"));
}

pub use service::agent_service_server::{AgentService, AgentServiceServer};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn session(id: &str) -> v1::DesiredSession {
        v1::DesiredSession {
            session_id: id.to_owned(),
            generation: 3,
            spec: Some(v1::SessionSpec { command: vec!["train".into()], ..Default::default() }),
            stop_grace_ms: Some(0),
            group_environment: BTreeMap::from([("FGPU_INDEX".to_owned(), "1".to_owned())]),
            ..v1::DesiredSession::default()
        }
    }

    #[test]
    fn a_desired_state_of_encoded_sessions_reads_as_that_of_the_contract() {
        let sessions = [session("aaaaaaaa"), session("bbbbbbbb"), v1::DesiredSession::default()];
        let encoded = sessions.iter().map(|session| session.encode_to_vec().into()).collect();
        let state = DesiredState { epoch: 7, generation: 9, sessions: encoded };
        let sent = ManagerMessage { message: Some(Down::Desired(state)) }.encode_to_vec();

        let read = v1::ManagerMessage::decode(&*sent).unwrap().message.unwrap();

        let expected = v1::DesiredState { epoch: 7, generation: 9, sessions: sessions.to_vec() };
        assert_eq!(read, v1::manager_message::Message::Desired(expected));
    }

    #[test]
    fn every_other_message_is_the_same_on_both_sides() {
        use v1::manager_message::Message as Plain;
        let welcome = v1::Welcome { cluster_id: "c".into(), protocol: 1, ..Default::default() };
        let channel = v1::OpenChannel { channel_id: "x".into(), purpose: None };
        let ack = v1::HeartbeatAck { sequence: 5 };
        let pairs = [
            (Down::Welcome(welcome.clone()), Plain::Welcome(welcome)),
            (Down::OpenChannel(channel.clone()), Plain::OpenChannel(channel)),
            (Down::Ack(ack), Plain::Ack(ack)),
        ];
        for (sent, read) in pairs {
            let sent = ManagerMessage { message: Some(sent) }.encode_to_vec();
            assert_eq!(v1::ManagerMessage::decode(&*sent).unwrap().message, Some(read));
        }
    }

    /// What the contract's message is here. A message that is new in the contract is missed by the
    /// compiler in this match.
    fn same(message: v1::agent_message::Message) -> Up {
        use v1::agent_message::Message as Plain;
        match message {
            Plain::Register(register) => Up::Register(register),
            Plain::Heartbeat(heartbeat) => Up::Heartbeat(heartbeat.encode_to_vec()),
            Plain::Reports(reports) => Up::Reports(reports),
            Plain::Inventory(inventory) => Up::Inventory(inventory),
            Plain::Images(images) => Up::Images(images),
        }
    }

    #[test]
    fn every_message_of_an_agent_is_read() {
        use v1::agent_message::Message as Plain;
        let messages = [
            Plain::Register(v1::Register { node: "a".into(), ..Default::default() }),
            Plain::Heartbeat(v1::Heartbeat { sequence: 4, ..Default::default() }),
            Plain::Reports(v1::SessionReports { full: true, ..Default::default() }),
            Plain::Inventory(v1::NodeInventory { address: "b".into(), ..Default::default() }),
            Plain::Images(v1::NodeImages::default()),
        ];
        for message in messages {
            let sent = v1::AgentMessage { message: Some(message.clone()) }.encode_to_vec();
            assert_eq!(AgentMessage::decode(&*sent).unwrap().message, Some(same(message)));
        }
    }

    #[test]
    fn a_heartbeat_is_kept_whole_and_its_sequence_is_read() {
        let heartbeat = v1::Heartbeat {
            sequence: 1 << 40,
            devices: vec![v1::DeviceUsage { uuid: "GPU-1".into(), ..Default::default() }],
            epoch: 2,
            ..v1::Heartbeat::default()
        };
        let sent = v1::AgentMessage {
            message: Some(v1::agent_message::Message::Heartbeat(heartbeat.clone())),
        };
        let read = AgentMessage::decode(&*sent.encode_to_vec()).unwrap().message;
        let Some(Up::Heartbeat(bytes)) = read else { panic!("a heartbeat, not {read:?}") };

        assert_eq!(heartbeat_sequence(&bytes).unwrap(), 1 << 40);
        assert_eq!(v1::Heartbeat::decode(&*bytes).unwrap(), heartbeat);
        assert!(heartbeat_sequence(&[0xff]).is_err());
    }
}
