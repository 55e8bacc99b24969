//! The map: device → slices → sessions.

use super::{Caller, errors, map};
use fgpu_domain::cluster::Input;
use fgpu_domain::ids::{DeviceUuid, IdError};
use fgpu_wire::error::{CallError, ErrorCode};
use fgpu_wire::v1;
use fgpu_wire::v1::device_service_server::DeviceService;
use tonic::{Request, Response, Status};

pub(super) struct Devices;

#[tonic::async_trait]
impl DeviceService for Devices {
    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let wanted = request.into_inner().node;
        let snapshot = caller.term.engine.snapshot();
        let mut map = map::NodeMap::new(&caller, &snapshot);
        if !wanted.is_empty() {
            let name = super::nodes::node_name(&wanted)?;
            let node = snapshot.nodes.get(&name).ok_or_else(|| {
                CallError::new(ErrorCode::NodeNotFound, format!("there is no node `{name}`"))
                    .with("node", &name)
                    .hint("see `fgpu node list`")
            })?;
            return Ok(Response::new(v1::ListDevicesResponse { devices: map.devices(node) }));
        }
        let devices = snapshot.nodes.values().flat_map(|node| map.devices(node)).collect();
        Ok(Response::new(v1::ListDevicesResponse { devices }))
    }

    async fn cordon_device(
        &self,
        request: Request<v1::CordonDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let caller = Caller::of(&request)?;
        cordon(&caller, &request.into_inner().uuid, true).await
    }

    async fn uncordon_device(
        &self,
        request: Request<v1::UncordonDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let caller = Caller::of(&request)?;
        cordon(&caller, &request.into_inner().uuid, false).await
    }
}

async fn cordon(
    caller: &Caller,
    uuid: &str,
    cordoned: bool,
) -> Result<Response<v1::Device>, Status> {
    let device: DeviceUuid = uuid
        .parse()
        .map_err(|error: IdError| CallError::field("device", &error.value, error.rule))?;
    let engine = &caller.term.engine;
    let input = Input::CordonDevice { device: device.clone(), cordoned };
    engine.submit(input).await.map_err(errors::from_engine)?;
    let snapshot = engine.snapshot();
    let mut map = map::NodeMap::new(caller, &snapshot);
    let owner = snapshot.nodes.values().find(|node| node.device(&device).is_some());
    let mut devices = owner.map(|node| map.devices(node)).unwrap_or_default().into_iter();
    let found = devices
        .find(|found| found.info.as_ref().is_some_and(|info| info.uuid == device.as_str()))
        .ok_or_else(|| {
            CallError::new(ErrorCode::DeviceNotFound, format!("device {device} has gone"))
        })?;
    Ok(Response::new(found))
}
