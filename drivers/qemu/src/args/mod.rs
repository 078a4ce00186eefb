//! A complete definition becomes a QEMU command line, the one that libvirt 11.3 makes for QEMU 10.
