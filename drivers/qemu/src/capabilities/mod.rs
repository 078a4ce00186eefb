//! What a QEMU binary can do: machines, devices, objects, CPU models, learned once over QMP.
