//! The agents' end of the API.

use super::Caller;
use crate::links;
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::link::{AgentMessage, AgentService, ManagerMessage};
use fgpu_wire::v1;
use fgpu_wire::v1::channel_up::Message as Up;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages on their way to an agent; what is newer replaces what waits behind them.
const OUTBOUND: usize = 4;
/// How long a dialled channel may take to say which one it is.
const NAME_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Agents;

type Message = Result<ManagerMessage, Status>;
type Unboxed = fn(Box<Message>) -> Message;

#[tonic::async_trait]
impl AgentService for Agents {
    type LinkStream = Map<ReceiverStream<Box<Message>>, Unboxed>;
    type OpenChannelStream = ReceiverStream<Result<v1::ChannelDown, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let term = Caller::of(&request)?.term;
        let (out, messages) = mpsc::channel(OUTBOUND);
        tokio::spawn(links::serve(Arc::clone(&term), request.into_inner(), out));
        let unboxed: Unboxed = |message| *message;
        Ok(Response::new(ReceiverStream::new(messages).map(unboxed)))
    }

    async fn open_channel(
        &self,
        request: Request<Streaming<v1::ChannelUp>>,
    ) -> Result<Response<Self::OpenChannelStream>, Status> {
        let term = Caller::of(&request)?.term;
        let mut inbound = request.into_inner();
        let nameless = || CallError::field("channel_id", "", "a channel names itself first");
        let first = tokio::time::timeout(NAME_WITHIN, inbound.message()).await;
        let first = first.map_err(|_| nameless())??.and_then(|up| up.message);
        let Some(Up::ChannelId(id)) = first else { return Err(nameless().into()) };
        let end = term.channels.take(&id).ok_or_else(|| {
            CallError::new(ErrorCode::InvalidArgument, "nobody waits for this channel")
                .with("channel", &id)
                .hint("the caller has gone, or the channel was opened too late")
        })?;
        let down = end.pump(inbound, term.ended.clone());
        Ok(Response::new(ReceiverStream::new(down)))
    }
}
