//! The command line.

use crate::networks::NetworkAction;
use crate::secrets::SecretAction;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs and watches virtual machines in compartments.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, arg_required_else_help = true)]
pub(crate) struct Options {
    /// Which stack: qemu:///system or qemu:///session, also of libvirt's own daemon, or qemu:///embed?root=DIR
    #[arg(short, long, global = true, env = "BULKHEAD_URI", value_name = "URI")]
    pub(crate) connect: Option<String>,
    /// The root of a private stack; the same as -c qemu:///embed?root=DIR
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "connect")]
    pub(crate) root: Option<PathBuf>,
    /// Folder of the drivers' programs
    #[arg(long, global = true, env = "BULKHEAD_LIBEXEC", value_name = "DIR", hide = true)]
    pub(crate) libexec: Option<PathBuf>,
    /// Answers for programs, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Run a guest with its console attached; it ends with this command (Ctrl-] leaves)
    Run {
        /// Its domain XML
        file: PathBuf,
        /// Do not attach the console; wait for the guest's end
        #[arg(long)]
        no_console: bool,
    },
    /// Define a domain, or give it a new definition
    Define {
        /// Its domain XML
        file: PathBuf,
    },
    /// Remove a domain's definition
    Undefine {
        #[command(flatten)]
        domain: Named,
        /// Remove a stored state with it
        #[arg(long)]
        managed_save: bool,
        /// Remove its firmware variables with it
        #[arg(long, conflicts_with = "keep_nvram")]
        nvram: bool,
        /// Keep its firmware variables
        #[arg(long)]
        keep_nvram: bool,
    },
    /// List domains
    List {
        /// Those too that do not run
        #[arg(long)]
        all: bool,
    },
    /// Start a domain
    Start {
        #[command(flatten)]
        domain: Named,
        /// Leave its CPUs stopped
        #[arg(long)]
        paused: bool,
        /// End it when this stack's owner ends
        #[arg(long)]
        autodestroy: bool,
        /// Boot, and drop a state that is stored
        #[arg(long)]
        force_boot: bool,
    },
    /// Store a guest's state and end it; its next start goes on from there. Ctrl-C lets it run on
    Save {
        #[command(flatten)]
        domain: Named,
        /// Run its CPUs after the next start, whatever they do now
        #[arg(long, conflicts_with = "paused")]
        running: bool,
        /// Leave its CPUs stopped after the next start
        #[arg(long)]
        paused: bool,
    },
    /// Remove a stored state: the next start boots
    SaveRemove(Named),
    /// Ask a guest to shut down
    Shutdown {
        #[command(flatten)]
        domain: Named,
        #[command(flatten)]
        how: How,
    },
    /// Ask a guest to shut down and start again
    Reboot {
        #[command(flatten)]
        domain: Named,
        #[command(flatten)]
        how: How,
    },
    /// Reset a guest's hardware
    Reset(Named),
    /// End a guest at once
    Destroy(Named),
    /// Stop a guest's CPUs
    Suspend(Named),
    /// Let a guest's CPUs run
    Resume(Named),
    /// Print a domain's XML
    Dumpxml {
        #[command(flatten)]
        domain: Named,
        /// The definition, not the guest that runs
        #[arg(long)]
        inactive: bool,
        /// With its secrets
        #[arg(long)]
        secure: bool,
    },
    /// Attach to a guest's console (Ctrl-] leaves)
    Console {
        #[command(flatten)]
        domain: Named,
        /// The alias of another device than the first console
        #[arg(long)]
        device: Option<String>,
    },
    /// Take a picture of a guest's screen
    Screenshot {
        #[command(flatten)]
        domain: Named,
        /// Where to put it
        file: PathBuf,
        /// Which screen
        #[arg(long, default_value_t = 0)]
        screen: u32,
    },
    /// Print events as they come
    Events {
        /// Stop after so many
        #[arg(long)]
        count: Option<u64>,
    },
    /// Start a domain with the stack, or no longer
    Autostart {
        #[command(flatten)]
        domain: Named,
        /// No longer
        #[arg(long)]
        disable: bool,
    },
    /// Print the QEMU command line of a domain XML
    Argv {
        /// The domain XML
        file: PathBuf,
    },
    /// Networks, their leases and ports
    Net {
        #[command(subcommand)]
        action: NetworkAction,
    },
    #[command(flatten)]
    Secret(SecretAction),
    /// Show drivers, helpers and what each object is busy with
    Status,
    /// Take a driver out of service
    Hold(DriverName),
    /// Bring a driver back
    Release(DriverName),
    /// Check what this machine has
    Doctor,
    /// Keep a private stack open for a command and all libvirt programs below it (or, without one, until end of input)
    Embed {
        /// Let guests that run live on when the command has ended
        #[arg(long)]
        keep: bool,
        /// Open nothing now: write a program that takes a libvirt connection on its standard input and output and opens the
        /// stack for it, so that the URI qemu+ext:///session?command=FILE reaches it
        #[arg(long, value_name = "FILE", conflicts_with_all = ["keep", "command"])]
        make_command: Option<PathBuf>,
        /// The command and its arguments
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Take over what this host's libvirt knows: domains with their state, networks, pools and secrets. Says what is left and why;
    /// changes nothing there
    Import {
        /// Another folder than / that has etc/libvirt and var/lib/libvirt in it; by default of a session, this user's own
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Say what would be taken, and take nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a libvirt connection to a private stack on standard input and output; opens the stack if nobody has
    Connect,
    /// Keep a private stack open while somebody is connected to it or a guest runs
    #[command(hide = true)]
    Keep {
        /// Seconds without either after which it ends
        #[arg(long, default_value_t = 30)]
        idle: u64,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    Manuals {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The domain's name or uuid
    pub(crate) domain: String,
}

#[derive(Debug, Args)]
pub(crate) struct DriverName {
    /// qemu, network, log, ...
    pub(crate) driver: String,
}

#[derive(Debug, Args)]
pub(crate) struct How {
    /// Through the guest agent instead of the power button
    #[arg(long)]
    pub(crate) agent: bool,
}
