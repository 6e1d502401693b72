//! QEMU's `microvm` machine under TCG, with our devices over vhost-user.
