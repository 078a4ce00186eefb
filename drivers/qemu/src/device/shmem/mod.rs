//! `<shmem>`.
