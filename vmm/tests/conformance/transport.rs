//! What is between the driver and the device: registers, or vhost-user messages.

use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use microagent_vmm::vhost_user::{self, Server};
use microagent_vmm::virtio::VirtioDevice;
use microagent_vmm::virtio::mmio::{InterruptLine, MmioTransport};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Arena;

/// Which transport to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    /// The registers of virtio-mmio.
    Mmio,
    /// The messages of vhost-user.
    VhostUser,
}

impl TransportKind {
    /// Attaches a device, without the features `masked`. Drivers that wait for a request wait for
    /// the interrupts of queue `wait_queue`.
    pub fn attach(
        self,
        device: Box<dyn VirtioDevice>,
        masked: u64,
        wait_queue: u16,
    ) -> (GuestTransport, Rc<Interrupts>) {
        let (link, events) = match self {
            TransportKind::Mmio => {
                let event = EventFd::new(EFD_NONBLOCK).unwrap();
                let line = Box::new(Line(event.try_clone().unwrap()));
                let transport = MmioTransport::new(device, Arena::memory(), line).unwrap();
                (Connection::Mmio(transport), vec![event])
            }
            TransportKind::VhostUser => VhostUser::attach(device),
        };
        let interrupts = Rc::new(Interrupts { events });
        let attached = GuestTransport {
            link: Rc::new(RefCell::new(link)),
            interrupts: Rc::clone(&interrupts),
            masked,
            wait_queue: Some(wait_queue),
        };
        (attached, interrupts)
    }
}

/// The device's interrupts.
pub struct Interrupts {
    /// One for all queues, or one for each.
    events: Vec<EventFd>,
}

impl Interrupts {
    /// Waits for an interrupt of any queue.
    pub fn wait(&self) {
        self.wait_for(&self.events);
    }

    fn wait_for_queue(&self, queue: u16) {
        let of_queue = self.events.get(usize::from(queue)..=usize::from(queue));
        self.wait_for(of_queue.unwrap_or(&self.events));
    }

    fn wait_for(&self, events: &[EventFd]) {
        assert!(ready(events, 30_000), "no interrupt");
        for event in events {
            let _ = event.read();
        }
    }
}

/// Whether one of these is written within so many milliseconds.
fn ready(events: &[EventFd], limit: i32) -> bool {
    let epoll = Epoll::new().unwrap();
    for event in events {
        let wanted = EpollEvent::new(EventSet::IN, 0);
        let fd = event.as_raw_fd();
        epoll.ctl(ControlOperation::Add, fd, wanted).unwrap();
    }
    epoll.wait(limit, &mut [EpollEvent::default()]).unwrap() > 0
}

#[derive(Debug)]
struct Line(EventFd);

impl InterruptLine for Line {
    fn pulse(&self) {
        self.0.write(1).unwrap();
    }
}

/// A device as its driver sees it. Clones are for one driver after the other.
#[derive(Clone)]
pub struct GuestTransport {
    link: Rc<RefCell<Connection>>,
    interrupts: Rc<Interrupts>,
    masked: u64,
    /// The queue whose requests the driver waits for, if any.
    wait_queue: Option<u16>,
}

impl GuestTransport {
    /// For drivers that do not wait for a request: the test does.
    pub fn nonblocking(mut self) -> GuestTransport {
        self.wait_queue = None;
        self
    }
}

enum Connection {
    Mmio(MmioTransport),
    VhostUser(Box<VhostUser>),
}

fn read(transport: &MmioTransport, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    transport.read(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn write(transport: &MmioTransport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// Names follow `virtio_drivers::transport::Transport`; register offsets are those of virtio 1.2
/// table 4.1.
impl Transport for GuestTransport {
    fn device_type(&self) -> DeviceType {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => DeviceType::try_from(read(transport, 0x08)).unwrap(),
            Connection::VhostUser(link) => link.device_type,
        }
    }

    fn read_device_features(&mut self) -> u64 {
        let offered = match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => (0..2).fold(0, |features, half| {
                write(transport, 0x14, half);
                features | u64::from(read(transport, 0x10)) << (32 * half)
            }),
            Connection::VhostUser(link) => link.offered,
        };
        offered & !self.masked
    }

    fn write_driver_features(&mut self, features: u64) {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                for half in 0..2 {
                    write(transport, 0x24, half);
                    write(transport, 0x20, (features >> (32 * half)) as u32);
                }
            }
            Connection::VhostUser(link) => link.accepted = features,
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                read(transport, 0x34)
            }
            Connection::VhostUser(_) => 1024,
        }
    }

    fn notify(&mut self, queue: u16) {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => write(transport, 0x50, queue.into()),
            Connection::VhostUser(link) => link.queues[usize::from(queue)].kick.write(1).unwrap(),
        }
        if self.wait_queue == Some(queue) {
            self.interrupts.wait_for_queue(queue);
            self.ack_interrupt();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => DeviceStatus::from_bits_retain(read(transport, 0x70)),
            Connection::VhostUser(link) => link.status,
        }
    }

    fn set_status(&mut self, status: DeviceStatus) {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x70, status.bits());
                assert_eq!(read(transport, 0x70), status.bits());
            }
            Connection::VhostUser(link) => link.set_status(status),
        }
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver: PhysAddr,
        device: PhysAddr,
    ) {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                write(transport, 0x38, size);
                for (register, address) in [(0x80, descriptors), (0x90, driver), (0xa0, device)] {
                    write(transport, register, address as u32);
                    write(transport, register + 4, (address >> 32) as u32);
                }
                write(transport, 0x44, 1);
                assert_eq!(read(transport, 0x44), 1);
            }
            Connection::VhostUser(link) => {
                link.queues[usize::from(queue)].rings =
                    Some((size as u16, [descriptors, driver, device]));
            }
        }
    }

    fn queue_unset(&mut self, queue: u16) {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                write(transport, 0x44, 0);
                assert_eq!(read(transport, 0x44), 0);
            }
            Connection::VhostUser(link) => link.stop(usize::from(queue)),
        }
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                read(transport, 0x44) != 0
            }
            Connection::VhostUser(link) => link.queues[usize::from(queue)].rings.is_some(),
        }
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => {
                let status = read(transport, 0x60);
                write(transport, 0x64, status);
                InterruptStatus::from_bits_retain(status)
            }
            Connection::VhostUser(_) => InterruptStatus::empty(),
        }
    }

    fn read_config_generation(&self) -> u32 {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => read(transport, 0xfc),
            Connection::VhostUser(_) => 0,
        }
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => transport.read(0x100 + offset as u64, bytes),
            Connection::VhostUser(link) => link.read_config(offset, bytes),
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        match &mut *self.link.borrow_mut() {
            Connection::Mmio(transport) => transport.write(0x100 + offset as u64, value.as_bytes()),
            Connection::VhostUser(_) => unreachable!("no device of ours has it"),
        }
        Ok(())
    }
}

/// The front end of a device that is served over vhost-user.
struct VhostUser {
    // Dropped before the server, which waits for the connection's end.
    frontend: Frontend,
    _server: Server,
    memory: GuestMemoryMmap,
    device_type: DeviceType,
    offered: u64,
    accepted: u64,
    status: DeviceStatus,
    queues: Vec<Queue>,
}

struct Queue {
    kick: EventFd,
    call: EventFd,
    /// Size; descriptor table, available ring, used ring.
    rings: Option<(u16, [PhysAddr; 3])>,
    started: bool,
}

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;

impl VhostUser {
    fn attach(device: Box<dyn VirtioDevice>) -> (Connection, Vec<EventFd>) {
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
        frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
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
        let link = VhostUser {
            frontend,
            _server: server,
            memory: Arena::memory(),
            device_type,
            offered: offered & !PROTOCOL_FEATURES,
            accepted: 0,
            status: DeviceStatus::empty(),
            queues,
        };
        (Connection::VhostUser(Box::new(link)), calls)
    }

    fn set_status(&mut self, status: DeviceStatus) {
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

    fn stop(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        if std::mem::take(&mut queue.started) {
            self.frontend.set_vring_enable(index, false).unwrap();
            self.frontend.get_vring_base(index).unwrap();
        }
        queue.rings = None;
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        // The front end is a shared handle; the call just asks for an exclusive one.
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
