//! The front end of a device that is served over vhost-user: what QEMU is on engine `qemu`.

use microagent_vmm::vhost_user::{self, Server};
use microagent_vmm::virtio::VirtioDevice;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Arena;

/// The front end of a device that is served over vhost-user.
pub struct VhostUser {
    // Dropped before the server, which waits until the connection is closed.
    frontend: Frontend,
    _server: Server,
    memory: GuestMemoryMmap,
    pub device_type: DeviceType,
    pub offered: u64,
    pub accepted: u64,
    pub status: DeviceStatus,
    pub queues: Vec<Queue>,
}

pub struct Queue {
    pub kick: EventFd,
    call: EventFd,
    /// Size; descriptor table, available ring, used ring.
    pub rings: Option<(u16, [PhysAddr; 3])>,
    started: bool,
}

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;

impl VhostUser {
    /// Serves the device and connects to it; one interrupt for each queue.
    pub fn attach(device: Box<dyn VirtioDevice>) -> (VhostUser, Vec<EventFd>) {
        let device_type = DeviceType::try_from(device.device_type()).unwrap();
        let count = device.queue_sizes().len();
        let dir = tempfile::tempdir().unwrap();
        let (server, stream) = vhost_user::serve("device", device, dir.path()).unwrap();
        let mut frontend = Frontend::from_stream(stream, count as u64);
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        frontend.set_features(offered & PROTOCOL_FEATURES).unwrap();
        let wanted = VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK;
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(wanted));
        frontend.set_protocol_features(wanted).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let queues: Vec<Queue> = (0..count)
            .map(|_| Queue {
                kick: event(),
                call: event(),
                rings: None,
                started: false,
            })
            .collect();
        let calls = queues.iter().map(|queue| queue.call.try_clone().unwrap());
        let calls = calls.collect();
        let frontend_device = VhostUser {
            frontend,
            _server: server,
            memory: Arena::memory(),
            device_type,
            offered: offered & !PROTOCOL_FEATURES,
            accepted: 0,
            status: DeviceStatus::empty(),
            queues,
        };
        (frontend_device, calls)
    }

    pub fn set_status(&mut self, status: DeviceStatus) {
        let added = status.difference(self.status);
        self.status = status;
        if status.is_empty() {
            (0..self.queues.len()).for_each(|queue| self.stop(queue));
        }
        if added.contains(DeviceStatus::FEATURES_OK) {
            let features = self.accepted | PROTOCOL_FEATURES;
            self.frontend.set_features(features).unwrap();
        }
        if added.contains(DeviceStatus::DRIVER_OK) {
            self.start();
        }
    }

    fn start(&mut self) {
        let region = self.memory.iter().next().unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        self.frontend.set_mem_table(&[region]).unwrap();
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let Some((size, addresses)) = queue.rings else {
                continue;
            };
            let [descriptors, available, used] = addresses.map(|address| {
                let host = self.memory.get_host_address(GuestAddress(address));
                host.unwrap() as u64
            });
            let frontend = &mut self.frontend;
            frontend.set_vring_num(index, size).unwrap();
            frontend.set_vring_base(index, 0).unwrap();
            let config = VringConfigData {
                queue_max_size: size,
                queue_size: size,
                flags: 0,
                desc_table_addr: descriptors,
                used_ring_addr: used,
                avail_ring_addr: available,
                log_addr: None,
            };
            frontend.set_vring_addr(index, &config).unwrap();
            frontend.set_vring_call(index, &queue.call).unwrap();
            frontend.set_vring_kick(index, &queue.kick).unwrap();
            frontend.set_vring_enable(index, true).unwrap();
            queue.started = true;
        }
    }

    pub fn stop(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        if std::mem::take(&mut queue.started) {
            self.frontend.set_vring_enable(index, false).unwrap();
            self.frontend.get_vring_base(index).unwrap();
        }
        queue.rings = None;
    }

    pub fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        // `get_config` takes `&mut self`, but a `Frontend` is a shared handle.
        let (_, read) = self
            .frontend
            .clone()
            .get_config(
                offset as u32,
                bytes.len() as u32,
                VhostUserConfigFlags::empty(),
                bytes,
            )
            .unwrap();
        bytes.copy_from_slice(&read);
    }
}
