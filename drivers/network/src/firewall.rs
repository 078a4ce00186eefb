//! What passes between a network and others, as rules. Pure.
//!
//! A network's rules stand in a table of its own, named after its bridge, which no other stack on the host can have: it is made,
//! replaced and removed in one piece, and what else is on the host is not touched. A packet passes if no table keeps it.

use crate::definition::address::network_of;
use crate::definition::forward::Mode;
use crate::definition::ip::Ip;
use crate::definition::{Definition, forward::Nat};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Ports that guests are seen under unless others are named: who trusts those below trusts the host's owner.
const PORTS: (u16, u16) = (1024, 65_535);
/// What stays in the network: it is not for others, and strict clients know the answer by its port.
const LOCAL_V4: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(224, 0, 0, 0), 24), (Ipv4Addr::BROADCAST, 32)];
const LOCAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16);

/// What a packet is like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Match {
    /// It comes in over this interface, or does not.
    In(String, bool),
    /// It goes out over this interface, or does not.
    Out(String, bool),
    /// It is one of IPv4, or of IPv6.
    Ipv4(bool),
    /// Of this protocol.
    Protocol(u8),
    /// Its source is in this network.
    Source(IpAddr, u8),
    /// Its destination is in this network, or not.
    Destination(IpAddr, u8, bool),
    /// It belongs to a connection that is known.
    Answers,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Then {
    Accept,
    Reject,
    /// No further rule of the chain is asked.
    Return,
    /// It is seen under the address of the interface that it goes out over.
    Masquerade {
        /// And these ports.
        ports: Option<(u16, u16)>,
    },
    /// It is seen under one of these addresses.
    Source {
        /// The first and the last.
        addresses: (Ipv4Addr, Ipv4Addr),
        /// And these ports.
        ports: Option<(u16, u16)>,
    },
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) counted: bool,
    pub(crate) then: Then,
}

/// When a chain is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    /// For what is passed on.
    Forward,
    /// For the source of what goes out, once a connection.
    Source,
}

/// Rules in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) hook: Hook,
    pub(crate) rules: Vec<Rule>,
}

/// All rules of a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) chains: Vec<Chain>,
}

impl Table {
    /// The table for a bridge, with nothing in it.
    pub(crate) fn empty(bridge: &str) -> Self {
        Self { name: format!("bulkhead_{bridge}"), chains: Vec::new() }
    }

    /// What tells this table from another one of the same name.
    pub(crate) fn note(&self) -> [u8; 8] {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish().to_be_bytes()
    }

    /// The rules of a network.
    pub(crate) fn of(definition: &Definition, bridge: &str) -> Self {
        let mut table = Self::empty(bridge);
        let mode = definition.forward.mode;
        if !matches!(mode, Mode::None | Mode::Nat | Mode::Route) {
            return table;
        }
        let (to, from) = (Match::Out(bridge.to_owned(), true), Match::In(bridge.to_owned(), true));
        let mut forward = Rules::default();
        // What does not concern this network is let go first.
        let elsewhere = [Match::In(bridge.to_owned(), false), Match::Out(bridge.to_owned(), false)];
        forward.uncounted(elsewhere, Then::Accept);
        if !definition.ipv6 && !definition.ips.iter().any(|ip| ip.address.is_ipv6()) {
            forward.uncounted([Match::Ipv4(false)], Then::Accept);
        }
        forward.add([from.clone(), to.clone()], Then::Accept);
        let mut source = Rules::default();
        let device = definition.forward.interface();
        let networks = definition.ips.iter().filter_map(|ip| {
            let prefix = ip.prefix_bits()?;
            Some((ip, network_of(ip.address, prefix), prefix))
        });
        let networks: Vec<_> = networks.filter(|_| mode != Mode::None).collect();
        for (ip, network, prefix) in &networks {
            let family = Match::Ipv4(network.is_ipv4());
            let mut matches = vec![family, to.clone(), Match::Destination(*network, *prefix, true)];
            matches.extend(device.map(|device| Match::In(device.to_owned(), true)));
            if is_translated(definition, ip) {
                matches.push(Match::Answers);
            }
            forward.add(matches, Then::Accept);
        }
        forward.add([to], Then::Reject);
        for (ip, network, prefix) in &networks {
            let family = Match::Ipv4(network.is_ipv4());
            let mut matches = vec![family, from.clone(), Match::Source(*network, *prefix)];
            matches.extend(device.map(|device| Match::Out(device.to_owned(), true)));
            forward.add(matches, Then::Accept);
            if is_translated(definition, ip) {
                source.translate(&definition.forward.nat, *network, *prefix, device);
            }
        }
        forward.add([from], Then::Reject);
        table.chains.push(Chain { name: "forward".to_owned(), hook: Hook::Forward, rules: forward.0 });
        if !source.0.is_empty() {
            table.chains.push(Chain { name: "source".to_owned(), hook: Hook::Source, rules: source.0 });
        }
        table
    }
}

fn is_translated(definition: &Definition, ip: &Ip) -> bool {
    let Nat { ipv6, .. } = definition.forward.nat;
    definition.forward.mode == Mode::Nat && (ip.address.is_ipv4() || ipv6 == Some(true))
}

#[derive(Default)]
struct Rules(Vec<Rule>);

impl Rules {
    fn add(&mut self, matches: impl Into<Vec<Match>>, then: Then) {
        self.0.push(Rule { matches: matches.into(), counted: true, then });
    }

    fn uncounted(&mut self, matches: impl Into<Vec<Match>>, then: Then) {
        self.0.push(Rule { matches: matches.into(), counted: false, then });
    }

    fn translate(&mut self, nat: &Nat, network: IpAddr, prefix: u8, device: Option<&str>) {
        let mut base = vec![Match::Ipv4(network.is_ipv4()), Match::Source(network, prefix)];
        base.extend(device.map(|device| Match::Out(device.to_owned(), true)));
        let with = |more: &[Match]| [base.as_slice(), more].concat();
        let local: Vec<(IpAddr, u8)> = match network {
            IpAddr::V4(_) => LOCAL_V4.iter().map(|(address, prefix)| ((*address).into(), *prefix)).collect(),
            IpAddr::V6(_) => vec![(LOCAL_V6.0.into(), LOCAL_V6.1)],
        };
        for (address, prefix) in local {
            self.add(with(&[Match::Destination(address, prefix, true)]), Then::Return);
        }
        let outside = Match::Destination(network, prefix, false);
        let ports = if nat.ports == (0, 0) { PORTS } else { nat.ports };
        for (protocol, ports) in [(Some(TCP), Some(ports)), (Some(UDP), Some(ports)), (None, None)] {
            let mut more = vec![outside.clone()];
            more.extend(protocol.map(Match::Protocol));
            let then = match nat.addresses.filter(|_| network.is_ipv4()) {
                Some(addresses) => Then::Source { addresses, ports },
                None => Then::Masquerade { ports },
            };
            self.add(with(&more), then);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::types::Uuid;

    fn table(forward: &str, ips: &str) -> Table {
        let xml = format!("<network><name>n</name>{forward}<bridge name='br'/>{ips}</network>");
        Table::of(&Definition::read(&xml, false, Uuid::default).unwrap(), "br")
    }

    fn ends(chain: &Chain) -> Vec<&Then> {
        chain.rules.iter().map(|rule| &rule.then).collect()
    }

    #[test]
    fn each_mode_has_its_rules() {
        const IP: &str = "<ip address='10.1.2.1' prefix='24'/>";
        let none = table("", IP);
        // Others, IPv6 which is off, within; nothing in, nothing out.
        let [chain] = none.chains.as_slice() else { panic!("{none:?}") };
        assert_eq!(ends(chain), [&Then::Accept, &Then::Accept, &Then::Accept, &Then::Reject, &Then::Reject]);
        let route = table("<forward mode='route'/>", IP);
        let [chain] = route.chains.as_slice() else { panic!("{route:?}") };
        let accepted = ends(chain).iter().filter(|then| ***then == Then::Accept).count();
        assert_eq!((chain.rules.len(), accepted), (7, 5));
        assert!(!chain.rules.iter().any(|rule| rule.matches.contains(&Match::Answers)));
        let nat = table("<forward mode='nat' dev='eth0'/>", IP);
        let [chain, source] = nat.chains.as_slice() else { panic!("{nat:?}") };
        assert!(chain.rules.iter().any(|rule| rule.matches.contains(&Match::Answers)));
        assert_eq!(source.rules.len(), 5);
        assert!(source.rules.iter().all(|rule| rule.matches.contains(&Match::Out("eth0".to_owned(), true))));
        assert!(ends(source).contains(&&Then::Masquerade { ports: Some(PORTS) }));
        assert!(table("<forward mode='open'/>", IP).chains.is_empty());
    }

    #[test]
    fn ipv6_is_translated_on_demand_alone() {
        const IPS: &str =
            "<ip address='10.1.2.1' prefix='24'/><ip family='ipv6' address='fd00::1' prefix='64'/>";
        let plain = table("<forward/>", IPS);
        let both = table("<forward><nat ipv6='yes'/></forward>", IPS);
        assert_eq!(plain.chains[1].rules.len(), 5);
        assert_eq!(both.chains[1].rules.len(), 9);
        assert_ne!(plain.note(), both.note());
    }

    #[test]
    fn addresses_and_ports_that_are_named_are_used() {
        let xml = "<forward><nat><address start='1.2.3.4' end='1.2.3.9'/><port start='2000' end='3000'/></nat></forward>";
        let table = table(xml, "<ip address='10.1.2.1' prefix='24'/>");
        let addresses = (Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(1, 2, 3, 9));
        let then = Then::Source { addresses, ports: Some((2000, 3000)) };
        assert!(ends(&table.chains[1]).contains(&&then));
    }
}
