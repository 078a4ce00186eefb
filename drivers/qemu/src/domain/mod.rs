//! Domain XML: reading, completing with libvirt's defaults, checking, addresses, aliases, writing.
