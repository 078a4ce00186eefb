//! All fault points, each with what is done and what is not done yet when it is reached. Code may only have points that stand
//! here: a test compares the two.

/// A point of one driver's own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The driver whose code it is in.
    pub driver: &'static str,
    /// What is being done (`start`).
    pub subject: &'static str,
    /// How far it has come (`before_taps`).
    pub moment: &'static str,
    /// What is done by then, and what is not.
    pub text: &'static str,
}

const fn qemu(subject: &'static str, moment: &'static str, text: &'static str) -> Point {
    Point { driver: "qemu", subject, moment, text }
}

const fn network(subject: &'static str, moment: &'static str, text: &'static str) -> Point {
    Point { driver: "network", subject, moment, text }
}

const fn secret(subject: &'static str, moment: &'static str, text: &'static str) -> Point {
    Point { driver: "secret", subject, moment, text }
}

const fn storage(subject: &'static str, moment: &'static str, text: &'static str) -> Point {
    Point { driver: "storage", subject, moment, text }
}

/// Points of single places, in the order in which they are reached.
pub const POINTS: &[Point] = &[
    qemu("start", "before_taps", "The wish to start the guest is on disk, and nothing else has been done."),
    qemu("tpm", "before_helper", "The guest's TPM is made; what emulates it has not been asked for."),
    qemu("start", "before_helper", "Taps and log are open; QEMU has not been asked for."),
    qemu("start", "after_helper", "QEMU's process is there; nothing has been said to it."),
    qemu(
        "start",
        "before_running",
        "QEMU answers and its CPUs stand still; the record on disk says it is being started.",
    ),
    qemu("start", "after_running", "The record on disk says that the guest runs; its CPUs stand still."),
    qemu("start", "after_resume", "The guest runs; neither the caller nor a subscriber has been told."),
    qemu(
        "save",
        "before_store",
        "The wish to store the guest's state is on disk; the guest goes on as it was.",
    ),
    qemu(
        "save",
        "before_rename",
        "The whole state is in its file, which does not have its name yet; QEMU is still there.",
    ),
    qemu("save", "after_store", "The state is stored for good; QEMU is still there."),
    qemu("plug", "before_step", "One more part of a device is to be added; those before it are there."),
    qemu(
        "plug",
        "after_step",
        "One more part of a device has been added; the record does not know the device.",
    ),
    qemu("plug", "before_record", "The device is there; the record says that it is being added."),
    qemu(
        "plug",
        "after_record",
        "The device is there and in the record; the definition may not know it yet.",
    ),
    qemu("unplug", "before_device", "The record says that a device is to go; QEMU has not been told."),
    qemu("unplug", "after_device", "QEMU has been told to give a device up; the guest may still use it."),
    qemu("unplug", "before_step", "The device is gone; one more part that was behind it is to go."),
    qemu("unplug", "after_steps", "The device and all that was behind it are gone; the record still has it."),
    qemu("unplug", "after_record", "The device is gone and out of the record; nobody has been told."),
    qemu("medium", "before_removal", "The tray is open; the record says that another medium is to go in."),
    qemu("medium", "after_removal", "The old medium is out; the new one is not in."),
    qemu(
        "medium",
        "after_insertion",
        "The new medium is in; the tray is open, and the record has the old one.",
    ),
    qemu(
        "medium",
        "after_record",
        "The new medium is in and in the record; the definition may not know it yet.",
    ),
    qemu(
        "dump",
        "before_write",
        "The wish to write the guest's memory into a file is on disk; the guest goes on as it was.",
    ),
    qemu("dump", "after_write", "The guest's memory is in its file; its CPUs stand still."),
    qemu("stop", "before_cleanup", "QEMU has ended; taps and record are still there."),
    qemu(
        "stop",
        "after_cleanup",
        "QEMU, taps and record are gone; neither the caller nor a subscriber has been told.",
    ),
    network(
        "network_start",
        "after_record",
        "The wish to start the network is on disk; nothing of it is there.",
    ),
    network("network_start", "after_bridge", "The bridge is made, without addresses and not up."),
    network(
        "network_start",
        "after_rules",
        "The rules for packets are in force; the bridge has no addresses.",
    ),
    network(
        "network_start",
        "before_running",
        "Bridge and rules are whole and names are served; the record on disk says it is being started.",
    ),
    network("network_stop", "after_record", "The wish to stop the network is on disk; all of it is there."),
    network(
        "network_stop",
        "after_services",
        "Names and addresses are served no more; bridge and rules are there.",
    ),
    network("network_stop", "after_rules", "The rules for packets are gone; the bridge is there."),
    network(
        "network_stop",
        "before_told",
        "All of the network is gone; neither the caller nor a subscriber was told.",
    ),
    secret("shelf", "before_deposit", "A secret that is not to be on disk is sealed; nobody keeps it yet."),
    secret("shelf", "after_deposit", "The broker keeps it; a file of the same secret may still be there."),
    secret("shelf", "before_withdraw", "The broker still keeps a secret that is no longer to be there."),
    secret("shelf", "after_withdraw", "The broker has dropped it; the caller has not been told."),
    storage(
        "pool_start",
        "before_record",
        "The pool's worker has looked at its folder; no record says that it is active.",
    ),
    storage(
        "pool_stop",
        "after_record",
        "The record that the pool is active is gone; its worker is still there.",
    ),
    storage(
        "volume_make",
        "before_content",
        "The wish to make a volume is on disk, and nothing else has been done.",
    ),
    storage("volume_make", "before_name", "The volume is whole, under a name that is no volume's."),
    storage("volume_make", "after_name", "The volume is whole and has its name; the wish is still on disk."),
];

/// Subjects of which the moment is the name of an object: `adopt.web`.
pub const OBJECT_POINTS: &[Point] = &[
    qemu("adopt", "NAME", "The driver is about to read the definition of the domain NAME."),
    qemu("adopt_running", "NAME", "The driver is about to take over the running guest NAME."),
];

/// A kind of state file. Each has the moments of [`FILE_MOMENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKind {
    /// The driver whose files they are.
    pub driver: &'static str,
    /// The points' subject (`definition`).
    pub subject: &'static str,
    /// What is in the files.
    pub text: &'static str,
}

const fn file(subject: &'static str, text: &'static str) -> FileKind {
    FileKind { driver: "qemu", subject, text }
}

const fn network_file(subject: &'static str, text: &'static str) -> FileKind {
    FileKind { driver: "network", subject, text }
}

const fn secret_file(subject: &'static str, text: &'static str) -> FileKind {
    FileKind { driver: "secret", subject, text }
}

const fn pool_file(subject: &'static str, text: &'static str) -> FileKind {
    FileKind { driver: "storage", subject, text }
}

/// All kinds of state files.
pub const FILE_KINDS: &[FileKind] = &[
    file("definition", "definition of a domain"),
    file("autostart", "mark that a domain starts with the stack"),
    file("pending", "list of the domains that are still to be started with the stack"),
    file("live", "record of a running guest"),
    file("capabilities", "what a QEMU binary can do"),
    file("variables", "firmware variables of a guest"),
    network_file("network", "definition of a network"),
    network_file("network_autostart", "mark that a network starts with the stack"),
    network_file("network_live", "record of an active network"),
    network_file("network_port", "record of a port"),
    pool_file("pool", "definition of a pool"),
    pool_file("pool_autostart", "mark that a pool starts with the stack"),
    pool_file("pool_live", "record of an active pool"),
    pool_file("pool_raw", "list of a pool's files that are raw"),
    pool_file("volume_intent", "wish to make a volume"),
    file("authority", "configuration of the stack's own authority for TPMs"),
    file("host", "the host's uuid"),
    secret_file("secret", "secret with its sealed value"),
    secret_file("secret_key", "key that values are sealed with"),
];

/// The moments at which a state file is written or removed. `FILE` in a text is the kind's.
pub const FILE_MOMENTS: &[(&str, &str)] = &[
    ("before_write", "FILE is to be written, and is as it was."),
    ("before_sync", "FILE is written beside its place, and may not be on the disk yet."),
    ("before_rename", "FILE is on the disk beside its place."),
    ("after_rename", "FILE is in its place; a power failure may still undo that."),
    ("after_write", "FILE is in its place for good."),
    ("before_remove", "FILE is to be removed, and is as it was."),
    ("after_remove", "FILE is removed; a power failure may still undo that."),
];

/// The moments of each call: `domain_create_with_flags.before`. `CALL` in a text is the call's name.
pub const CALL_MOMENTS: &[(&str, &str)] = &[
    ("before", "CALL has arrived, and nothing has been done for it."),
    ("after", "CALL is done, and its answer has not been sent."),
];
