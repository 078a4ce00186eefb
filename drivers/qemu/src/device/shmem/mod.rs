//! `<shmem>`.

pub(crate) mod args;
