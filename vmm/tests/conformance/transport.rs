//! The transports between driver and device: virtio-mmio registers, and vhost-user messages.

mod vhost_user;

use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use microagent_vmm::virtio::VirtioDevice;
use microagent_vmm::virtio::mmio::{InterruptLine, MmioTransport};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::vhost_user::VhostUser;
use crate::Arena;

/// The transport of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    /// virtio-mmio registers.
    Mmio,
    /// vhost-user messages.
    VhostUser,
}

impl TransportKind {
    /// Attaches a device, hiding the features `masked` from its driver. A driver that blocks on a
    /// request waits for the interrupt of queue `wait_queue`.
    pub fn attach(
        self,
        device: Box<dyn VirtioDevice>,
        masked: u64,
        wait_queue: u16,
    ) -> (GuestTransport, Rc<Interrupts>) {
        let (connection, events) = match self {
            TransportKind::Mmio => {
                let event = EventFd::new(EFD_NONBLOCK).unwrap();
                let line = Box::new(Line(event.try_clone().unwrap()));
                let transport = MmioTransport::new(device, Arena::memory(), line).unwrap();
                (Connection::Mmio(transport), vec![event])
            }
            TransportKind::VhostUser => {
                let (frontend, events) = VhostUser::attach(device);
                (Connection::VhostUser(Box::new(frontend)), events)
            }
        };
        let interrupts = Rc::new(Interrupts { events });
        let attached = GuestTransport {
            connection: Rc::new(RefCell::new(connection)),
            interrupts: Rc::clone(&interrupts),
            masked,
            wait_queue: Some(wait_queue),
        };
        (attached, interrupts)
    }
}

/// The device's interrupts.
pub struct Interrupts {
    /// One for all queues (virtio-mmio), or one for each (vhost-user).
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

/// Whether any of these eventfds is written within `timeout` milliseconds.
fn ready(events: &[EventFd], timeout: i32) -> bool {
    let epoll = Epoll::new().unwrap();
    for event in events {
        let wanted = EpollEvent::new(EventSet::IN, 0);
        let fd = event.as_raw_fd();
        epoll.ctl(ControlOperation::Add, fd, wanted).unwrap();
    }
    epoll.wait(timeout, &mut [EpollEvent::default()]).unwrap() > 0
}

#[derive(Debug)]
struct Line(EventFd);

impl InterruptLine for Line {
    fn pulse(&self) {
        self.0.write(1).unwrap();
    }
}

/// The driver's access to a device. A clone is for another driver, after the first is gone.
#[derive(Clone)]
pub struct GuestTransport {
    connection: Rc<RefCell<Connection>>,
    interrupts: Rc<Interrupts>,
    masked: u64,
    /// The queue on whose requests the driver blocks, if any.
    wait_queue: Option<u16>,
}

impl GuestTransport {
    /// For drivers that do not block on requests; the test waits.
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
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => DeviceType::try_from(read(transport, 0x08)).unwrap(),
            Connection::VhostUser(frontend) => frontend.device_type,
        }
    }

    fn read_device_features(&mut self) -> u64 {
        let offered = match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => (0..2).fold(0, |features, half| {
                write(transport, 0x14, half);
                features | u64::from(read(transport, 0x10)) << (32 * half)
            }),
            Connection::VhostUser(frontend) => frontend.offered,
        };
        offered & !self.masked
    }

    fn write_driver_features(&mut self, features: u64) {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                for half in 0..2 {
                    write(transport, 0x24, half);
                    write(transport, 0x20, (features >> (32 * half)) as u32);
                }
            }
            Connection::VhostUser(frontend) => frontend.accepted = features,
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                read(transport, 0x34)
            }
            Connection::VhostUser(_) => 1024,
        }
    }

    fn notify(&mut self, queue: u16) {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => write(transport, 0x50, queue.into()),
            Connection::VhostUser(frontend) => {
                frontend.queues[usize::from(queue)].kick.write(1).unwrap()
            }
        }
        if self.wait_queue == Some(queue) {
            self.interrupts.wait_for_queue(queue);
            self.ack_interrupt();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => DeviceStatus::from_bits_retain(read(transport, 0x70)),
            Connection::VhostUser(frontend) => frontend.status,
        }
    }

    fn set_status(&mut self, status: DeviceStatus) {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x70, status.bits());
                assert_eq!(read(transport, 0x70), status.bits());
            }
            Connection::VhostUser(frontend) => frontend.set_status(status),
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
        match &mut *self.connection.borrow_mut() {
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
            Connection::VhostUser(frontend) => {
                frontend.queues[usize::from(queue)].rings =
                    Some((size as u16, [descriptors, driver, device]));
            }
        }
    }

    fn queue_unset(&mut self, queue: u16) {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                write(transport, 0x44, 0);
                assert_eq!(read(transport, 0x44), 0);
            }
            Connection::VhostUser(frontend) => frontend.stop(usize::from(queue)),
        }
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                write(transport, 0x30, queue.into());
                read(transport, 0x44) != 0
            }
            Connection::VhostUser(frontend) => frontend.queues[usize::from(queue)].rings.is_some(),
        }
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => {
                let status = read(transport, 0x60);
                write(transport, 0x64, status);
                InterruptStatus::from_bits_retain(status)
            }
            Connection::VhostUser(_) => InterruptStatus::empty(),
        }
    }

    fn read_config_generation(&self) -> u32 {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => read(transport, 0xfc),
            Connection::VhostUser(_) => 0,
        }
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => transport.read(0x100 + offset as u64, bytes),
            Connection::VhostUser(frontend) => frontend.read_config(offset, bytes),
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        match &mut *self.connection.borrow_mut() {
            Connection::Mmio(transport) => transport.write(0x100 + offset as u64, value.as_bytes()),
            Connection::VhostUser(_) => unreachable!("no device has a writable configuration"),
        }
        Ok(())
    }
}
