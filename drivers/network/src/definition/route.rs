//! Static routes.

use super::address::{self, network_of, parse, prefix_of};
use super::text::{given, owned, wrong, wrong_value};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::net::{IpAddr, Ipv4Addr};

/// A way to another network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    family: Option<String>,
    /// The network.
    pub address: IpAddr,
    netmask: Option<Ipv4Addr>,
    prefix: Option<u32>,
    /// Who knows the way.
    pub gateway: IpAddr,
    /// How far it is.
    pub metric: Option<u32>,
}

impl Route {
    pub(super) fn read(element: &Element) -> Result<Self, Error> {
        let refuse = |message: &str| Err(wrong(element, format!("<route>: {message}")));
        let family = owned(element, "family");
        let value = |name: &str, least: u32| match element.attr(name) {
            None => Ok(None),
            Some(text) => {
                let value = text.trim_start().parse::<u32>().ok().filter(|value| *value >= least);
                value.map(Some).ok_or_else(|| {
                    wrong_value(element, format!("<route {name}='{text}'> is no number from {least} on"))
                })
            }
        };
        let (prefix, metric) = (value("prefix", 0)?, value("metric", 1)?);
        let Some(address) = given(element, "address") else {
            return refuse("address is missing");
        };
        let Some(gateway) = given(element, "gateway") else {
            return refuse("gateway is missing");
        };
        let Some(address) = parse(address) else {
            return refuse("address is none");
        };
        let Some(gateway) = parse(gateway) else {
            return refuse("gateway is no address");
        };
        let mut netmask = None;
        match family.as_deref() {
            None | Some("ipv4") => {
                if !address.is_ipv4() || !gateway.is_ipv4() {
                    return refuse("address and gateway must be IPv4, or family='ipv6'");
                }
                if let Some(text) = given(element, "netmask") {
                    let Some(IpAddr::V4(mask)) = parse(text) else {
                        return refuse("netmask is none of IPv4");
                    };
                    if prefix.is_some() {
                        return refuse("it can have a prefix or a netmask, not both");
                    }
                    netmask = Some(mask);
                }
                if prefix.is_some_and(|prefix| prefix > 32) {
                    return refuse("prefix must be 0 to 32");
                }
            }
            Some("ipv6") => {
                if !address.is_ipv6() || !gateway.is_ipv6() {
                    return refuse("address and gateway must be IPv6 with family='ipv6'");
                }
                if given(element, "netmask").is_some() {
                    return refuse("IPv6 has no netmask; give a prefix");
                }
                if prefix.is_some_and(|prefix| prefix > 128) {
                    return refuse("prefix must be 0 to 128");
                }
            }
            Some(_) => return refuse("family must be 'ipv4' or 'ipv6'"),
        }
        let base = match (netmask, address) {
            (Some(mask), IpAddr::V4(address)) => {
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask.to_bits()))
            }
            _ => network_of(address, u8::try_from(prefix.unwrap_or(0)).unwrap_or(u8::MAX)),
        };
        if base != address {
            return refuse(&format!("{address} is not the address of a network, that would be {base}"));
        }
        Ok(Self { family, address, netmask, prefix, gateway, metric })
    }

    /// Its prefix; nothing for a mask with holes.
    #[must_use]
    pub fn prefix_bits(&self) -> Option<u8> {
        if let Some(prefix) = self.prefix.filter(|prefix| *prefix > 0) {
            return u8::try_from(prefix).ok();
        }
        if let Some(mask) = self.netmask {
            return prefix_of(mask);
        }
        match self.prefix {
            Some(_) => Some(0),
            // The way to everywhere, unless it says otherwise.
            None if self.address.is_unspecified() => Some(0),
            None => address::prefix_by_class(self.address),
        }
    }

    pub(super) fn to_element(&self) -> Element {
        let mut element = Element::new("route");
        if let Some(family) = &self.family {
            element.set("family", family);
        }
        element.set("address", address::text(self.address));
        if let Some(mask) = self.netmask {
            element.set("netmask", mask.to_string());
        }
        if let Some(prefix) = self.prefix {
            element.set("prefix", prefix.to_string());
        }
        element.set("gateway", address::text(self.gateway));
        if let Some(metric) = self.metric {
            element.set("metric", metric.to_string());
        }
        element
    }
}
