//! Rules for packets: a table of our own for each network, made, replaced and removed in one piece.

use super::{ACKNOWLEDGED, APPEND, CREATE, Conversation, LIST, Message, attributes, text_of};
use crate::firewall::{Chain, Hook, Match, Rule, Table, Then};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// `NFNL_SUBSYS_NFTABLES`, as it stands in front of a message's number, and where a batch names it.
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `nfgenmsg`'s bytes.
const HEAD_BYTES: usize = 4;
/// `NFTA_TABLE_USERDATA`.
const TABLE_NOTE: u16 = 6;
/// Registers of sixteen bytes.
const FIRST: u32 = 1;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
/// Bytes of an interface's name.
const NAME_BYTES: usize = 16;
/// Where addresses stand in the headers of IPv4 and IPv6: source, destination.
const PLACES_V4: [u32; 2] = [12, 16];
const PLACES_V6: [u32; 2] = [8, 24];

fn head(family: u8, resource: u16) -> [u8; HEAD_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn request(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags | ACKNOWLEDGED, &head(INET, 0))
}

impl Conversation {
    /// Replaces a table, whether it is there or not, by this one; with no chains, it is gone.
    pub(crate) fn set_table(&mut self, table: &Table) -> io::Result<()> {
        let named = |kind: u16, flags: u16| {
            let mut message = request(kind, flags);
            message.text(1, &table.name);
            message
        };
        // One that is not there can't be removed; one that is there can be made.
        let mut messages = vec![named(NEW_TABLE, CREATE), named(DELETE_TABLE, 0)];
        if !table.chains.is_empty() {
            let mut made = named(NEW_TABLE, CREATE);
            made.attribute(TABLE_NOTE, &table.note());
            messages.push(made);
        }
        for chain in &table.chains {
            messages.push(new_chain(&table.name, chain));
            messages.extend(chain.rules.iter().map(|rule| new_rule(&table.name, &chain.name, rule)));
        }
        let frame = |kind| Message::new(kind, 0, &head(0, SUBSYSTEM >> 8));
        self.batch(frame(BATCH_BEGIN), messages, frame(BATCH_END))
    }

    /// All tables, by their names, each with the note that stands at it.
    pub(crate) fn tables(&mut self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        let bodies = self.list(Message::new(GET_TABLE, LIST, &head(INET, 0)))?;
        let named = bodies.iter().filter_map(|body| {
            let (mut name, mut note) = (None, Vec::new());
            for (kind, value) in attributes(body.get(HEAD_BYTES..)?) {
                match kind {
                    1 => name = Some(text_of(value)),
                    TABLE_NOTE => note = value.to_vec(),
                    _ => {}
                }
            }
            Some((name?, note))
        });
        Ok(named.collect())
    }
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    /// `NF_INET_FORWARD`, `NF_INET_POST_ROUTING`.
    const FORWARD: u32 = 2;
    const POST_ROUTING: u32 = 4;
    const ACCEPT: u32 = 1;
    let (number, priority, kind) = match chain.hook {
        Hook::Forward => (FORWARD, 0_u32, "filter"),
        Hook::Source => (POST_ROUTING, 100, "nat"),
    };
    let mut message = request(NEW_CHAIN, CREATE);
    message.text(1, table);
    message.text(3, &chain.name);
    let mut hook = Message::inner();
    hook.attribute(1, &number.to_be_bytes());
    hook.attribute(2, &priority.to_be_bytes());
    message.nested(4, &hook);
    message.attribute(5, &ACCEPT.to_be_bytes());
    message.text(7, kind);
    message
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    let mut message = request(NEW_RULE, CREATE | APPEND);
    message.text(1, table);
    message.text(2, chain);
    let mut list = Expressions(Message::inner());
    rule.matches.iter().for_each(|one| list.condition(one));
    if rule.counted {
        list.add("counter", &[]);
    }
    list.then(&rule.then);
    message.nested(4, &list.0);
    message
}

/// The expressions of a rule.
struct Expressions(Message);

/// An attribute of an expression: its number, and a value or others.
enum Attribute<'a> {
    Number(u16, u32),
    Value(u16, &'a [u8]),
    Byte(u16, u8),
}

impl Expressions {
    fn add(&mut self, name: &str, attributes: &[Attribute<'_>]) {
        let mut data = Message::inner();
        for attribute in attributes {
            match attribute {
                Attribute::Number(kind, number) => data.attribute(*kind, &number.to_be_bytes()),
                Attribute::Byte(kind, byte) => data.attribute(*kind, &[*byte]),
                Attribute::Value(kind, value) => {
                    let mut inner = Message::inner();
                    inner.attribute(VALUE, value);
                    data.nested(*kind, &inner);
                }
            }
        }
        let mut expression = Message::inner();
        expression.text(1, name);
        expression.nested(2, &data);
        // NFTA_LIST_ELEM.
        self.0.nested(1, &expression);
    }

    fn load_meta(&mut self, key: u32) {
        self.add("meta", &[Attribute::Number(1, FIRST), Attribute::Number(2, key)]);
    }

    /// Compares the first register.
    fn compare(&mut self, equal: bool, value: &[u8]) {
        let operator = u32::from(!equal);
        let attributes =
            [Attribute::Number(1, FIRST), Attribute::Number(2, operator), Attribute::Value(3, value)];
        self.add("cmp", &attributes);
    }

    fn mask(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        let zero = vec![0; mask.len()];
        let attributes = [
            Attribute::Number(1, FIRST),
            Attribute::Number(2, FIRST),
            Attribute::Number(3, length),
            Attribute::Value(4, mask),
            Attribute::Value(5, &zero),
        ];
        self.add("bitwise", &attributes);
    }

    fn condition(&mut self, one: &Match) {
        /// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`, `NFT_META_NFPROTO`, `NFT_META_L4PROTO`.
        const IN: u32 = 6;
        const OUT: u32 = 7;
        const FAMILY: u32 = 15;
        const PROTOCOL: u32 = 16;
        match one {
            Match::In(name, equal) => {
                self.load_meta(IN);
                self.compare(*equal, &interface(name));
            }
            Match::Out(name, equal) => {
                self.load_meta(OUT);
                self.compare(*equal, &interface(name));
            }
            Match::Ipv4(yes) => {
                /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
                const IPV4: u8 = 2;
                const IPV6: u8 = 10;
                self.load_meta(FAMILY);
                self.compare(true, &[if *yes { IPV4 } else { IPV6 }]);
            }
            Match::Protocol(number) => {
                self.load_meta(PROTOCOL);
                self.compare(true, &[*number]);
            }
            Match::Source(network, prefix) => self.address(0, *network, *prefix, true),
            Match::Destination(network, prefix, equal) => self.address(1, *network, *prefix, *equal),
            Match::Answers => {
                // `NF_CT_STATE_BIT` of established and related.
                const ANSWERS: u32 = 2 | 4;
                // NFT_CT_STATE.
                self.add("ct", &[Attribute::Number(1, FIRST), Attribute::Number(2, 0)]);
                self.mask(&ANSWERS.to_ne_bytes());
                self.compare(false, &[0; 4]);
            }
        }
    }

    fn address(&mut self, place: usize, network: IpAddr, prefix: u8, equal: bool) {
        /// `NFT_PAYLOAD_NETWORK_HEADER`.
        const NETWORK_HEADER: u32 = 1;
        let (places, bytes) = match network {
            IpAddr::V4(address) => (PLACES_V4, address.octets().to_vec()),
            IpAddr::V6(address) => (PLACES_V6, address.octets().to_vec()),
        };
        let offset = places.get(place).copied().unwrap_or_default();
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        self.add(
            "payload",
            &[
                Attribute::Number(1, FIRST),
                Attribute::Number(2, NETWORK_HEADER),
                Attribute::Number(3, offset),
                Attribute::Number(4, length),
            ],
        );
        let mask: Vec<u8> = (0..bytes.len())
            .map(|index| {
                let kept = usize::from(prefix).saturating_sub(8 * index).min(8);
                u8::MAX.checked_shl(8 - u32::try_from(kept).unwrap_or_default()).unwrap_or(0)
            })
            .collect();
        if mask.iter().any(|byte| *byte != u8::MAX) {
            self.mask(&mask);
        }
        self.compare(equal, &bytes);
    }

    fn verdict(&mut self, code: u32) {
        let mut verdict = Message::inner();
        verdict.attribute(1, &code.to_be_bytes());
        let mut value = Message::inner();
        value.nested(VERDICT, &verdict);
        let mut data = Message::inner();
        data.attribute(1, &0_u32.to_be_bytes());
        data.nested(2, &value);
        let mut expression = Message::inner();
        expression.text(1, "immediate");
        expression.nested(2, &data);
        self.0.nested(1, &expression);
    }

    fn load(&mut self, register: u32, value: &[u8]) {
        self.add("immediate", &[Attribute::Number(1, register), Attribute::Value(2, value)]);
    }

    fn then(&mut self, then: &Then) {
        const ACCEPT: u32 = 1;
        /// `NFT_RETURN`.
        const RETURN: u32 = (-5_i32).cast_unsigned();
        /// `NFT_REJECT_ICMPX_UNREACH`, and that the port is what can't be reached.
        const UNREACHABLE: u32 = 2;
        const PORT: u8 = 1;
        match then {
            Then::Accept => self.verdict(ACCEPT),
            Then::Return => self.verdict(RETURN),
            Then::Reject => {
                self.add("reject", &[Attribute::Number(1, UNREACHABLE), Attribute::Byte(2, PORT)]);
            }
            Then::Masquerade { ports } => {
                let mut attributes = Vec::new();
                if let Some((low, high)) = ports {
                    self.load(1, &low.to_be_bytes());
                    self.load(2, &high.to_be_bytes());
                    attributes.extend([Attribute::Number(2, 1), Attribute::Number(3, 2)]);
                }
                self.add("masq", &attributes);
            }
            Then::Source { addresses: (low, high), ports } => {
                const IPV4: u32 = 2;
                self.load(1, &low.octets());
                self.load(2, &high.octets());
                // NFT_NAT_SNAT, and the registers.
                let mut attributes = vec![
                    Attribute::Number(1, 0),
                    Attribute::Number(2, IPV4),
                    Attribute::Number(3, 1),
                    Attribute::Number(4, 2),
                ];
                if let Some((low, high)) = ports {
                    self.load(3, &low.to_be_bytes());
                    self.load(4, &high.to_be_bytes());
                    attributes.extend([Attribute::Number(5, 3), Attribute::Number(6, 4)]);
                }
                self.add("nat", &attributes);
            }
        }
    }
}

/// A name as the kernel keeps it.
fn interface(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    bytes
}
