//! Procedures of libvirt's that stock's QEMU driver serves and no table here has, each with the reason.
//!
//! `docs/procedures.md` is made from this; a test compares it with the tables and with what is known of libvirt.

/// Procedures that are not served for one reason.
#[derive(Debug, Clone, Copy)]
pub struct Absent {
    /// Names, as the protocol has them; one that ends in `*` stands for all that begin so.
    pub names: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
    /// Is it a subject that follows as a whole?
    pub put_off: bool,
}

/// All of them.
pub const ABSENT: &[Absent] = &[
    Absent {
        names: &[
            "domain_snapshot_*",
            "domain_list_all_snapshots",
            "domain_has_current_snapshot",
            "domain_revert_to_snapshot",
        ],
        reason: "snapshots follow as a whole",
        put_off: true,
    },
    Absent {
        names: &["domain_checkpoint_*", "domain_list_all_checkpoints", "domain_backup_*"],
        reason: "checkpoints and backup follow as a whole",
        put_off: true,
    },
    Absent {
        names: &[
            "domain_block_job_*",
            "domain_get_block_job_info",
            "domain_block_pull",
            "domain_block_rebase",
            "domain_block_commit",
            "domain_block_copy",
        ],
        reason: "block jobs follow as a whole",
        put_off: true,
    },
    Absent { names: &["domain_migrate_*"], reason: "migration follows as a whole", put_off: true },
    Absent {
        names: &["domain_fd_associate", "qemu_domain_monitor_command_with_files"],
        reason: "descriptors that clients bring are not handed to QEMU yet",
        put_off: false,
    },
    Absent {
        names: &["connect_set_identity"],
        reason: "a client is who the kernel says; nobody speaks for somebody else",
        put_off: false,
    },
];

impl Absent {
    /// Does it stand for this procedure?
    #[must_use]
    pub fn names(&self, procedure: &str) -> bool {
        self.names.iter().any(|name| match name.strip_suffix('*') {
            Some(begin) => procedure.starts_with(begin),
            None => *name == procedure,
        })
    }
}

/// Why a procedure is not served, by its name; that of the `qemu` program begins with `qemu_`.
#[must_use]
pub fn reason(procedure: &str) -> Option<&'static Absent> {
    ABSENT.iter().find(|absent| absent.names(procedure))
}
