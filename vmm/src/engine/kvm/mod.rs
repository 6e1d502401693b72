//! The monitor itself: KVM runs the vCPUs, this process everything else.
