//! What a network's name service knows.

use super::address::{self, parse};
use super::text::{number, plain_text, word, wrong, wrong_detail, yes_no};
use bulkhead_wire::error::Error;
use bulkhead_xml::Element;
use std::net::IpAddr;

/// Longest name of a service, in bytes.
const SERVICE_BYTES: usize = 512;

/// A server that is asked, or a domain that none is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarder {
    /// For these names alone.
    pub domain: Option<String>,
    /// The server.
    pub address: Option<IpAddr>,
}

/// An address with its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    /// The address; what is deleted may name none.
    pub address: Option<IpAddr>,
    /// The names.
    pub names: Vec<String>,
}

/// Where a service is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub service: Option<String>,
    /// Its protocol.
    pub protocol: Option<String>,
    /// The domain that has it.
    pub domain: Option<String>,
    /// The host.
    pub target: Option<String>,
    /// Port, priority and weight; 0 is none.
    pub numbers: [u32; 3],
}

/// A text under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The name.
    pub name: String,
    /// The text; what is deleted may have none.
    pub value: Option<String>,
}

/// The name service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Is there one?
    pub enable: Option<bool>,
    /// Are names without a dot asked for elsewhere?
    pub forward_plain_names: Option<bool>,
    /// Whom it asks.
    pub forwarders: Vec<Forwarder>,
    /// Texts.
    pub texts: Vec<Text>,
    /// Services.
    pub services: Vec<Service>,
    /// Hosts.
    pub hosts: Vec<DnsHost>,
}

impl Dns {
    pub(super) fn read(element: &Element) -> Result<Self, Error> {
        let mut dns = Self {
            enable: yes_no(element, "enable")?,
            forward_plain_names: yes_no(element, "forwardPlainNames")?,
            ..Self::default()
        };
        for forwarder in element.all("forwarder") {
            let address = match forwarder.attr("addr") {
                None => None,
                Some(text) => Some(parse(text).ok_or_else(|| {
                    wrong(forwarder, format!("<forwarder addr='{text}'> is no address; write it in numbers"))
                })?),
            };
            let domain = forwarder.attr("domain").map(str::to_owned);
            if address.is_none() && domain.is_none() {
                return Err(wrong(forwarder, "<forwarder> has neither addr nor domain"));
            }
            dns.forwarders.push(Forwarder { domain, address });
        }
        for host in element.all("host") {
            dns.hosts.push(DnsHost::read(host, false)?);
        }
        for service in element.all("srv") {
            dns.services.push(Service::read(service, false)?);
        }
        for text in element.all("txt") {
            dns.texts.push(Text::read(text, false)?);
        }
        if dns.enable == Some(false) && dns.has_records() {
            return Err(wrong(
                element,
                "<dns enable='no'> has records, which nobody would serve; remove them",
            ));
        }
        Ok(dns)
    }

    fn has_records(&self) -> bool {
        !(self.forwarders.is_empty()
            && self.hosts.is_empty()
            && self.services.is_empty()
            && self.texts.is_empty())
    }

    pub(super) fn to_element(&self) -> Option<Element> {
        if self.enable.is_none() && self.forward_plain_names.is_none() && !self.has_records() {
            return None;
        }
        let mut element = Element::new("dns");
        for (name, choice) in [("enable", self.enable), ("forwardPlainNames", self.forward_plain_names)] {
            if let Some(yes) = choice {
                element.set(name, word(yes));
            }
        }
        for forwarder in &self.forwarders {
            let mut child = Element::new("forwarder");
            if let Some(domain) = &forwarder.domain {
                child.set("domain", domain);
            }
            if let Some(address) = forwarder.address {
                child.set("addr", address::text(address));
            }
            element.push(child);
        }
        for text in &self.texts {
            element.push(
                Element::new("txt")
                    .with("name", &text.name)
                    .with("value", text.value.as_deref().unwrap_or_default()),
            );
        }
        self.services.iter().for_each(|service| element.push(service.to_element()));
        for host in &self.hosts {
            let mut child = Element::new("host");
            if let Some(address) = host.address {
                child.set("ip", address::text(address));
            }
            for name in &host.names {
                child.push(Element::new("hostname").with_text(name));
            }
            element.push(child);
        }
        Some(element)
    }
}

impl DnsHost {
    /// Reads `<host>`; what only names what is to be deleted may lack something.
    pub(super) fn read(element: &Element, partial: bool) -> Result<Self, Error> {
        let address = match element.attr("ip") {
            None if partial => None,
            None => return Err(wrong_detail(element, "<host> of <dns> has no ip")),
            Some(text) => Some(parse(text).ok_or_else(|| {
                wrong_detail(
                    element,
                    format!("<host ip='{text}'> of <dns> is no address; write it in numbers"),
                )
            })?),
        };
        let mut names = Vec::new();
        for name in element.all("hostname").filter(|name| !name.children.is_empty()) {
            names.push(plain_text(name)?);
        }
        if names.is_empty() && (!partial || address.is_none()) {
            return Err(wrong_detail(element, "<host> of <dns> has no <hostname>"));
        }
        Ok(Self { address, names })
    }
}

impl Service {
    /// Reads `<srv>`; what only names what is to be deleted may lack something.
    pub(super) fn read(element: &Element, partial: bool) -> Result<Self, Error> {
        let refuse = |message: String| Err(wrong_detail(element, format!("<srv>: {message}")));
        let text = |name: &str| element.attr(name).map(str::to_owned);
        let (service, protocol) = (text("service"), text("protocol"));
        let strange = |text: &str, allowed: &str| {
            text.chars().any(|letter| !letter.is_ascii_alphanumeric() && !allowed.contains(letter))
        };
        match &service {
            None if !partial => return refuse("service is missing".to_owned()),
            Some(name) if name.len() > SERVICE_BYTES => {
                return refuse(format!("service is longer than {SERVICE_BYTES} bytes"));
            }
            Some(name) if strange(name, "_-+/*") => {
                return refuse(format!("service='{name}': letters, digits and _-+/* can stand in it"));
            }
            _ => {}
        }
        match &protocol {
            None if !partial => return refuse("protocol is missing; try 'tcp'".to_owned()),
            Some(name) if strange(name, "-+/") => {
                return refuse(format!("protocol='{name}': letters, digits and -+/ can stand in it"));
            }
            _ => {}
        }
        let target = text("target");
        let mut numbers = [0; 3];
        for (place, (name, least)) in numbers.iter_mut().zip([("port", 1), ("priority", 0), ("weight", 0)]) {
            match number::<u32>(element, name) {
                Ok(None) => {}
                Ok(Some(_)) if target.is_none() => {
                    return refuse(format!("{name} is of no use without target"));
                }
                Ok(Some(value)) if (least..=65_535).contains(&value) => *place = value,
                _ => return refuse(format!("{name} is no number from {least} to 65535")),
            }
        }
        Ok(Self { service, protocol, domain: text("domain"), target, numbers })
    }

    fn to_element(&self) -> Element {
        let mut element = Element::new("srv");
        let texts = [
            ("service", &self.service),
            ("protocol", &self.protocol),
            ("domain", &self.domain),
            ("target", &self.target),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                element.set(name, text);
            }
        }
        for (name, number) in ["port", "priority", "weight"].iter().zip(self.numbers) {
            if number > 0 {
                element.set(name, number.to_string());
            }
        }
        element
    }
}

impl Text {
    /// Reads `<txt>`; what only names what is to be deleted may lack its value.
    pub(super) fn read(element: &Element, partial: bool) -> Result<Self, Error> {
        let name = element.attr("name").ok_or_else(|| wrong_detail(element, "<txt> has no name"))?;
        if name.contains([' ', ',']) {
            return Err(wrong_detail(element, format!("<txt name='{name}'>: leave out blanks and commas")));
        }
        let value = element.attr("value").map(str::to_owned);
        if value.is_none() && !partial {
            return Err(wrong_detail(element, format!("<txt name='{name}'> has no value")));
        }
        Ok(Self { name: name.to_owned(), value })
    }
}
