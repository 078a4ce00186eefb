//! The actions on networks.

use crate::domains::read_xml;
use crate::output::Output;
use anyhow::{Context, Result};
use bulkhead::wire::error::Code;
use bulkhead::wire::types::Uuid;
use bulkhead::wire::types::network::{NetworkOverview, NetworkRef};
use bulkhead::{Connection, Networks};
use bulkhead_xml::Limits;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkAction {
    /// List networks
    List,
    /// Define a network, or give it a new definition
    Define {
        /// Its XML
        file: PathBuf,
        /// Refuse what the schema does not have
        #[arg(long)]
        validate: bool,
    },
    /// Remove a network's definition
    Undefine(NamedNetwork),
    /// Start a network
    Start(NamedNetwork),
    /// Stop a network
    Destroy(NamedNetwork),
    /// Start a network with the stack, or no longer
    Autostart {
        #[command(flatten)]
        network: NamedNetwork,
        /// No longer
        #[arg(long)]
        disable: bool,
    },
    /// Print a network's XML
    Dumpxml {
        #[command(flatten)]
        network: NamedNetwork,
        /// The definition, not what is in force
        #[arg(long)]
        inactive: bool,
    },
    /// List the addresses that a network has given out
    Leases(NamedNetwork),
    /// List what is plugged into a network
    Ports(NamedNetwork),
}

#[derive(Debug, Args)]
pub(crate) struct NamedNetwork {
    /// The network's name or uuid
    network: String,
}

/// A network by name, or by uuid.
async fn find(networks: &Networks, named: &NamedNetwork) -> Result<NetworkRef> {
    let by_name = networks.network_lookup_by_name(named.network.clone()).await;
    match (by_name, Uuid::parse(&named.network)) {
        (Ok(network), _) => Ok(network),
        (Err(_), Some(uuid)) => Ok(networks.network_lookup_by_uuid(uuid).await?),
        (Err(error), None) => Err(error.into()),
    }
}

pub(crate) async fn act(stack: &Connection, action: NetworkAction, output: &Output) -> Result<()> {
    let networks = stack.networks();
    match action {
        NetworkAction::List => list(&networks, output).await,
        NetworkAction::Define { file, validate } => {
            let network = networks.network_define_xml_flags(read_xml(&file)?, u32::from(validate)).await?;
            report(output, &network, "defined")
        }
        NetworkAction::Undefine(named) => {
            let network = find(&networks, &named).await?;
            networks.network_undefine(network.clone()).await?;
            report(output, &network, "undefined")
        }
        NetworkAction::Start(named) => {
            let network = find(&networks, &named).await?;
            networks.network_create(network.clone()).await?;
            report(output, &network, "started")
        }
        NetworkAction::Destroy(named) => {
            let network = find(&networks, &named).await?;
            networks.network_destroy(network.clone()).await?;
            report(output, &network, "stopped")
        }
        NetworkAction::Autostart { network, disable } => {
            let network = find(&networks, &network).await?;
            networks.network_set_autostart(network.clone(), i32::from(!disable)).await?;
            let done = if disable { "not started with the stack" } else { "started with the stack" };
            report(output, &network, done)
        }
        NetworkAction::Dumpxml { network, inactive } => {
            let network = find(&networks, &network).await?;
            let xml = networks.network_get_xml_desc(network, u32::from(inactive)).await?;
            if output.json { output.value(&json!({ "xml": xml })) } else { output.raw(xml.as_bytes()) }
        }
        NetworkAction::Leases(named) => leases(&networks, find(&networks, &named).await?, output).await,
        NetworkAction::Ports(named) => ports(&networks, find(&networks, &named).await?, output).await,
    }
}

/// The networks at a glance, by calls that libvirt has too.
async fn overview(networks: &Networks) -> Result<Vec<NetworkOverview>> {
    let mut all = Vec::new();
    for network in networks.connect_list_all_networks(1, 0).await?.networks {
        // It may have gone since.
        let Ok(active) = networks.network_is_active(network.clone()).await else { continue };
        let persistent = networks.network_is_persistent(network.clone()).await.is_ok_and(|is| is != 0);
        all.push(NetworkOverview { network, active: active != 0, persistent, degraded: None });
    }
    Ok(all)
}

async fn list(networks: &Networks, output: &Output) -> Result<()> {
    let all = match networks.networks_overview().await {
        Err(error) if error.code == Code::NO_SUPPORT => overview(networks).await?,
        all => all?,
    };
    if output.json {
        return output.value(&all);
    }
    let mut rows = Vec::new();
    for one in all {
        // It may have gone since, and some have none.
        let bridge = networks.network_get_bridge_name(one.network.clone()).await.unwrap_or_default();
        let state = match (&one.degraded, one.active) {
            (Some(why), true) => format!("active, but {why}"),
            (_, true) => "active".to_owned(),
            (_, false) => "inactive".to_owned(),
        };
        rows.push(vec![
            one.network.name,
            bridge,
            if one.persistent { "yes" } else { "no" }.to_owned(),
            state,
        ]);
    }
    output.table(&["Name", "Bridge", "Persistent", "State"], &rows)
}

async fn leases(networks: &Networks, network: NetworkRef, output: &Output) -> Result<()> {
    let leases = networks.network_get_dhcp_leases(network, None, 1, 0).await?.leases;
    if output.json {
        return output.value(&leases);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    let left = |expiry: i64| match expiry {
        0 => "for ever".to_owned(),
        expiry => format!("{} min", expiry.saturating_sub(now).max(0) / 60),
    };
    let rows: Vec<_> = leases
        .into_iter()
        .map(|lease| {
            vec![
                format!("{}/{}", lease.address, lease.prefix),
                lease.mac.unwrap_or_default(),
                lease.host_name.unwrap_or_default(),
                left(lease.expiry),
            ]
        })
        .collect();
    output.table(&["Address", "MAC", "Name", "Left"], &rows)
}

async fn ports(networks: &Networks, network: NetworkRef, output: &Output) -> Result<()> {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for port in networks.network_list_all_ports(network, 1, 0).await?.ports {
        let uuid = port.uuid.to_string();
        // It may have gone since.
        let Ok(xml) = networks.network_port_get_xml_desc(port, 0).await else { continue };
        let port = bulkhead_xml::parse(xml.as_bytes(), Limits::default(), "").context("a port's XML")?;
        let attribute =
            |element: &str, name: &str| port.path_attr(element, name).unwrap_or_default().to_owned();
        let owner = port.child("owner").and_then(|owner| owner.child("name"));
        let owner = owner.map(bulkhead_xml::Element::text).unwrap_or_default();
        let (mac, bridge) = (attribute("mac", "address"), attribute("plug", "bridge"));
        values.push(json!({ "uuid": &uuid, "owner": &owner, "mac": &mac, "bridge": &bridge }));
        rows.push(vec![uuid, owner, mac, bridge]);
    }
    if output.json { output.value(&values) } else { output.table(&["Port", "Owner", "MAC", "Bridge"], &rows) }
}

fn report(output: &Output, network: &NetworkRef, done: &str) -> Result<()> {
    if output.json {
        output.value(&json!({ "name": network.name, "uuid": network.uuid.to_string(), "done": done }))
    } else {
        output.line(&format!("Network '{}' {done}", network.name))
    }
}
